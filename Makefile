# Two commands on a fresh machine: `make demo` and `make test`. Both create .venv and install into it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := reports/local/demo
SHARED ?= $(or $(KVPLAN_SHARED),../shared)
TABLES := $(SHARED)/data/latency/kernel_tables
FUZZ_EXAMPLES ?= 20000
GPU_OUTPUT ?= reports/local/gpu/measurements.json

# Left to pip on its own, a plain `torch` would bring several GB of CUDA packages: the version is pinned.
TORCH  := torch==2.13.0
TRITON := triton==3.9.0

# Two test workers on two cores: more threads inside each only get in each other's way. In the order of their names
# files end together; left to itself, xdist keeps those of few tests, some of which take longest, for last.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint fuzz ptx bench accuracy gpu clean

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kvplan needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-base: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/python -m compileall -q kvplan
	@touch $@

$(VENV)/.installed-test: pyproject.toml tests/constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint tests/constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint tests/constraints.txt --editable '.[test,parquet]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(TRITON)
	@$(BIN)/python -m compileall -q kvplan
	@touch $@ $(VENV)/.installed-base

$(VENV)/.installed-lint: pyproject.toml tests/constraints.txt | $(VENV)/.installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint tests/constraints.txt --editable '.[lint]'
	@touch $@

demo: $(VENV)/.installed-base ## size, fit and simulate a bundled workload; writes reports/local/demo/report.html
	@mkdir -p $(DEMO)
	$(BIN)/kvplan size llama-3.1-70b --ctx 32k --dtype fp8
	@echo
	$(BIN)/kvplan fit llama-3.1-8b --gpu h100-sxm --ctx 32k
	@echo
	$(BIN)/kvplan simulate --model llama-3.1-8b --gpu h100-sxm --synthesize chat --limit 3000 --rate 8 \
	  --set slo.ttft_p99_s=1 --set slo.tpot_p99_s=0.05 \
	  --output $(DEMO)/result.json --html $(DEMO)/report.html
	@echo
	@echo "The report: $(DEMO)/report.html (one file, opens offline)"

test: $(VENV)/.installed-test ## install the test extras and run the whole suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-lint ## formatting, lint, types and the floors between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fuzz: $(VENV)/.installed-test ## fast engine against reference on 20,000 random workloads
	KVPLAN_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -q tests/laws tests/engine/test_closed_loops.py \
	  tests/engine/test_time_outs.py -k equals_reference

ptx: $(VENV)/.installed-test ## what is compiled for A100 and H100, run on the CPU: every check of the GPU script
	$(BIN)/python -m tests.kernels.ptx.run

bench: $(VENV)/.installed-test ## CPU seconds and memory of the engines; writes reports/engine-speed/
	$(BIN)/python tests/benchmarks/engine_speed.py --write reports/engine-speed

accuracy: $(VENV)/.installed-test ## held-out accuracy of the timing models; writes reports/accuracy/
	$(BIN)/python -m kvplan.latency.fit.accuracy $(TABLES)/h100_sxm $(TABLES)/a100_sxm -o reports/accuracy

gpu: ## kernels on a GPU: correctness, benchmarks, calibration grid (needs CUDA, torch and triton)
	$(PYTHON) -m kvplan.kernels.benchmark -o $(GPU_OUTPUT)

clean: ## remove the virtual environment, caches and local reports
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks build dist reports/local
