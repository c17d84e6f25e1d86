"""What an engine refuses to be started with, and what its front end turns away."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.engine import ENGINES, make_engine
from kvplan.engine.errors import EngineStuck
from kvplan.engine.frontend import rejection
from kvplan.engine.recorder import Recorder
from kvplan.errors import UnknownName, UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request, default_output


@pytest.mark.parametrize(
    "bad",
    [
        {"num_blocks": 1},
        {"num_blocks": 10, "block_size": 0},
        {"num_blocks": 10, "max_num_seqs": 0},
        {"num_blocks": 10, "max_num_batched_tokens": -1},
        {"num_blocks": 10, "policy": "lifo"},
        {"num_blocks": 10, "watermark": 1.0},
        {"num_blocks": 10, "watermark": -0.1},
        {"num_blocks": 10, "retention_interval": -1},
        {"num_blocks": 10, "prefill_schedule_interval": 0},
        {"num_blocks": 10, "enable_chunked_prefill": False, "max_model_len": 9000},
    ],
)
def test_impossible_options_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EngineConfig(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "full", "block_size": 0},
        {"kind": "sliding", "block_size": 4},
        {"kind": "full", "block_size": 4, "window": 8},
        {"kind": "ring", "block_size": 4},
    ],
)
def test_impossible_groups_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CacheGroup(**bad)


def request(prompt: int, output: int) -> Request:
    return Request("a", 0.0, ((0, prompt),), prompt, default_output(0, output), output)


def test_the_front_end_turns_away_what_can_never_be_served() -> None:
    config = EngineConfig(num_blocks=11, block_size=4, max_model_len=100)
    # 10 usable blocks hold 40 tokens; the last sampled token never gets KV.
    assert rejection(request(40, 1), config) is None
    assert rejection(request(30, 11), config) is None
    assert "blocks" in str(rejection(request(40, 2), config))
    assert "max_model_len" in str(rejection(request(90, 11), config))


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_the_largest_admissible_request_is_served(engine: str) -> None:
    config = EngineConfig(num_blocks=11, block_size=4, max_model_len=100, max_num_batched_tokens=7)
    recorder = Recorder()
    running = make_engine(engine, config, LinearLatency(0.001, 0.0, 0.0), recorder)
    running.run([request(30, 11)])
    running.close()
    assert recorder.totals.finished == 1
    assert recorder.totals.peak_used_blocks == 10
    assert recorder.totals.preemptions == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lone_group_says_how_long_a_block_is(engine: str) -> None:
    config = EngineConfig(
        num_blocks=7, block_size=4, max_model_len=40, groups=(CacheGroup("full", 8),), async_scheduling=False
    )
    assert config.block_size == 8
    lines: list[str] = []
    running = make_engine(engine, config, LinearLatency(1.0, 0.0, 0.0), Recorder(on_decision=lines.append))
    running.run([Request("a", 0.0, ((0, 16),), 16, ((100, 3),), 3)])
    assert lines == ["a=16|4|1|0|", "a=1|3|1|0|", "a=1|3|1|0|"]


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(UnknownName, match="engine"):
        make_engine("quick", EngineConfig(num_blocks=9), LinearLatency(1e-3, 0, 0), Recorder())


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_the_scheduler_never_reads_an_output_length(engine: str) -> None:
    """Up to the first finish, two workloads that differ only in output lengths are decided alike."""
    lines: list[list[str]] = []
    for outputs in ((5, 9, 30), (25, 12, 30)):
        log: list[str] = []
        config = EngineConfig(num_blocks=12, block_size=4, max_model_len=64, max_num_batched_tokens=16)
        running = make_engine(engine, config, LinearLatency(0.01, 0, 0), Recorder(on_decision=log.append))
        running.run(
            Request(f"r{i}", 0.0, ((100 * i, 9),), 9, default_output(i, n), n) for i, n in enumerate(outputs)
        )
        lines.append(log)
    common = 4  # the shortest answer of the first workload ends with the fifth step at the earliest
    assert lines[0][:common] == lines[1][:common]


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_requests_that_preempt_each_other_without_end_end_the_run_with_a_reason(engine: str) -> None:
    """vLLM's rules allow it: the same priority and arrival, and admission without room for the whole prompt."""
    config = EngineConfig(
        8, block_size=3, max_model_len=23, max_num_seqs=2, max_num_batched_tokens=25, policy="priority",
        enable_prefix_caching=False, long_prefill_token_threshold=3, scheduler_reserve_full_isl=False,
    )  # fmt: skip
    twins = [
        Request(name, 0.0, ((start, 16),), 16, ((start + 500, 5),), 5)
        for name, start in (("a", 0), ("b", 1000))
    ]
    running = make_engine(engine, config, LinearLatency(0.05, 0, 0), Recorder())
    with pytest.raises(EngineStuck, match="preempted without end"):
        running.run(twins)
