"""Data-parallel attention: equality with the engine for one rank, common steps, and what waiting costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fuzzing import examples, fuzz
from hypothesis import given
from hypothesis import strategies as st
from workloads import cases

from kvplan.engine.config import EngineConfig
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.engine.router import ROUTERS
from kvplan.errors import UnknownName, UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request
from kvplan.traces.synthesize import synthesize

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
CONFIG = EngineConfig(num_blocks=3000, max_num_batched_tokens=2048, max_model_len=16384)


def play(
    ranks: int, requests: list[Request], config: EngineConfig = CONFIG, router: str = "least-loaded",
    *, log: bool = False, clock: LinearLatency = CLOCK, stride: int = 1,
) -> tuple[list[RequestRow], Recorder, LockstepEngine, list[str]]:  # fmt: skip
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride
    engine = DataParallelAttention(ranks, router).engine(config, clock, recorder)
    engine.run(requests)
    engine.close()
    return rows, recorder, engine, lines


@examples(150)
@given(cases())
def test_one_rank_is_the_engine_itself(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append)
    alone = Replica(config, CLOCK, recorder)
    alone.run(requests)
    alone.close()
    ours, whole, _, _ = play(1, requests, config)
    assert ours == rows
    assert whole.totals.to_dict() == recorder.totals.to_dict()
    assert whole.series == recorder.series


@examples(100)
@given(cases(), st.integers(2, 4), st.sampled_from(ROUTERS.names()))
def test_requests_and_blocks_are_conserved_whatever_the_pressure(
    case: tuple[EngineConfig, list[Request]], ranks: int, router: str
) -> None:
    config, requests = case
    rows, recorder, engine, _ = play(ranks, requests, config, router)
    totals = recorder.totals
    assert totals.requests == len(requests) == totals.finished + totals.rejected
    assert totals.unfinished == 0
    for row in rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
    for rank in engine.ranks:
        assert rank.scheduler.free_blocks == config.usable_blocks


@fuzz(250)
@given(cases(), st.integers(2, 4), st.sampled_from([1, 3, 1000]))
def test_steps_taken_in_bulk_are_steps_taken_one_by_one(
    case: tuple[EngineConfig, list[Request]], ranks: int, stride: int
) -> None:
    """With a decision log every step is planned; without one quiet steps are taken in bulk, up to the next
    point of the series."""
    config, requests = case
    bulk = play(ranks, requests, config, stride=stride)
    single = play(ranks, requests, config, stride=stride, log=True)
    assert bulk[0] == single[0]
    assert bulk[1].totals.to_dict() == single[1].totals.to_dict()
    assert bulk[1].series == single[1].series
    assert bulk[1].sections == single[1].sections


def test_a_block_that_fills_in_bulk_steps_lets_in_who_waits_in_the_same_step() -> None:
    """A running request's answer is how the waiting prompt begins."""
    config = EngineConfig(
        num_blocks=14, block_size=3, max_model_len=21, max_num_seqs=3, max_num_batched_tokens=10,
        async_scheduling=False,
    )  # fmt: skip
    requests = [
        Request("r00", 0.0, ((1000, 6), (1050, 12)), 18, ((500, 3),), 3),
        Request("r01", 0.0, ((1000, 1),), 1, ((500, 3),), 3),
        Request("r02", 0.006, ((1000, 1), (500, 2), (1100, 1), (1150, 12)), 16, ((500, 1),), 1),
    ]
    assert play(1, requests, config, stride=1000)[0] == play(1, requests, config, log=True)[0]


def test_who_could_be_let_in_among_bulk_steps_is_no_longer_held_back() -> None:
    """``prefill_schedule_interval``: found by random workloads."""
    config = EngineConfig(
        num_blocks=6, block_size=4, max_model_len=64, max_num_seqs=2, max_num_batched_tokens=40,
        enable_prefix_caching=False, scheduler_reserve_full_isl=False, prefill_schedule_interval=4,
    )  # fmt: skip
    requests = [
        Request("r0", 0.1, ((0, 1),), 1, ((10**6, 9),), 9),
        Request("r1", 0.1, ((0, 1),), 1, ((10**6 + 1000, 1),), 1),
        Request("r2", 0.101, ((1000, 2),), 2, ((10**6 + 2000, 4),), 4),
        Request("r3", 0.101, ((2000, 1),), 1, ((10**6 + 3000, 1),), 1),
        Request("r4", 0.123, ((4000, 2),), 2, ((10**6 + 4000, 1),), 1),
    ]
    bulk = play(2, requests, config, "round-robin", stride=1000)
    assert bulk[0] == play(2, requests, config, "round-robin", log=True)[0]


@pytest.mark.parametrize("ranks", [1, 2])
def test_steps_taken_in_bulk_count_towards_the_next_prompt(ranks: int) -> None:
    """``prefill_schedule_interval``, which one rank keeps itself and several keep together."""
    config = replace(CONFIG, prefill_schedule_interval=8, async_scheduling=False)
    running = [Request(f"r{rank}", 0.0, ((100 * rank, 2),), 2, ((9000, 60),), 60) for rank in range(ranks)]
    requests = [*running, Request("late", 0.1, ((5000, 2),), 2, ((9900, 4),), 4)]
    bulk = play(ranks, requests, config, stride=1000)
    assert bulk[0] == play(ranks, requests, config, log=True)[0]


def test_bulk_steps_on_a_real_workload() -> None:
    chat = list(synthesize("chat", 150, 40.0, 0))
    bulk, single = play(3, chat), play(3, chat, log=True)
    assert bulk[0] == single[0]
    assert bulk[1].sections == single[1].sections
    planned = len({line.split("\t")[1] for line in single[3]})
    assert planned > 0


def test_every_step_lasts_as_long_as_the_slowest_rank() -> None:
    """A rank decodes next to one that computes a long prompt, and waits for it."""
    config = replace(CONFIG, async_scheduling=False, enable_prefix_caching=False)
    clock = LinearLatency(1.0, 1.0, 0.0)
    requests = [
        Request("short", 0.0, ((0, 1),), 1, ((9000, 3),), 3),
        Request("long", 0.5, ((100, 10),), 10, ((9900, 1),), 1),
    ]
    rows = {row.id: row for row in play(2, requests, config, "round-robin", clock=clock)[0]}
    # [0, 2] short's prompt; [2, 13] its second token beside ten tokens of the other rank; [13, 15] its last.
    assert rows["short"] == RequestRow("short", 0.0, 0.0, 2.0, 15.0, 1, 3, 0, 0)
    assert rows["long"] == RequestRow("long", 0.5, 2.0, 13.0, 13.0, 10, 1, 0, 0)
    _, recorder, _, _ = play(2, requests, config, "round-robin", clock=clock)
    found = {metric.name: metric.value for metric in recorder.sections["dp_attention"]}
    assert recorder.totals.steps == 3
    assert found["idle"] == 2 / 6
    assert found["waited"] == pytest.approx(1 - (2 + 2 + 11 + 2) / (2 * 15))


def test_ranks_pay_for_each_other() -> None:
    """As many engines on their own are never slower: nobody waits for the slowest."""
    from kvplan.engine.cluster import Cluster

    chat = list(synthesize("chat", 200, 40.0, 0))
    ours = play(4, chat, router="round-robin")[1].totals
    recorder = Recorder()
    apart = Cluster(4, "round-robin", CONFIG, CLOCK, recorder)
    apart.run(chat)
    apart.close()
    assert ours.makespan_s > recorder.totals.makespan_s
    assert ours.finished == recorder.totals.finished == 200


def test_decisions_carry_the_rank() -> None:
    chat = list(synthesize("chat", 40, 40.0, 0))
    lines = play(3, chat, log=True)[3]
    assert {line.split("\t")[0] for line in lines} == {"0", "1", "2"}


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one rank"):
        DataParallelAttention(0).engine(CONFIG, CLOCK, Recorder())
    with pytest.raises(UsageError, match="belady"):
        DataParallelAttention(2).engine(replace(CONFIG, eviction="belady"), CLOCK, Recorder())
    with pytest.raises(UnknownName, match="routing policy"):
        DataParallelAttention(2, "vllm").engine(CONFIG, CLOCK, Recorder())
