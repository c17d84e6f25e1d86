"""SGLang's ranks in step: one rank is the engine itself, bulk steps are single ones, and who waits for whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from crowds import Crowd, conversing, crowds
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from radix_runs import runs

from kvplan.engine.cluster import Cluster
from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.lockstep.sglang import SglangLockstepEngine
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.router import ROUTERS
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request
from kvplan.traces.synthesize import synthesize

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
FUZZ = fuzz(150)
CONFIG = SglangConfig(pool_tokens=60_000, chunked_prefill_size=2048, context_length=16_384)


class Played:
    """What ranks in step, or one engine alone (``ranks=0``), make of requests."""

    def __init__(
        self, ranks: int, workload, config: SglangConfig = CONFIG, router: str = "round-robin",
        *, log: bool = False, clock: LinearLatency = CLOCK, stride: int = 1,
    ) -> None:  # fmt: skip
        self.rows: list[RequestRow] = []
        self.lines: list[str] = []
        self.recorder = Recorder(on_request=self.rows.append, on_decision=self.lines.append if log else None)
        self.recorder.series_stride = stride
        self.engine: SglangReplica | SglangLockstepEngine = (
            DataParallelAttention(ranks, router).sglang_engine(config, clock, self.recorder)
            if ranks
            else SglangReplica(config, clock, self.recorder)
        )
        self.stopped = ""
        try:
            self.engine.run(workload)
        except OutOfKvMemory as exc:
            self.stopped = exc.message
        self.engine.close()
        self.totals = self.recorder.totals.to_dict()

    def tells(self) -> tuple[object, ...]:
        return self.rows, self.totals, self.recorder.series, self.stopped


@FUZZ
@given(case=runs(), log=st.booleans(), stride=st.sampled_from([1, 4, 1000]))
def test_one_rank_is_the_engine_itself(
    case: tuple[SglangConfig, list[Request]], log: bool, stride: int
) -> None:
    config, requests = case
    alone, ours = (Played(ranks, requests, config, log=log, stride=stride) for ranks in (0, 1))
    assert ours.tells() == alone.tells()
    assert [line.removeprefix("0\t") for line in ours.lines] == alone.lines


@FUZZ
@given(case=runs(), crowd=crowds, data=st.data())
def test_one_rank_is_the_engine_itself_for_clients_that_wait_and_leave(
    case: tuple[SglangConfig, list[Request]], crowd: Crowd, data: st.DataObject
) -> None:
    config, requests = case
    workload = data.draw(conversing(requests))
    alone, ours = (Played(ranks, crowd.arrivals(workload), config, stride=1000) for ranks in (0, 1))
    assert ours.tells() == alone.tells()


@FUZZ
@given(case=runs(), crowd=crowds, data=st.data(), ranks=st.integers(2, 3))
def test_bulk_steps_are_single_ones_for_clients_that_wait_and_leave(
    case: tuple[SglangConfig, list[Request]], crowd: Crowd, data: st.DataObject, ranks: int
) -> None:
    config, requests = case
    workload = data.draw(conversing(requests))
    bulk, single = (
        Played(ranks, crowd.arrivals(workload), config, log=log, stride=50) for log in (False, True)
    )
    assert bulk.tells() == single.tells()


@FUZZ
@given(case=runs(), ranks=st.integers(2, 4), stride=st.sampled_from([1, 3, 1000]))
def test_steps_taken_in_bulk_are_steps_taken_one_by_one(
    case: tuple[SglangConfig, list[Request]], ranks: int, stride: int
) -> None:
    config, requests = case
    bulk = Played(ranks, requests, config, stride=stride)
    single = Played(ranks, requests, config, stride=stride, log=True)
    assert bulk.tells() == single.tells()
    assert bulk.recorder.sections == single.recorder.sections


@FUZZ
@given(case=runs(), ranks=st.integers(2, 4), router=st.sampled_from(sorted(ROUTERS.names())))
def test_every_request_is_served_and_every_token_comes_back(
    case: tuple[SglangConfig, list[Request]], ranks: int, router: str
) -> None:
    config, requests = case
    played = Played(ranks, requests, config, router)
    if played.stopped:
        return
    totals = played.recorder.totals
    assert totals.requests == len(requests) == totals.finished + totals.rejected
    for row in played.rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
    for rank in played.engine.ranks:
        assert rank.scheduler.pool.unreferenced == config.pool_tokens


@pytest.mark.parametrize("overlap", [True, False])
def test_bulk_steps_on_a_real_workload(overlap: bool) -> None:
    chat = list(synthesize("chat", 150, 40.0, 0))
    config = replace(CONFIG, disable_overlap_schedule=not overlap)
    bulk, single = Played(3, chat, config), Played(3, chat, config, log=True)
    assert bulk.tells() == single.tells()
    assert bulk.recorder.sections == single.recorder.sections
    assert {line.split("\t")[0] for line in single.lines} == {"0", "1", "2"}


def test_every_step_lasts_as_long_as_the_slowest_rank() -> None:
    """A rank decodes next to one that computes a long prompt, and waits for it."""
    config = replace(CONFIG, disable_overlap_schedule=True, disable_radix_cache=True)
    requests = [
        Request("short", 0.0, ((0, 1),), 1, ((9000, 3),), 3),
        Request("long", 0.5, ((100, 10),), 10, ((9900, 1),), 1),
    ]
    played = Played(2, requests, config, clock=LinearLatency(1.0, 1.0, 0.0))
    rows = {row.id: row for row in played.rows}
    # [0, 2] short's prompt; [2, 13] its second token beside ten tokens of the other rank; [13, 15] its last.
    assert rows["short"] == RequestRow("short", 0.0, 0.0, 2.0, 15.0, 1, 3, 0, 0)
    assert rows["long"] == RequestRow("long", 0.5, 2.0, 13.0, 13.0, 10, 1, 0, 0)
    found = {metric.name: metric.value for metric in played.recorder.sections["dp_attention"]}
    assert played.recorder.totals.steps == 3
    assert found["idle"] == 2 / 6
    assert found["waited"] == pytest.approx(1 - (2 + 2 + 11 + 2) / (2 * 15))


def test_an_empty_rank_starts_its_estimate_over_only_when_all_are_empty() -> None:
    """``on_idle`` is not reached beside others that run: gathering makes an empty batch of none."""
    config = replace(CONFIG, disable_overlap_schedule=True)
    # Rank 0 answers 60 tokens, then waits for rank 1; its next request finds the estimate where it was.
    requests = [
        Request("a", 0.0, ((0, 8),), 8, ((9000, 60),), 60),
        Request("b", 0.0, ((100, 8),), 8, ((9500, 90),), 90),
        Request("c", 0.45, ((200, 8),), 8, ((9900, 2),), 2),
    ]
    seen: list[float] = []

    class Looking(LinearLatency):
        def step_seconds(self, batch) -> float:
            seen.append(engine.ranks[0].scheduler.ratio)
            return super().step_seconds(batch)

    recorder = Recorder()
    engine = DataParallelAttention(2, "round-robin").sglang_engine(config, Looking(5e-3, 0.0, 0.0), recorder)
    engine.run(requests)
    engine.close()
    assert recorder.totals.finished == 3
    # It decoded 59 times for the first request; with c it goes on from there.
    assert seen[-1] <= config.initial_ratio - 59 * config.ratio_decay + 1e-9
    engine.advance(1e9)
    assert {rank.scheduler.ratio for rank in engine.ranks} == {config.initial_ratio}


def test_ranks_pay_for_each_other() -> None:
    """As many engines on their own are never slower: nobody waits for the slowest."""
    chat = list(synthesize("chat", 200, 40.0, 0))
    recorder = Recorder()
    apart = Cluster(4, "round-robin", CONFIG, CLOCK, recorder)
    apart.run(chat)
    apart.close()
    ours = Played(4, chat).recorder.totals
    assert ours.makespan_s > recorder.totals.makespan_s
    assert ours.finished == recorder.totals.finished == 200


def test_no_ranks_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one rank"):
        DataParallelAttention(0).sglang_engine(CONFIG, CLOCK, Recorder())
