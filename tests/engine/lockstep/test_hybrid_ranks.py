"""Laws of vLLM's ranks whose pools have several cache groups."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fuzzing import fuzz
from grouped import grouped_cases, long_decodes
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.instance import make_replica, simulated_in_segments
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.strategy import Engine
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
SAME = ("steps", "preemptions", "evicted_blocks", "queried_tokens", "hit_tokens", "finished", "rejected")
PEAKS = ("peak_used_blocks", "peak_running", "peak_waiting")
Told = tuple[list[RequestRow], list[int | float], str]


def told(
    engine: Engine, recorder: Recorder, rows: list[RequestRow], requests: list[Request], *more: str
) -> Told:
    stuck = ""
    try:
        engine.run(requests)
    except EngineStuck as exc:
        stuck = exc.message
    engine.close()
    return rows, [getattr(recorder.totals, name) for name in (*SAME, *more)], stuck


@fuzz(300)
@given(case=st.one_of(grouped_cases(), long_decodes()))
def test_one_rank_is_the_replica(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    if not simulated_in_segments(config):
        return
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append)
    alone = told(make_replica(config, CLOCK, recorder), recorder, rows, requests, *PEAKS)
    ours: list[RequestRow] = []
    recorder = Recorder(on_request=ours.append)
    engine = LockstepEngine(1, "round-robin", config, CLOCK, recorder)
    assert told(engine, recorder, ours, requests, *PEAKS) == alone


@fuzz(300)
@given(
    case=st.one_of(grouped_cases(), long_decodes()),
    ranks=st.integers(2, 3),
    stride=st.sampled_from([1, 3, 1000, 1000]),
)
def test_steps_taken_in_bulk_are_the_same_steps(
    case: tuple[EngineConfig, list[Request]], ranks: int, stride: int
) -> None:
    """With a decision log every step is planned; without one quiet steps are taken in bulk, up to the next
    point of the series."""
    config, requests = case
    if not simulated_in_segments(config):
        return
    found = []
    for log in (None, lambda _: None):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append, on_decision=log)
        recorder.series_stride = stride
        engine = LockstepEngine(ranks, "round-robin", config, CLOCK, recorder)
        found.append((told(engine, recorder, rows, requests, *PEAKS), recorder.series, recorder.sections))
    assert found[0] == found[1]


def test_every_group_needs_its_blocks_in_bulk_steps() -> None:
    """A pool in which two requests run out of blocks in the middle of bulk steps; found by random workloads."""
    groups = (CacheGroup("full", 4), CacheGroup("chunked", 4, 24))
    config = EngineConfig(
        num_blocks=25, block_size=4, max_model_len=57, max_num_seqs=6, max_num_batched_tokens=40,
        enable_prefix_caching=False, scheduler_reserve_full_isl=False, async_scheduling=False, groups=groups,
    )  # fmt: skip
    requests = [
        Request("long", 0.401, ((0, 13),), 13, ((10**6, 30),), 30),
        Request("short", 0.502, ((7000, 10),), 10, ((10**6 + 7000, 9),), 9),
    ]
    found = []
    for log in (None, lambda _: None):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append, on_decision=log, series=False)
        engine = LockstepEngine(1, "round-robin", config, CLOCK, recorder)
        found.append(told(engine, recorder, rows, requests, *PEAKS))
    assert found[0] == found[1]


def test_groups_that_ranks_cannot_keep_are_refused() -> None:
    groups = (CacheGroup("full", 4), CacheGroup("full", 8))
    config = replace(EngineConfig(64, 8, 64, 4, 64), groups=groups)
    with pytest.raises(UsageError, match="two sizes"):
        DataParallelAttention(2).engine(config, CLOCK, Recorder())
