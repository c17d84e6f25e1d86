"""``kvplan explain-log``: which start a line belongs to, which rank says it, and pools of several parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run
from kvplan.units import GIB


def start(pool: float, tokens: int, *, model: str = "a/b", utilization: float = 0.9) -> str:
    return f"""\
(APIServer pid=1) INFO vLLM API server version 0.11.0
(APIServer pid=1) INFO non-default args: {{'model': '{model}', 'gpu_memory_utilization': {utilization}}}
(EngineCore_DP0 pid=22) INFO Initializing a V1 LLM engine (v0.11.0) with config: model='{model}', max_seq_len=32768
(EngineCore_DP0 pid=22) INFO Model loading took 14.9889 GiB and 3.123 seconds
(EngineCore_DP0 pid=22) INFO Available KV cache memory: {pool} GiB
(EngineCore_DP0 pid=22) INFO GPU KV cache size: {tokens:,} tokens
"""


FAILED = """\
(EngineCore_DP0 pid=9) INFO Available KV cache memory: 4.93 GiB
ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed, \
which is larger than the available KV cache memory (4.93 GiB). Based on this, the estimated maximum model length is 40368.
"""

SGLANG = """\
[10:00:00] server_args=ServerArgs(model_path='a/b', tp_size={tp}, mem_fraction_static=0.88, kv_cache_dtype='auto')
[10:00:11 TP{rank}] Load weight begin. avail mem=78.58 GB
[10:00:20 TP{rank}] Load weight end. type=X, dtype=torch.bfloat16, avail mem=63.50 GB, mem usage=15.08 GB.
[10:00:21 TP{rank}] KV Cache is allocated. #tokens: {tokens}, K size: 27.03 GB, V size: 27.03 GB
[10:00:41 TP{rank}] max_total_num_tokens={tokens}, chunked_prefill_size=8192, max_running_requests=2048, context_len=4096
"""

DRAFT = """\
[10:00:21 TP0] Load weight begin. avail mem=8.29 GB
[10:00:21 TP0] Load weight end. type=XEagle, dtype=torch.bfloat16, avail mem=7.79 GB, mem usage=0.50 GB.
"""
DRAFT_POOL = "[10:00:21 TP0] KV Cache is allocated. #tokens: 442913, K size: 0.84 GB, V size: 0.84 GB\n"


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(text: str | bytes) -> dict[str, Any]:
        path = tmp_path / "start.log"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert run(["explain-log", str(path), "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    return ask


@pytest.mark.parametrize(
    ("before", "line"),
    [
        (start(20.0, 163_840, utilization=0.5), 7),
        (start(30.0, 245_760, model="c/larger"), 7),
        (FAILED, 3),
    ],
    ids=["restarted", "another model", "failed"],
)
def test_the_last_of_several_starts_is_explained(explain: Any, before: str, line: int) -> None:
    found = explain(before + start(54.58, 447_120))
    assert found["starts"] == {"count": 2, "explained_from_line": line}
    account = found["account"]
    assert (account["model"], account["utilization"]) == ("a/b", 0.9)
    assert (account["pool_bytes"], account["pool_tokens"]) == (round(54.58 * GIB), 447_120)
    assert account["refused"] is None
    assert min(item["line"] for item in found["lines"]) == line


def test_a_restarted_engine_without_a_server_is_another_start(explain: Any) -> None:
    engine = "".join(start(54.58, 447_120).splitlines(keepends=True)[2:])
    assert explain(engine.replace("54.58", "20.00") + engine)["account"]["pool_bytes"] == round(54.58 * GIB)


def test_the_terminal_says_that_a_log_has_several_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "start.log"
    path.write_text(FAILED + start(54.58, 447_120))
    assert run(["explain-log", str(path)]) == 0
    assert "2 starts in this log; the last one is explained, from line 3 on" in capsys.readouterr().out


def test_data_parallel_ranks_are_one_start(explain: Any) -> None:
    lines = start(54.58, 447_120).splitlines(keepends=True)
    other = (
        "".join(lines[2:])
        .replace("DP0 pid=22", "DP1 pid=23")
        .replace("54.58", "54.10")
        .replace("447,", "443,")
    )
    found = explain("".join(lines) + other)
    assert found["starts"]["count"] == 1
    assert (found["account"]["pool_bytes"], found["account"]["pool_tokens"]) == (round(54.10 * GIB), 443_120)


def test_ranks_that_begin_side_by_side_are_one_start(explain: Any) -> None:
    lines = start(54.58, 447_120).splitlines(keepends=True)
    both = [line for one in lines[2:] for line in (one, one.replace("DP0 pid=22", "DP1 pid=23"))]
    assert explain("".join([*lines[:2], *both]))["starts"]["count"] == 1


def test_another_node_of_the_same_server_is_no_other_start(explain: Any) -> None:
    nodes = [SGLANG.format(tp=2, rank=rank, tokens=tokens) for rank, tokens in ((0, 442_913), (1, 440_000))]
    found = explain("".join(nodes))
    assert found["starts"]["count"] == 1
    assert found["account"]["pool_tokens"] == 440_000


def test_tokens_and_concurrency_are_the_smallest_rank_s(explain: Any) -> None:
    found = explain(
        "INFO GPU KV cache size: 400,000 tokens\n"
        "INFO Maximum concurrency for 32,768 tokens per request: 12.21x\n"
        "INFO GPU KV cache size: 403,904 tokens\n"
        "INFO Maximum concurrency for 32,768 tokens per request: 12.33x\n"
    )
    assert (found["account"]["pool_tokens"], found["account"]["concurrency"]) == (400_000, 12.21)


TARGET = SGLANG.format(tp=1, rank=0, tokens=442_913).splitlines(keepends=True)


@pytest.mark.parametrize(
    "log",
    [
        [*TARGET[:4], DRAFT, DRAFT_POOL, TARGET[4]],
        [*TARGET[:3], DRAFT, TARGET[3], DRAFT_POOL, TARGET[4]],
    ],
    ids=["target first", "both are loaded first"],
)
def test_a_draft_model_stands_apart(explain: Any, log: list[str]) -> None:
    found = explain("".join(log))
    account = found["account"]
    assert account["free_bytes"] == round(78.58 * GIB)
    assert account["weights_bytes"] == round(15.08 * GIB)
    assert account["pool_bytes"] == round(54.06 * GIB)
    assert account["draft_weights_bytes"] == GIB // 2
    assert account["draft_pool_bytes"] == round(1.68 * GIB)
    assert found["bytes_per_token"] == pytest.approx(131_072, rel=0.001)
    assert any(
        "the draft model takes 512.00 MiB of weights and 1.68 GiB of cache" in text
        for text in found["reasons"]
    )


@pytest.mark.parametrize("summed", [True, False], ids=["with their sum", "without it"])
def test_pools_of_windows_and_of_the_others_are_one(explain: Any, summed: bool) -> None:
    window = "[10:00:21 TP0] KV Cache is allocated. #tokens: 354330, K size: 1.00 GB, V size: 1.00 GB\n"
    both = (
        "[10:00:22 TP0] SWAKVPool mem usage: 56.06 GB, swa size: 354330, full size: 442913\n"
        if summed
        else ""
    )
    account = explain("".join([*TARGET[:3], window, TARGET[3], both, TARGET[4]]))["account"]
    assert account["pool_bytes"] == round(56.06 * GIB)
    assert (account["pool_tokens"], account["window_tokens"]) == (442_913, 354_330)


def test_a_draft_behind_windows_stands_apart(explain: Any) -> None:
    both = "[10:00:22 TP0] SWAKVPool mem usage: 56.06 GB, swa size: 354330, full size: 442913\n"
    account = explain("".join([*TARGET[:3], DRAFT, TARGET[3], both, DRAFT_POOL, TARGET[4]]))["account"]
    assert account["pool_bytes"] == round(56.06 * GIB)
    assert account["draft_pool_bytes"] == round(1.68 * GIB)


def test_too_little_free_memory_is_not_mended_by_asking_for_more(explain: Any) -> None:
    found = explain(
        "ValueError: Free memory on device (7.5/79.19 GiB) on startup is less than desired GPU memory utilization "
        "(0.9, 71.27 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.\n"
    )
    changes = [change["change"] for change in found["enlarge"]]
    assert changes == ["end the processes that hold the GPU", "--gpu-memory-utilization 0.09"]
    assert found["enlarge"][0]["gained_bytes"] == pytest.approx(71.69 * GIB, abs=2)


def test_no_more_is_advised_than_was_free(explain: Any) -> None:
    found = explain(
        "INFO Free memory on device (72.85/79.19 GiB) on startup. Desired GPU memory utilization is (0.9, 71.27 GiB). "
        "Actual usage is 14.99 GiB for weight, 1.5 GiB for peak activation, 0.2 GiB for non-torch memory, and "
        "0.61 GiB for CUDAGraph memory.\n"
    )
    assert [c["change"] for c in found["enlarge"] if "utilization" in c["change"]] == [
        "--gpu-memory-utilization 0.91"
    ]


@pytest.mark.parametrize("comma", ["", ","])
def test_the_profile_of_0_6_with_and_without_commas(explain: Any, comma: str) -> None:
    account = explain(
        "INFO Loading model weights took 14.9888 GB\n"
        f"INFO worker.py:232] Memory profiling results: total_gpu_memory=79.10GiB{comma} "
        f"initial_memory_usage=15.40GiB{comma} peak_torch_memory=16.20GiB{comma} "
        f"memory_usage_post_profile=15.62Gib{comma} non_torch_memory=0.55GiB{comma} "
        f"kv_cache_size=54.43GiB{comma} gpu_memory_utilization=0.90\n"
    )["account"]
    assert account["pool_bytes"] == round(54.43 * GIB)
    assert (account["total_bytes"], account["utilization"]) == (round(79.10 * GIB), 0.9)


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be"])
def test_a_utf_16_log(explain: Any, coding: str) -> None:
    mark = "\ufeff" if coding == "utf-16-be" else ""
    assert explain((mark + start(54.58, 447_120)).encode(coding))["account"]["pool_tokens"] == 447_120


def test_options_of_a_draft_model_are_not_the_server_s(explain: Any) -> None:
    account = explain(
        "INFO non-default args: {'speculative_config': {'model': 'draft', 'draft_tensor_parallel_size': 1, "
        "'max_model_len': 2048}, 'model': 'served', 'max_model_len': 32768, 'tensor_parallel_size': 8}\n"
        "INFO Available KV cache memory: 54.58 GiB\n"
    )["account"]
    assert (account["tp"], account["model"], account["context_tokens"]) == (8, "served", 32768)


def test_the_lines_of_two_engines_are_two_starts(explain: Any) -> None:
    """A collector mixes what two containers say at the same time."""
    one, other = start(40.0, 327_680).splitlines(), SGLANG.format(tp=1, rank=0, tokens=440_000).splitlines()
    mixed = [line for pair in zip(one, [*other, ""], strict=True) for line in pair if line]
    found = explain("\n".join(mixed))
    assert found["starts"]["count"] == 2
    assert (found["account"]["engine"], found["account"]["version"]) == ("vllm", "0.11.0")
    assert found["account"]["pool_tokens"] == 327_680
    turned = [line for pair in zip([*other, ""], one, strict=True) for line in pair if line]
    found = explain("\n".join([*turned, other[-1]]))
    assert (found["account"]["engine"], found["account"]["version"]) == ("sglang", None)
    assert found["account"]["pool_tokens"] == 440_000


def interleaved(one: str, other: str) -> str:
    pairs = zip(one.splitlines(), other.splitlines(), strict=True)
    return "\n".join(line for pair in pairs for line in pair)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("vllm-a-1  | ", "vllm-b-1  | "),
        ("[pod/vllm-a-7f/server] ", "[pod/vllm-b-9c/server] "),
        ("vllm-0 server ", "vllm-1 server "),
        ("[vllm-7d9f-abcde] ", "[vllm-7d9f-fghij] "),
    ],
    ids=["docker compose", "kubectl logs --prefix", "stern", "kubetail"],
)
def test_containers_that_a_collector_names_are_servers_of_their_own(
    explain: Any, first: str, second: str
) -> None:
    large, small = start(37.5, 300_000, model="a/large"), start(15.5, 120_000, model="b/small")
    large = large.replace("14.9889", "32.8894")
    named = [
        "\n".join(prefix + line for line in log.splitlines())
        for prefix, log in ((first, large), (second, small))
    ]
    found = explain(interleaved(*named))
    assert found["starts"] == {"count": 2, "explained_from_line": 2}
    assert found["source"] in second
    account = found["account"]
    assert (account["model"], account["pool_tokens"]) == ("b/small", 120_000)
    assert account["weights_bytes"] == round(14.9889 * GIB)
    assert found["mixed_models"] == []


def test_nodes_of_one_server_in_two_containers_are_one_start(explain: Any) -> None:
    nodes = [
        "\n".join(
            f"node-{rank}  | {line}" for line in SGLANG.format(tp=2, rank=rank, tokens=tokens).splitlines()
        )
        for rank, tokens in ((0, 442_913), (1, 440_000))
    ]
    found = explain(interleaved(*nodes))
    assert found["starts"]["count"] == 1
    assert found["account"]["pool_tokens"] == 440_000


def test_a_node_that_only_works_for_another_is_no_start_of_its_own(explain: Any) -> None:
    """It prints no configuration, and no rank that another node has."""
    leader = [
        "(APIServer pid=1) INFO non-default args: {'model': 'a/b', 'tensor_parallel_size': 2}",
        "(Worker_TP0 pid=11) INFO 01-10 10:00:00 [gpu_worker.py:1] Available KV cache memory: 12.50 GiB",
        "(EngineCore_DP0 pid=9) INFO 01-10 10:00:01 [kv_cache_utils.py:1] GPU KV cache size: 80,000 tokens",
    ]
    worker = [
        "(Worker_TP1 pid=12) INFO 01-10 10:00:00 [gpu_worker.py:1] Available KV cache memory: 11.50 GiB"
    ]
    for names in (("vllm-0 server ", "vllm-0-1 worker "), ("[pod/vllm-0/server] ", "[pod/vllm-0-1/worker] ")):
        lines = [names[0] + line for line in leader] + [names[1] + line for line in worker]
        for order in (lines, [*lines[:1], lines[3], *lines[1:3]]):
            found = explain("\n".join(order))
            assert found["starts"]["count"] == 1
            assert (found["account"]["model"], found["account"]["pool_bytes"]) == ("a/b", round(11.5 * GIB))


def test_servers_mixed_without_a_name_are_said_to_be(
    explain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = interleaved(start(37.5, 300_000, model="a/large"), start(15.5, 120_000, model="b/small"))
    assert explain(log)["mixed_models"] == ["a/large", "b/small"]
    path = tmp_path / "start.log"
    assert run(["explain-log", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the lines of 2 servers are mixed (a/large, b/small): give the log of one" in shown


def test_a_model_fetched_into_a_folder_is_no_other_server(explain: Any) -> None:
    found = explain(
        "INFO non-default args: {'model': 's3://models/llama'}\n"
        "INFO Initializing a V1 LLM engine (v0.11.0) with config: model='/tmp/3f9a', max_seq_len=32768\n"
        "INFO Available KV cache memory: 54.58 GiB\n"
    )
    assert found["mixed_models"] == []


def test_one_line_that_another_engine_would_print_is_no_start_of_its_own(explain: Any) -> None:
    stray = "INFO Model loading took 14.99 GiB and 3 seconds\n"
    found = explain(SGLANG.format(tp=1, rank=0, tokens=440_000) + stray)
    assert (found["starts"]["count"], found["account"]["engine"]) == (1, "sglang")


@pytest.mark.parametrize(("said", "advised"), [("bfloat16", True), ("float8_e4m3fn", False)])
def test_a_cache_that_is_narrow_already_is_not_to_be_halved(explain: Any, said: str, advised: bool) -> None:
    log = SGLANG.format(tp=1, rank=0, tokens=440_000).replace("#tokens", f"dtype: torch.{said}, #tokens")
    changes = [change["change"] for change in explain(log)["enlarge"]]
    assert ("--kv-cache-dtype fp8_e4m3" in changes) == advised
