"""``kvplan explain-log``: logs of several versions, what they say, and nothing they do not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.cli.app import run
from kvplan.errors import DataError
from kvplan.sizing.logs.account import account
from kvplan.sizing.logs.explanation import MEANINGS, explained_lines
from kvplan.sizing.logs.lines import read_log
from kvplan.sizing.logs.wordings import WORDINGS
from kvplan.units import GIB

V0 = """\
INFO model_runner.py:1097] Loading model weights took 14.9888 GB
INFO worker.py:267] Memory profiling takes 5.35 seconds
INFO worker.py:267] the current vLLM instance can use total_gpu_memory (23.58GiB) x gpu_memory_utilization (0.90) = 21.22GiB
INFO worker.py:267] model weights take 14.99GiB; non_torch_memory takes 0.35GiB; PyTorch activation peak memory takes 2.07GiB; the rest of the memory reserved for KV Cache is 3.81GiB.
INFO executor_base.py:111] # cuda blocks: 1952, # CPU blocks: 2048
INFO executor_base.py:116] Maximum concurrency for 20000 tokens per request: 1.56x
"""

V1 = """\
(APIServer) INFO [utils.py:233] non-default args: {'model': 'Qwen/Qwen2.5-7B-Instruct', 'max_model_len': 8192, 'gpu_memory_utilization': 0.95}
(APIServer) INFO vLLM API server version 0.19.0
(EngineCore) INFO [gpu_model_runner.py:4000] Model loading took 14.25 GiB memory and 3.2 seconds
(EngineCore) INFO [monitor.py:76] Initial profiling/warmup run took 73.16 s
(EngineCore) INFO [gpu_model_runner.py:5876] Profiling CUDA graph memory: PIECEWISE=51 (largest=512), FULL=35 (largest=256)
(EngineCore) INFO [gpu_model_runner.py:5955] Estimated CUDA graph memory: 0.78 GiB total
(EngineCore) INFO [gpu_worker.py:436] Available KV cache memory: 58.53 GiB
(EngineCore) INFO [gpu_worker.py:481] CUDA graph memory profiling is enabled (default since v0.21.0). The current --gpu-memory-utilization=0.9500 is equivalent to --gpu-memory-utilization=0.9417 without CUDA graph memory profiling. To maintain the same effective KV cache size as before, increase --gpu-memory-utilization to 0.9583. To disable, set VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0.
(EngineCore) INFO [kv_cache_utils.py:1319] GPU KV cache size: 1,096,000 tokens, Maximum concurrency for 8,192 tokens per request: 133.79x
(EngineCore) INFO [gpu_model_runner.py:6000] Graph capturing finished in 12 secs, took 0.61 GiB
(EngineCore) INFO [gpu_worker.py:600] Free memory on device (78.55/79.19 GiB) on startup. Desired GPU memory utilization is (0.95, 75.23 GiB). Actual usage is 14.25 GiB for weight, 2.15 GiB for peak activation, 0.30 GiB for non-torch memory, and 0.61 GiB for CUDAGraph memory. Replace it
"""

SGLANG = """\
[09:20:10] server_args=ServerArgs(model_path='Qwen/Qwen3-235B-A22B-FP8', tp_size=4, mem_fraction_static=0.93, kv_cache_dtype='auto')
[09:20:11 TP0] Load weight begin. avail mem=77.01 GB
[09:20:41 TP0] Load weight end. type=Qwen3MoeForCausalLM, dtype=torch.bfloat16, avail mem=21.85 GB, mem usage=55.16 GB.
[09:20:42 TP0] KV Cache is allocated. #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB
[09:20:42 TP0] Memory pool end. avail mem=5.10 GB
[09:20:42 TP0] Capture cuda graph begin. This can take up to several minutes. avail mem=5.06 GB
[09:21:12 TP0] Capture cuda graph end. Time elapsed: 13.09 s. mem usage=1.40 GB. avail mem=3.66 GB.
[09:21:13 TP0] max_total_num_tokens=367404, chunked_prefill_size=8192, max_prefill_tokens=16384, max_running_requests=2048, context_len=40960
"""

HYBRID = """\
INFO vLLM API server version 0.16.0
INFO Setting attention block size to 1104 tokens to ensure that attention page size is >= mamba page size.
INFO Padding mamba page size by 0.73% to ensure that mamba page size and attention page size are exactly equal.
WARNING Add 2 padding layers, may waste at most 6.67% KV cache memory
INFO Available KV cache memory: 5.95 GiB
INFO GPU KV cache size: 129,472 tokens
INFO Maximum concurrency for 262,144 tokens per request: 1.97x
"""


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(text: str, *arguments: str) -> dict[str, Any]:
        path = tmp_path / "start.log"
        path.write_text(text)
        assert run(["explain-log", str(path), "--format", "json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def test_v0_prints_blocks_and_its_whole_bill(explain: Any) -> None:
    found = explain(V0)
    assert found["account"]["blocks"] == 1952
    assert found["account"]["pool_tokens"] == 31232
    assert found["bytes_per_token"] == pytest.approx(131072, rel=0.003)
    assert any("2.07 GiB activation peak" in reason for reason in found["reasons"])
    assert found["read"] == {"lines": 6, "understood": 5, "not_understood": 1}


def test_v1_says_why_line_by_line(explain: Any) -> None:
    found = explain(V1)
    assert found["account"]["version"] == "0.19.0"
    assert found["account"]["model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert found["bytes_per_token"] == pytest.approx(57344, rel=0.003)
    assert "79.19 GiB in all x 0.95 utilization = 75.23 GiB for everything" in found["reasons"]
    restoring = next(change for change in found["enlarge"] if "0.9583" in change["change"])
    assert restoring["gained_bytes"] == pytest.approx(79.19 * GIB * 0.0083, rel=0.001)


def test_the_concurrency_is_explained(explain: Any) -> None:
    line = "INFO Maximum concurrency for 131,072 tokens per request: 1.31x\n"
    size = "INFO GPU KV cache size: 171,888 tokens\n"
    (said,) = explain(size + line)["reasons"]
    assert said == (
        "the pool's 171,888 tokens are 1.31 requests of 131,072 tokens: of shorter ones more run at once"
    )
    (alone,) = explain(line)["reasons"]
    assert alone.startswith("1.31 requests of 131,072 tokens at once are a pool of about 171,704 tokens")


def test_sglang_counts_what_is_free(explain: Any) -> None:
    found = explain(SGLANG)
    assert found["account"]["engine"] == "sglang"
    assert found["account"]["tp"] == 4
    assert found["bytes_per_token"] == pytest.approx(48128, rel=0.003)
    assert "= 16.46 GiB for the pool" in found["reasons"][0]
    assert found["read"]["not_understood"] == 0


def test_a_hybrid_s_token_line_is_not_believed(explain: Any) -> None:
    found = explain(HYBRID)
    assert any(
        "516,424 tokens" in reason and "trust the concurrency" in reason for reason in found["reasons"]
    )


def test_what_the_log_does_not_itemise_is_called_that(explain: Any) -> None:
    found = explain(
        "\n".join(line for line in V0.splitlines() if "reserved for" not in line)
        + """
INFO Available KV cache memory: 3.81 GiB
"""
    )
    assert any(
        "the log does not itemise (activations, runtime, CUDA graphs)" in text for text in found["reasons"]
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            (
                "ValueError: Free memory on device cuda:0 (40.5/94.97 GiB) on startup is less than desired GPU memory "
                "utilization (0.92, 87.37 GiB). Decrease GPU memory utilization"
            ),
            "it did not start: 46.87 GiB of the budget were not free",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing",
            "nothing was left for the cache",
        ),
        (
            (
                "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is "
                "needed, which is larger than the available KV cache memory (3.81 GiB)."
            ),
            "the pool is smaller than one request",
        ),
    ],
)
def test_refusals_are_explained(explain: Any, line: str, reason: str) -> None:
    assert any(reason in text for text in explain(line)["reasons"])


def changes(found: dict[str, Any]) -> list[str]:
    return [change["change"] for change in found["enlarge"]]


def test_a_request_that_is_too_long_is_mended_by_the_length_that_the_log_names(explain: Any) -> None:
    found = explain(
        "ERROR ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache "
        "is needed, which is larger than the available KV cache memory (4.93 GiB). Based on the available memory, "
        "the estimated maximum model length is 40368.\n"
    )
    assert changes(found)[0] == "--max-model-len 40368"


@pytest.mark.parametrize(
    ("asked", "left", "says"),
    [
        ("2.00 GiB", "1.05 GiB", "asked 2 GiB, device 0, total 79.19 GiB, left 1.05 GiB"),
        ("172.00 MiB", "99.25 MiB", "asked 172 MiB, device 0, total 79.19 GiB, left 99.25 MiB"),
    ],
)
def test_running_out_of_memory_beside_the_pool(explain: Any, asked: str, left: str, says: str) -> None:
    found = explain(
        "INFO non-default args: {'model': 'a/b', 'gpu_memory_utilization': 0.95}\n"
        "INFO Available KV cache memory: 54.58 GiB\n"
        f"ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {asked}. GPU 0 has a total capacity "
        f"of 79.19 GiB of which {left} is free. Process 71 has 78.13 GiB memory in use.\n"
    )
    assert found["lines"][-1]["says"] == says
    assert "it ran out of GPU memory in what lies outside the pool" in found["reasons"]
    assert changes(found) == [
        "--gpu-memory-utilization 0.90",
        "a smaller --max-num-seqs or --max-num-batched-tokens",
    ]


def test_options_as_vllm_0_8_and_older_print_them(explain: Any) -> None:
    account = explain(
        "INFO api_server.py:913] args: Namespace(subparser='serve', model_tag='a/b', model='a/b', host=None, "
        "tensor_parallel_size=4, max_model_len=16384, gpu_memory_utilization=0.85, max_num_seqs=96, "
        "kv_cache_dtype='auto', compilation_config={'level': 0}, speculative_model=None)\n"
        "INFO Available KV cache memory: 54.58 GiB\n"
    )["account"]
    assert (account["model"], account["tp"], account["context_tokens"]) == ("a/b", 4, 16384)
    assert (account["utilization"], account["max_num_seqs"]) == (0.85, 96)


def test_running_out_of_memory_while_weights_load(explain: Any) -> None:
    found = explain(
        "[08:01] server_args=ServerArgs(model_path='a/b', tp_size=2, mem_fraction_static=0.85)\n"
        "[08:01 TP0] Load weight begin. avail mem=77.61 GB\n"
        "[08:02 TP0] Scheduler hit an exception: torch.OutOfMemoryError: CUDA out of memory.\n"
        "[08:02 TP1] Scheduler hit an exception: RuntimeError: CUDA error: out of memory\n"
    )
    assert (found["account"]["engine"], found["starts"]["count"]) == ("sglang", 1)
    assert found["read"]["not_understood"] == 0
    assert "it ran out of GPU memory while weights were loaded" in found["reasons"]
    assert changes(found) == ["a checkpoint in fewer bits", "--tensor-parallel-size 4"]


def test_sglang_without_room_for_a_pool(explain: Any) -> None:
    found = explain(
        "[08:01] server_args=ServerArgs(model_path='a/b', tp_size=1, mem_fraction_static=0.5)\n"
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n"
    )
    assert found["account"]["refused"] == "no_pool"
    assert changes(found)[0] == "--mem-fraction-static 0.95"


def test_a_larger_share_is_named_where_the_log_does_not_say_of_what(explain: Any) -> None:
    found = explain(
        "INFO non-default args: {'model': 'a/b', 'gpu_memory_utilization': 0.8}\n"
        "INFO Available KV cache memory: 54.58 GiB\n"
    )
    assert found["enlarge"][0]["change"] == "--gpu-memory-utilization 0.95"
    assert found["enlarge"][0]["gained_bytes"] is None


def test_ranks_repeat_and_the_smallest_pool_counts(explain: Any) -> None:
    lines = [
        f"(Worker_TP{rank}) INFO Available KV cache memory: {size} GiB"
        for rank, size in ((0, 7.2), (1, 6.87))
    ]
    found = explain("\n".join([*lines, lines[0]]))
    assert found["account"]["pool_bytes"] == round(6.87 * GIB)
    assert len(found["lines"]) == 2


def test_lines_that_were_not_understood_are_shown_on_request(explain: Any) -> None:
    assert explain(V0)["unread"] == []
    assert explain(V0, "--unread", "5")["unread"] == [
        {"line": 2, "text": "INFO worker.py:267] Memory profiling takes 5.35 seconds"}
    ]


def test_a_model_can_be_compared(explain: Any, tmp_path: Path) -> None:
    spec = tmp_path / "like-llama.yaml"
    spec.write_text(
        "schema: kvplan.model/1\nname: like-llama\nfamily: llama\nsource: {url: https://example.org/hand}\n"
        "hidden_size: 4096\nvocab_size: 128256\nmax_context: 131072\nblocks:\n  layer:\n"
        "    attention: {kind: full, query_heads: 32, kv_heads: 8, head_dim: 128}\n"
        "    mlp: {kind: dense, intermediate_size: 14336}\nlayout:\n  - {repeat: 32, blocks: [layer]}\n"
    )
    comparison = explain(V0, "--model", str(spec))["comparison"]
    assert comparison["gpu"] == "rtx-3090"  # by its 23.58 GiB
    assert comparison["log_tokens"] == 31232
    assert abs(comparison["difference"]) < 0.003


def test_options_of_the_comparison_are_refused_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "start.log"
    path.write_text("INFO Available KV cache memory: 54.58 GiB\n")
    assert run(["explain-log", str(path), "--gpu", "h100-sxm"]) == 2
    assert "add --model NAME" in capsys.readouterr().err


def test_the_table_fits_eighty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("v0", V0), ("v1", V1), ("sglang", SGLANG), ("hybrid", HYBRID)):
        path = tmp_path / f"{name}.log"
        path.write_text(text)
        assert run(["explain-log", str(path)]) == 0
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        assert "lines understood" in out


@pytest.mark.parametrize("output", ["csv", "md"])
def test_tables_for_machines(tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "start.log"
    path.write_text(V0)
    assert run(["explain-log", str(path), "--format", output]) == 0
    assert "line" in capsys.readouterr().out.splitlines()[0]


def test_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(V0.encode())))
    assert run(["explain-log", "-"]) == 0
    assert "130,986 B a token" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "hello\n", "\x00\x01\x02\n" * 10])
def test_a_log_of_something_else_is_an_error(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.log"
    path.write_text(text)
    assert run(["explain-log", str(path)]) == 1
    assert "no line of this log was understood" in capsys.readouterr().err


def test_a_missing_file_names_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain-log", "/nowhere/start.log"]) == 1
    assert "/nowhere/start.log" in capsys.readouterr().err


def test_a_huge_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "huge.log"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert run(["explain-log", str(path)]) == 1
    assert "larger than 64 MiB" in capsys.readouterr().err


def test_every_wording_has_a_meaning() -> None:
    assert {wording.name for wording in WORDINGS} | {"options", "error"} == set(MEANINGS)


@given(st.lists(st.text(max_size=200), max_size=20))
def test_no_text_breaks_the_reader(lines: list[str]) -> None:
    try:
        reading = read_log([*lines, "INFO Available KV cache memory: 1.00 GiB"])
    except DataError:
        pytest.fail("the last line is always understood")
    assert account(reading.facts).pool_bytes is not None
    assert explained_lines(reading.facts)
    assert len(reading.unread) + len({fact.line for fact in reading.facts}) <= reading.lines


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1e400", "nan", "-inf"])
@pytest.mark.parametrize(
    "line",
    ["Available KV cache memory: {} GiB", "GPU KV cache size: {} tokens", "max_num_seqs={}, tp_size={}"],
)
def test_impossible_numbers_are_not_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, number: str
) -> None:
    log = tmp_path / "start.log"
    log.write_text("INFO Available KV cache memory: 50.00 GiB\nINFO " + line.format(number, number) + "\n")
    assert run(["explain-log", str(log), "--model", "llama-3.1-8b", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["account"]["pool_bytes"] == 50 << 30


def test_a_negative_count_is_not_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "start.log"
    log.write_text("INFO Available KV cache memory: -1.25 GiB\nINFO GPU KV cache size: -5 tokens\n")
    assert run(["explain-log", str(log), "--format", "json"]) == 0
    account = json.loads(capsys.readouterr().out)["account"]
    assert (account["pool_bytes"], account["pool_tokens"]) == (-5 << 28, None)
