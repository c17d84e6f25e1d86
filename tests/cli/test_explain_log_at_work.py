"""Logs of servers that have served: what their reports come to, and the shapes in which logs are kept."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run
from kvplan.sizing.logs.documents import newest_first

VLLM = """\
INFO 11-20 10:11:05 [api_server.py:1896] vLLM API server version 0.10.1.1
INFO 11-20 10:12:30 [gpu_worker.py:276] Available KV cache memory: 53.65 GiB
INFO 11-20 10:12:31 [kv_cache_utils.py:849] GPU KV cache size: 439,472 tokens
INFO 11-20 10:12:32 [kv_cache_utils.py:853] Maximum concurrency for 32,768 tokens per request: 13.41x
INFO 11-20 10:20:53 [loggers.py:123] Engine 000: Avg prompt throughput: 8123.4 tokens/s, Avg generation throughput: 912.3 tokens/s, Running: 64 reqs, Waiting: 12 reqs, Deferred: 2 reqs, Preemptions: 3, GPU KV cache usage: 98.7%, Prefix cache hit rate: 43.1%, External prefix cache hit rate: 7.0%
INFO 11-20 10:21:03 [loggers.py:123] Engine 000: Avg prompt throughput: 7123.4 tokens/s, Avg generation throughput: 1012.3 tokens/s, Running: 60 reqs, Waiting: 20 reqs, Preemptions: 4, GPU KV cache usage: 99.9%, Prefix cache hit rate: 41.1%
"""
BEFORE_V1 = """\
INFO 10-02 12:00:01 api_server.py:495] vLLM API server version 0.6.2
INFO 10-02 12:01:50 distributed_gpu_executor.py:57] # GPU blocks: 31234, # CPU blocks: 3276
INFO 10-02 12:10:00 metrics.py:351] Avg prompt throughput: 1211.0 tokens/s, Avg generation throughput: 300.2 tokens/s, Running: 240 reqs, Swapped: 3 reqs, Pending: 11 reqs, GPU KV cache usage: 97.5%, CPU KV cache usage: 2.1%.
INFO 10-02 12:10:00 metrics.py:367] Prefix cache hit rate: GPU: 22.15%, CPU: 0.00%
WARNING 10-02 12:11:02 scheduler.py:1481] Sequence group cmpl-9d2 is preempted by PreemptionMode.RECOMPUTE mode because there is not enough KV cache space. total_num_cumulative_preemption=51
"""
SGLANG = """\
[2026-03-11 09:03:12 TP0] KV Cache is allocated. #tokens: 524288, KV size: 34.31 GB
[2026-03-11 09:03:54 TP0] max_total_num_tokens=524288, chunked_prefill_size=8192, max_running_requests=4096, context_len=65536
[2026-03-11 09:05:01 TP0] Prefill batch [12], #new-seq: 3, #new-token: 6000, #cached-token: 4000, full token usage: 0.43, swa token usage: 0.61, #running-req: 55, #queue-req: 7,
[2026-03-11 09:05:03 TP0] Decode batch. #running-req: 58, #token: 240123, token usage: 0.46, cuda graph: True, gen throughput (token/s): 1211.32, #queue-req: 0,
"""
OOM = """\
INFO 05-02 12:01:00 [gpu_model_runner.py:1347] Model loading took 68.3500 GiB and 44.1 seconds
ERROR 05-02 12:01:30 torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.43 GiB. GPU 1 has a total capacity of 79.11 GiB of which 2.41 GiB is free.
"""


def explained(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["explain-log", str(path), "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("text", "service"),
    [
        (
            VLLM,
            {
                "reports": 2,
                "running": 64,
                "waiting": 20,
                "usage": 0.999,
                "hit_ratio": 0.411,
                "preemptions": 7,
                "external_ratio": 0.07,
                "drafts": None,
            },
        ),
        (
            BEFORE_V1,
            {
                "reports": 3,
                "running": 240,
                "waiting": 11,
                "usage": 0.975,
                "hit_ratio": 0.2215,
                "preemptions": 51,
                "drafts": None,
            },
        ),
        (
            SGLANG,
            {
                "reports": 2,
                "running": 58,
                "waiting": 7,
                "usage": 0.61,
                "hit_ratio": 0.4,
                "preemptions": 0,
                "drafts": None,
                "pool": "the pool of windows",
            },
        ),
    ],
    ids=["vllm", "before V1", "sglang"],
)
def test_what_a_server_reports_is_summed_up(
    text: str, service: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    path.write_text(text)
    found = explained(path, capsys)
    alone = {"pool": "", "ranks": 1, "too_long": 0, "external_ratio": None}
    assert found["service"] == pytest.approx({**alone, **service})
    assert found["read"]["not_understood"] == 0


def test_reports_before_the_last_start_are_not_its(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    path.write_text(VLLM + VLLM.replace("Preemptions: 3, ", "").replace("Preemptions: 4, ", ""))
    found = explained(path, capsys)
    assert found["service"]["preemptions"] == 0
    assert any("a larger pool lets more of them run" in text for text in found["at_work"])


def test_what_clients_say_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.log"
    said = "INFO Received request cmpl-1: prompt: 'Avg prompt throughput, Running: 9 reqs, Preemptions: 99'"
    path.write_text(f"{VLLM}{said}\n")
    found = explained(path, capsys)
    assert found["service"]["preemptions"] == 7
    assert found["read"]["not_understood"] == 1


def test_a_start_without_reports_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.log"
    path.write_text("".join(VLLM.splitlines(keepends=True)[:4]))
    found = explained(path, capsys)
    assert found["service"] is None
    assert found["at_work"] == []


LINES = VLLM.splitlines()
SHAPES: dict[str, bytes] = {
    "gzip": gzip.compress(VLLM.encode()),
    "bzip2": bz2.compress(VLLM.encode()),
    "newest first": "\n".join(reversed(LINES)).encode(),
    "one array": json.dumps([{"line": line, "timestamp": 1} for line in LINES]).encode(),
    "an indented array, newest first": json.dumps(
        [{"textPayload": line} for line in reversed(LINES)], indent=2
    ).encode(),
    "Loki's answer": json.dumps(
        {"data": {"result": [{"stream": {"pod": "a"}, "values": [[str(10**18 + n), line]
                                                                 for n, line in enumerate(LINES)]}]}}
    ).encode(),
    "CloudWatch's answer": json.dumps({"events": [{"timestamp": 1, "message": line} for line in LINES]}).encode(),
    "journald's bytes": "\n".join(
        json.dumps({"MESSAGE": list(f"\x1b[36m(EngineCore pid=1)\x1b[0m {line}".encode())}) for line in LINES
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_in_which_logs_are_kept(
    shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept"
    path.write_bytes(SHAPES[shape])
    found = explained(path, capsys)
    assert found["starts"]["count"] == 1
    assert found["account"]["pool_tokens"] == 439_472
    assert found["account"]["concurrency"] == 13.41
    assert found["service"]["preemptions"] == 7
    assert found["newest_first"] == ("newest first" in shape)


def test_a_cut_archive_is_called_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "start.log.gz"
    path.write_bytes(SHAPES["gzip"][:-40])
    assert run(["explain-log", str(path)]) == 1
    assert "cut short" in capsys.readouterr().err


def test_ranks_that_print_together_are_not_in_reverse() -> None:
    lines = [f"INFO 11-20 10:{minute:02d}:{second} x" for minute in range(9) for second in ("31", "30", "32")]
    assert not newest_first(lines)
    assert newest_first(lines[::-1])
    assert not newest_first(["no time at all"] * 9)


def test_memory_that_ran_out_behind_the_weights_is_not_theirs_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "start.log"
    path.write_text(OOM)
    found = explained(path, capsys)
    assert "behind the weights" in found["reasons"][0]
    assert "--max-num-batched-tokens" in found["enlarge"][0]["change"]


def test_a_start_that_says_no_pool_is_cut_off_and_another_may_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    path.write_text(VLLM + "".join(VLLM.splitlines(keepends=True)[:1]))
    assert any("ends before it says" in reason for reason in explained(path, capsys)["reasons"])
    assert run(["explain-log", str(path), "--start", "1", "--format", "json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["starts"]["count"], first["explained_start"]) == (2, 1)
    assert first["account"]["pool_tokens"] == 439_472
    assert first["service"]["preemptions"] == 7
    assert run(["explain-log", str(path), "--start", "3"]) == 2
    assert run(["explain-log", str(path), "--start", "1"]) == 0
    assert "number 1 is explained" in capsys.readouterr().out


def test_who_ran_out_of_memory_at_work_had_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    path.write_text(VLLM + OOM.splitlines()[1])
    assert run(["explain-log", str(path)]) == 0
    assert "what would keep it up" in capsys.readouterr().out


def test_reports_are_those_of_the_container(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.log"
    quiet = VLLM.replace("Preemptions: 3, ", "").replace("Preemptions: 4, ", "").splitlines()
    path.write_text("".join(f"vllm-a-1  | {a}\nvllm-b-1  | {b}\n" for a, b in zip(LINES, quiet, strict=True)))
    found = explained(path, capsys)
    assert (found["source"], found["service"]["preemptions"]) == ("vllm-b-1", 0)
    assert run(["explain-log", str(path), "--start", "1", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["service"]["preemptions"] == 7


def test_a_server_that_had_nothing_to_do_is_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    idle = "INFO 11-20 10:20:53 Avg prompt throughput: 0.0 tokens/s, Running: 0 reqs, Waiting: 0 reqs, GPU KV cache usage: 0.0%"
    path.write_text("\n".join([*LINES[:4], idle]))
    assert explained(path, capsys)["at_work"] == ["nothing ran whenever it reported"]


DEVICES = {
    "vllm 0.33 on another device": (
        (
            "INFO 11-11 09:01:36 [gpu_worker.py:760] Available KV cache memory: 4.4 GiB\n"
            "INFO 11-11 09:03:00 [loggers.py:300] Engine 000: Avg prompt throughput: 9.1 tokens/s, Avg generation "
            "throughput: 8.0 tokens/s, Running: 12 reqs, Waiting: 3 reqs, XPU KV cache usage: 97.1%, Prefix cache hit "
            "rate: 12.3%\n"
            "INFO 11-11 09:03:01 [loggers.py:200] Engine 000: Iteration(121): 1 context requests, 800 context tokens, 12 "
            "generation requests, 12 generation tokens, iteration elapsed time: 31.22 ms, XPU KV cache usage: 98.4%\n"
        ),
        ["the pool was at most 98.4% full", "a larger pool lets more of them run"],
    ),
    "the pool that is full is named": (
        (
            "[10:00:31 TP0] KV Cache is allocated. #tokens: 1110000, K size: 6.35 GB, V size: 6.35 GB\n"
            "[10:01:37 TP0] Decode batch, #running-req: 117, #full token: 210000, full token usage: 0.19, mamba num: 234, "
            "mamba usage: 0.97, cuda graph: True, gen throughput (token/s): 1911.2, #queue-req: 40\n"
        ),
        ["the pool of states was at most 97.0% full", "while the pool of states was full"],
    ),
    "ranks have a pool each": (
        "INFO Available KV cache memory: 4.4 GiB\n"
        + "".join(
            f"INFO [loggers.py:300] Engine 00{rank}: Avg prompt throughput: 9.1 tokens/s, Avg generation throughput: "
            f"8.0 tokens/s, Running: {12 + rank} reqs, Waiting: 0 reqs, GPU KV cache usage: 27.1%\n"
            for rank in range(3)
        ),
        ["at most 14 requests ran and none waited at once on one of 3 ranks, by the 3 lines that report"],
    ),
    "requests that no pool holds": (
        (
            "INFO 01-10 09:00:33 gpu_executor.py:76] # GPU blocks: 28080, # CPU blocks: 2048\n"
            "WARNING 01-10 09:03:02 scheduler.py:895] Input prompt (140000 tokens) is too long and exceeds limit of 131072\n"
            "WARNING 01-10 09:03:03 scheduler.py:895] Input prompt (150000 tokens) is too long and exceeds limit of 131072\n"
        ),
        ["2 requests were refused or cut: longer than the pool, or than a request may be"],
    ),
    "drafts before V1": (
        (
            "INFO 01-10 09:00:33 gpu_executor.py:76] # GPU blocks: 28080, # CPU blocks: 2048\n"
            "INFO 01-10 09:03:00 metrics.py:489] Speculative metrics: Draft acceptance rate: 0.613, System efficiency: "
            "0.511, Number of speculative tokens: 5, Number of accepted tokens: 3003, Number of draft tokens: 4900, Number "
            "of emitted tokens: 3006.\n"
        ),
        ["a verification yielded 3.07 tokens on average"],  # 51.1 % of six
    ),
}


@pytest.mark.parametrize("name", DEVICES)
def test_what_else_servers_report(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, said = DEVICES[name]
    path = tmp_path / "run.log"
    path.write_text(text)
    found = explained(path, capsys)
    assert found["read"]["not_understood"] == 0
    for phrase in said:
        assert any(phrase in sentence for sentence in found["at_work"]), found["at_work"]


DRAFTS = """\
INFO 11-20 10:20:53 [metrics.py:96] SpecDecoding metrics: Mean acceptance length: 2.50, Accepted throughput: 41.79 tokens/s, Drafted throughput: 83.58 tokens/s, Accepted: 450 tokens, Drafted: 600 tokens, Per-position acceptance rate: 0.900, 0.600, Avg Draft acceptance rate: 75.0%
INFO 11-20 10:21:03 [metrics.py:96] SpecDecoding metrics: Mean acceptance length: 1.50, Accepted throughput: 4.00 tokens/s, Drafted throughput: 20.00 tokens/s, Accepted: 50 tokens, Drafted: 200 tokens, Per-position acceptance rate: 0.400, 0.100, Avg Draft acceptance rate: 25.0%
"""
SGLANG_DRAFTS = """\
[2026-03-11 09:05:03 TP0] Decode batch. #running-req: 30, #token: 240123, token usage: 0.46, accept len: 3.00, accept rate: 0.67, cuda graph: True, gen throughput (token/s): 1211.32, #queue-req: 0,
[2026-03-11 09:05:04 TP0] Decode batch. #running-req: 10, #token: 240123, token usage: 0.46, accept len: 1.00, accept rate: 0.00, cuda graph: True, gen throughput (token/s): 1211.32, #queue-req: 0,
"""


@pytest.mark.parametrize(
    ("text", "length", "rates", "words"),
    [
        (VLLM + DRAFTS, 2.25, (0.775, 0.475), "speculative.acceptance: [0.775, 0.475]"),
        (SGLANG + SGLANG_DRAFTS, 2.5, (), "speculative.acceptance_length"),
        ("\n".join(VLLM.splitlines()[:4]) + "\n" + DRAFTS, 2.25, (0.775, 0.475), "2.25 tokens on average"),
        (VLLM + DRAFTS.replace(" 0.100,", ""), 2.1, (), "2.10 tokens on average"),
        (VLLM + DRAFTS.replace("0.900", "9.000").replace("length: 1.50", "length: 0.20"), None, (), ""),
        (
            VLLM + DRAFTS.replace("Drafted: 600", "Drafted: 0").replace("Drafted: 200", "Drafted: 0"),
            None,
            (),
            "",
        ),
    ],
)
def test_what_became_of_drafts(
    text: str, length: float | None, rates: tuple[float, ...], words: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "server.log"
    path.write_text(text)
    found = explained(path, capsys)
    drafts = found["service"]["drafts"]
    said = [line for line in found["at_work"] if "verification" in line]
    if length is None:
        assert drafts is None
        assert not said
        return
    assert drafts["length"] == pytest.approx(length)
    assert drafts["rates"] == pytest.approx(list(rates))
    assert words in said[0]


@pytest.mark.parametrize(
    ("usage", "fullest"),
    [
        ("#token: full=512, swa=700, token usage: full=0.25, swa=0.61, ", ("the pool of windows", "61.0%")),
        ("#token: full=512, swa=70, token usage: full=0.25, swa=0.06, ", ("the pool", "25.0%")),
        ("#token: 512, token usage: 0.25, pre-allocated usage: 0.90, ", ("the pool", "25.0%")),
    ],
)
def test_pools_in_every_wording_of_sglang(
    usage: str, fullest: tuple[str, str], tmp_path: Path, capsys
) -> None:
    """Two in one, as 0.4.9 says them; what a decode server has promised to prompts to come is not in use."""
    path = tmp_path / "server.log"
    start = SGLANG.splitlines(keepends=True)[:2]
    path.write_text(
        "".join(start) + f"[2026-03-11 09:05:03 TP0] Decode batch. #running-req: 5, {usage}#queue-req: 0\n"
    )
    pool, share = fullest
    assert f"{pool} was at most {share} full" in explained(path, capsys)["at_work"]


def test_what_a_connector_found_is_told(tmp_path: Path, capsys) -> None:
    path = tmp_path / "server.log"
    path.write_text(VLLM)
    assert (
        "of late, 7.0% of what a KV connector was asked for was there" in explained(path, capsys)["at_work"]
    )


def test_prompts_longer_than_sglangs_pool_are_counted(tmp_path: Path, capsys) -> None:
    path = tmp_path / "server.log"
    line = "[2026-03-11 09:06:00] Input length (30000 tokens) exceeds the maximum allowed length (23494 tokens). Use a shorter input"
    path.write_text(SGLANG + line + "\n")
    assert (
        "a request was refused or cut: longer than the pool, or than a request may be"
        in explained(path, capsys)["at_work"]
    )


def test_prompts_that_vllm_refuses_are_counted_and_end_nothing(tmp_path: Path, capsys) -> None:
    path = tmp_path / "server.log"
    error = "ERROR 11-20 10:22:00 [serving_chat.py:240] ValueError: This model's maximum context length is 32768 tokens. However, you requested 40000"
    one = (
        VLLM.splitlines(keepends=True)[4]
        .replace("Running: 64", "Running: 1")
        .replace("Waiting: 12", "Waiting: 0")
    )
    path.write_text("".join(VLLM.splitlines(keepends=True)[:4]) + one + error + "\n")
    found = explained(path, capsys)
    assert found["account"]["refused"] is None
    assert found["at_work"][0] == "at most 1 request ran and none waited at once, by the 2 lines that report"
    assert (
        found["at_work"][-1] == "a request was refused or cut: longer than the pool, or than a request may be"
    )
