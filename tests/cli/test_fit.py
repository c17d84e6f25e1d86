"""``kvplan fit``: the bill in every format, exit 3 with what would fit, errors that say what to do."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvplan.cli.app import run

SPEC = """\
schema: kvplan.model/1
name: {name}
family: llama
aliases: [example/{name}]
source: {{url: https://example.org/written-by-hand}}
hidden_size: {hidden}
vocab_size: 128256
max_context: 131072
blocks:
  layer:
    attention: {{kind: full, query_heads: {heads}, kv_heads: 8, head_dim: 128}}
    mlp: {{kind: dense, intermediate_size: {width}}}
layout:
  - {{repeat: {layers}, blocks: [layer]}}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small-8b.yaml"
    path.write_text(SPEC.format(name="small-8b", hidden=4096, heads=32, width=14336, layers=32))
    return str(path)


@pytest.fixture
def large(tmp_path: Path) -> str:
    path = tmp_path / "large-70b.yaml"
    path.write_text(SPEC.format(name="large-70b", hidden=8192, heads=64, width=28672, layers=80))
    return str(path)


def test_the_document(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", small, "--gpu", "h100", "--ctx", "32k", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "kvplan.fit/1"
    assert found["fits"] is True
    parts = ("weights_bytes", "activation_bytes", "graph_bytes", "runtime_bytes", "kv_pool_bytes")
    assert sum(found[part] for part in parts) == found["budget_bytes"]
    assert all(isinstance(found[part], int) for part in parts)
    assert found["num_blocks"] == found["kv_pool_bytes"] // found["block_bytes"]
    assert found["kv_tokens"] == pytest.approx(found["max_concurrency"] * 32768, abs=1)
    assert found["inputs"]["max_model_len"] == 32768
    assert found["flags"]["vllm"].startswith("vllm serve example/small-8b --max-model-len 32768")
    assert found["flags"]["sglang"].startswith("python -m sglang.launch_server --model-path example/small-8b")
    assert {term["name"] for term in found["terms"]} >= {"usable_memory", "budget", "weights", "kv_pool"}


def test_the_table_fits_eighty_columns(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", small, "--gpu", "h100-sxm", "--tp", "2", "--pp", "2", "--gpus", "8"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.replace(small, "small.yaml").splitlines()) <= 80
    for words in (
        "weights",
        "activations",
        "runtime",
        "cuda graphs",
        "kv pool",
        "blocks of 16 tokens",
        "2 replicas",
    ):
        assert words in out
    serve = out[out.index("  vllm serve") : out.index("  under traffic:")]
    command = " ".join(serve.replace("\\\n", " ").split())
    assert command.startswith(
        "vllm serve example/small-8b --tensor-parallel-size 2 --pipeline-parallel-size 2 --"
    )


@pytest.mark.parametrize("output", ["csv", "md"])
def test_tables_for_machines(small: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", small, "--gpu", "h100-sxm", "--format", output]) == 0
    out = capsys.readouterr().out
    if output == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["name"] for row in rows[:2]] == ["usable_memory", "budget"]
    else:
        assert out.startswith("| name | formula | value | unit |")


def test_the_same_question_has_the_same_answer(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for _ in range(2):
        assert run(["fit", small, "--gpu", "l40s", "--dtype", "fp8"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("engine", "variable"),
    [("vllm", "VLLM_ALLOW_LONG_MAX_MODEL_LEN"), ("sglang", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN")],
)
def test_a_context_beyond_the_model_s_is_said_to_need_leave(
    engine: str, variable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fit", "llama-2-7b", "--gpu", "h100-sxm", "--ctx", "8k", "--engine", engine]) == 0
    assert (
        f"beyond the 4,096 of llama-2-7b: {'vLLM' if engine == 'vllm' else 'SGLang'} wants {variable}=1"
        in (capsys.readouterr().err)
    )


def test_beyond_the_model_s_limit_the_longest_request_is_what_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["fit", "llama-2-7b", "--gpu", "h100-sxm", "--ctx", "8k"]) == 0
    assert "8,192 tokens is the longest request that fits (a longer one was not asked for)" in (
        capsys.readouterr().out
    )
    assert run(["fit", "llama-2-7b", "--gpu", "h100-sxm", "--ctx", "1k"]) == 0
    assert "4,096 tokens is the longest request that fits (the model's limit)" in capsys.readouterr().out


def test_what_does_not_fit_exits_3_and_says_what_would(
    large: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fit", large, "--gpu", "h100-sxm", "--ctx", "32k"]) == 3
    captured = capsys.readouterr()
    assert "it would fit with" in captured.out
    assert (
        "error: large-70b on 1 x h100-sxm does not fit: weights and overheads exceed the budget"
        in captured.err
    )
    assert "--tp 4" in captured.err
    # and what it suggests is true
    assert run(["fit", large, "--gpu", "h100-sxm", "--ctx", "32k", "--tp", "4"]) == 0


def test_a_request_longer_than_the_pool_exits_3(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", small, "--gpu", "rtx-4090", "--ctx", "128k", "--format", "json"]) == 3
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["fits"] is False
    longest = document["longest_context_tokens"]
    assert 0 < longest < 131072
    error = json.loads(captured.err)["error"]
    assert error["exit_code"] == 3
    assert "one request of 131,072 tokens takes 16.00 GiB" in error["message"]
    assert run(["fit", small, "--gpu", "rtx-4090", "--ctx", str(longest)]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--gpu", "h1000"], 2, "unknown gpu 'h1000'"),
        (["--gpu", "h100", "--utilization", "1.2"], 2, "utilization 1.2 must be above 0 and at most 1"),
        (["--gpu", "h100", "--tp", "3"], 2, "does not divide"),
        (["--gpu", "h100", "--gpus", "3", "--tp", "2"], 2, "3 GPUs are not a multiple of tp 2 x pp 1"),
        (["--gpu", "h100", "--dtype", "fp9"], 2, "unknown KV number format 'fp9'"),
        (["--gpu", "h100", "--weights-dtype", "int3"], 2, "unknown weight format 'int3'"),
        (["--gpu", "h100", "--engine", "trt"], 2, "unknown engine 'trt'"),
        (["--gpu", "h100", "--engine-version", "new"], 2, "'new' is not an engine version"),
        (["--gpu", "h100", "--ctx", "0"], 2, "token count"),
        ([], 2, "--gpu"),
    ],
)
def test_bad_input_says_what_and_exits_2(
    small: str, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fit", small, *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        (["--gpu", "t4", "--weights-dtype", "int4", "--ctx", "1k"], "t4 has no bf16"),
        (["--gpu", "a100-80g", "--weights-dtype", "fp8"], "a100-80g has no fp8 arithmetic"),
        (["--gpu", "gh200-144g"], "is estimated, not measured"),
        (["--gpu", "h100", "--ctx", "256k"], "beyond the 131,072"),
        (["--gpu", "h100", "--tp", "16"], "each head is kept by 2 GPUs"),
        (["--gpu", "h100", "--engine-version", "0.99"], "newer than 0.33"),
        (["--gpu", "h100", "--dtype", "kivi2"], "vLLM has no kivi2 KV cache: no command"),
    ],
)
def test_warnings_go_to_stderr(
    small: str, arguments: list[str], warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fit", small, *arguments]) == 0
    captured = capsys.readouterr()
    assert warning in captured.err
    assert "warning:" not in captured.out


def test_planning_imports_nothing_heavy(small: str) -> None:
    code = (
        "import sys; from kvplan.cli.app import run; "
        f"run(['fit', {small!r}, '--gpu', 'h100', '--format', 'json']); "
        "heavy = {'numpy', 'pandas', 'torch', 'plotly', 'jinja2', 'rich.table'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_byte_of_the_bill_says_where_it_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("vllm", "sglang"):
        run(["fit", "llama-3.1-8b", "--gpu", "h100", "--engine", engine, "--format", "json"])
        terms = json.loads(capsys.readouterr().out)["terms"]
        assert not [
            term["name"] for term in terms if term["unit"] == "B" and term["source"] in ("", "kvplan")
        ]


@pytest.mark.parametrize(
    "option", ["--gpus", "--tp", "--pp", "--max-num-seqs", "--max-num-batched-tokens", "--block-size"]
)
@pytest.mark.parametrize("value", ["0", "-1", "9" * 19, "9" * 4000, "nan"])
def test_impossible_numbers_are_errors_of_usage(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert run(["fit", "llama3-8b", "--gpu", "h100", option, value]) == 2
    assert "error" in capsys.readouterr().err


def test_a_windowed_pool_says_what_its_figures_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", "gemma-3-27b", "--gpu", "a100-80g", "--ctx", "128k"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "213,850 KV tokens (GPU KV cache size: concurrency x max_model_len)" in out
    assert "one request takes 12.35 GiB: windows are held open for steps of 2,048 tokens" in out
    assert run(["size", "gemma-3-27b", "--ctx", "128k", "--max-num-batched-tokens", "2048"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "12.35 GiB" in out  # asked the same, both say the same
    assert "5,119 tokens kept: the window and 2 steps of 2,048 in flight" in out
    assert "windows are held open for steps of 2,048 tokens (--max-num-batched-tokens)" in out


@pytest.mark.parametrize(
    ("engine", "version", "warned"),
    [
        ("vllm", "0.5", "vllm 0.5 is older than 0.6, whose rules are used"),
        ("vllm", "0.6.4", None),
        ("sglang", "0.4.6", "sglang 0.4.6 is older than 0.5.1, whose rules are used"),
        ("sglang", "0.5.3", None),
        ("sglang", "0.5", None),
        ("sglang", "0.5.24", "sglang 0.5.24 is newer than 0.5.23, whose rules are used"),
    ],
)
def test_versions_that_are_not_modelled_are_said(
    engine: str, version: str, warned: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["fit", "llama-3.1-8b", "--gpu", "h100", "--engine", engine, "--engine-version", version])
    err = capsys.readouterr().err
    assert warned in err if warned else "whose rules are used" not in err


@pytest.mark.parametrize(("gpu", "says"), [("h100", True), ("l4", False)])
def test_the_longest_request_may_be_the_models_limit(
    gpu: str, says: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fit", "llama-3.1-8b", "--gpu", gpu, "--ctx", "32k"]) == 0
    out = capsys.readouterr().out
    assert "tokens is the longest request that fits" in out
    assert ("131,072 tokens is the longest request that fits (the model's limit)" in out) is says


def test_the_prefix_cache_of_a_hybrid_holds_a_second_state(capsys: pytest.CaptureFixture[str]) -> None:
    def concurrency(*more: str) -> float:
        assert run(["fit", "nemotron-h-8b", "--gpu", "h100", "--format", "json", *more]) == 0
        return float(json.loads(capsys.readouterr().out)["max_concurrency"])

    assert concurrency("--prefix", "none") > concurrency() == concurrency("--prefix", "hash")
    assert run(["fit", "nemotron-h-8b", "--gpu", "h100", "--prefix", "none"]) == 0
    out = capsys.readouterr().out
    assert "--no-enable-prefix-caching" in out
    assert "cache.prefix=none" in out


def test_another_engines_prefix_cache_is_not_taken_for_vllms(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", "llama-3.1-8b", "--gpu", "h100", "--engine", "sglang", "--prefix", "none"]) == 2
    assert "leave --prefix out" in capsys.readouterr().err


def test_a_share_in_percent_is_answered_with_the_share(capsys):
    assert run(["fit", "llama-3.1-8b", "--gpu", "h100-sxm", "--utilization", "92"]) == 2
    assert "write 0.92 for 92 %" in capsys.readouterr().err
