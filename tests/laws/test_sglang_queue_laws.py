"""What priorities and limits of SGLang's queue may change, whatever is asked of it."""

from __future__ import annotations

from dataclasses import replace

from fuzzing import fuzz
from hypothesis import given
from radix_runs import runs

from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import EvictionParameters
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

FUZZ = fuzz(100)


def decisions(config: SglangConfig, workload: list[Request]) -> tuple[list[str], Recorder]:
    lines: list[str] = []
    recorder = Recorder(on_decision=lines.append)
    engine = SglangReplica(config, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
    try:
        engine.run(workload)
    except OutOfKvMemory as exc:
        lines.append(exc.message)
    engine.close()
    return lines, recorder


@FUZZ
@given(runs())
def test_equal_priorities_decide_nothing(case: tuple[SglangConfig, list[Request]]) -> None:
    config, workload = case
    config = replace(
        config, schedule_policy="fcfs", enable_priority_scheduling=True, disable_priority_preemption=True,
        radix_eviction_policy="lru", radix_eviction_policy_config=EvictionParameters(),
    )  # fmt: skip
    alike = [request._replace(priority=7) for request in workload]
    plain = replace(config, enable_priority_scheduling=False, retraction_policy="length")
    assert decisions(config, alike)[0] == decisions(plain, alike)[0]


@FUZZ
@given(runs())
def test_lowest_first_is_highest_first_of_the_opposite(case: tuple[SglangConfig, list[Request]]) -> None:
    config, workload = case
    # The cache keeps what is important by its own sense, which has no opposite.
    config = replace(
        config,
        schedule_policy="fcfs",
        enable_priority_scheduling=True,
        radix_eviction_policy="lru",
        radix_eviction_policy_config=EvictionParameters(),
    )
    other = replace(config, schedule_low_priority_values_first=not config.schedule_low_priority_values_first)
    opposite = [request._replace(priority=-request.priority) for request in workload]
    assert decisions(config, workload)[0] == decisions(other, opposite)[0]


@FUZZ
@given(runs())
def test_no_more_wait_than_may(case: tuple[SglangConfig, list[Request]]) -> None:
    config, workload = case
    _, recorder = decisions(config, workload)
    if config.max_queued_requests is not None:
        assert recorder.totals.peak_waiting <= config.max_queued_requests
    if not config.preempts:
        without = replace(config, max_queued_requests=len(workload))
        unlimited = replace(config, max_queued_requests=None)
        assert decisions(without, workload)[0] == decisions(unlimited, workload)[0]
