"""From a plan to its simulation: the ``kvplan simulate`` command that has the same pool."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport

FIELDS = {
    "vllm": {
        "utilization": "gpu_memory_utilization", "max_num_seqs": "max_num_seqs",
        "max_num_batched_tokens": "max_num_batched_tokens", "context": "max_model_len",
        "eager": "enforce_eager",
    },
    "sglang": {
        "utilization": "mem_fraction_static", "max_num_seqs": "max_running_requests",
        "max_num_batched_tokens": "chunked_prefill_size", "context": "context_length",
        "eager": "disable_cuda_graph",
    },
}  # fmt: skip
"""What a scenario calls the options of an engine: the engine's own words."""

SIMULATED = {"vllm": ("context", "window", "chunk", "state", "remainder"), "sglang": ("context",)}
"""What layers may keep of a request for the simulated engine to have their pool."""

WORKLOAD = "--synthesize chat"
"""Traffic to begin with; the user's own comes by ``--trace``."""


def simulate_line(report: "FitReport", model: str) -> str | None:
    """The command for this plan, ``None`` where it is not simulated; ``model`` is what the user called it.

    Options left at the engine's defaults are left out: the scenario has the same defaults.
    """
    if model == "-" or _not_simulated(report):
        return None
    settings = " ".join(f"--set {shlex.quote(text)}" for text in _settings(report))
    return " ".join(part for part in (" ".join(_flags(report, model)), settings, WORKLOAD) if part)


def _not_simulated(report: "FitReport") -> bool:
    drafting = report.draft or report.drafter is not None
    known = SIMULATED[report.serving.kind]
    stores = [page.store for stage in report.stages for page in stage.pool.pages]
    kept = {"state" if store is None else store.reach for store in stores}
    return drafting or not report.fits or not kept <= set(known)


def _flags(report: "FitReport", model: str) -> Iterator[str]:
    serving = report.serving
    yield f"kvplan simulate --model {shlex.quote(model)} --gpu {report.gpu.name}"
    if report.parallel.tp > 1:
        yield f"--tp {report.parallel.tp}"
    if report.kv_asked:
        yield f"--dtype {report.kv_format.name}"
    if "block_size" in serving.given and serving.kind == "vllm":
        yield f"--block-size {serving.block_size}"


def _settings(report: "FitReport") -> Iterator[str]:
    serving, parallel = report.serving, report.parallel
    names = FIELDS[serving.kind]
    if serving.kind != "vllm":
        yield f"engine.kind={serving.kind}"
    if "version" in serving.given:
        yield f'engine.version="{serving.version_text}"'
    yield f"engine.{names['context']}={report.max_model_len}"
    for option in ("utilization", "max_num_seqs", "max_num_batched_tokens"):
        if option in serving.given:
            yield f"engine.{names[option]}={getattr(serving, option)}"
    if "block_size" in serving.given and serving.kind == "sglang":
        yield f"engine.page_size={serving.block_size}"
    if not serving.cuda_graphs:
        yield f"engine.{names['eager']}=true"
    if serving.kind == "vllm" and not serving.async_scheduling:
        yield "engine.async_scheduling=false"
    if report.weights_format != report.model.weights.format:
        yield f"weights_dtype={report.weights_format}"
    for name, size in (("pp", parallel.pp), ("replicas", parallel.dp)):
        if size > 1:
            yield f"parallel.{name}={size}"
    if report.expert_parallel:
        yield "parallel.expert_parallel=true"
    if parallel.dp_attention:
        yield "parallel.dp_attention=true"
