"""Engines with loads under pressure: books, liveness, causality; without loads, the plain engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

from audited import Audited
from crowds import Crowd, crowds
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from no_source import NoSource
from workloads import cases, stride_of

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.remote.replica import RemoteReplica
from kvplan.engine.replica import Replica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)

laws = fuzz(200)


class Elsewhere:
    """Has an arbitrary number of tokens of every request, which take an arbitrary time."""

    def __init__(self, shares: list[int], delays: list[float]) -> None:
        self.shares, self.delays = shares, delays
        self.fetches: list[tuple[str, int, int, float, float]] = []

    def lookup(self, request: LiveRequest, start: int) -> int:
        number = int(request.request.id[1:3]) + request.preemptions
        return self.shares[number % len(self.shares)] - start

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        assert 0 < tokens <= request.num_tokens - start
        done = now + self.delays[len(self.fetches) % len(self.delays)]
        self.fetches.append((request.request.id, start, tokens, now, done))
        return done


class AuditedRemote(Audited, RemoteReplica):
    """Counts the blocks of loading requests among those held, and those that wait for a step's end."""

    def _holders(self) -> list[LiveRequest]:
        remote = self.scheduler
        return [*super()._holders(), *remote.queue.holders, *remote.queue.orphaned, *remote.fenced]


def may_hang(config: EngineConfig) -> bool:
    """Whether somebody who has loaded may lack blocks for good, and be looked at before who holds them."""
    return config.policy == "priority" and not config.scheduler_reserve_full_isl


def play(
    engine: Callable[[Recorder], Replica], requests: list[Request], *, log: bool
) -> tuple[Replica, list[RequestRow], list[str], tuple[object, ...]]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride_of(requests)
    replica = engine(recorder)
    replica.run(requests)
    replica.close()
    return replica, rows, lines, (rows, recorder.totals.to_dict(), recorder.series, recorder.rejections)


@laws
@given(cases())
def test_with_nothing_elsewhere_it_is_the_plain_engine(case: tuple[EngineConfig, list[Request]]) -> None:
    """Unless blocks are short with overlapping steps: an engine that could load preempts nobody in flight."""
    config, requests = case
    roomy = replace(config, num_blocks=100_000)
    for each, log in product((replace(config, async_scheduling=False), roomy), (True, False)):
        remote, same = partial(RemoteReplica, each, CLOCK, source=NoSource()), partial(Replica, each, CLOCK)
        _, _, lines, told = play(lambda to, make=remote: make(recorder=to), requests, log=log)  # type: ignore[misc]
        _, _, plain_lines, plain = play(lambda to, make=same: make(to), requests, log=log)  # type: ignore[misc]
        assert lines == plain_lines
        assert told == plain


@laws
@given(
    cases(),
    st.lists(st.integers(0, 60), min_size=1, max_size=5),
    st.lists(st.sampled_from([0.0, 0.001, 0.0051, 0.02, 0.3]), min_size=1, max_size=4),
)
def test_loads_keep_the_books_and_nothing_hangs(
    case: tuple[EngineConfig, list[Request]], shares: list[int], delays: list[float]
) -> None:
    config, requests = case
    source = Elsewhere(shares, delays)
    try:
        engine, rows, _, told = play(lambda to: AuditedRemote(config, CLOCK, to, source), requests, log=True)
    except EngineStuck:
        assert may_hang(config)
        return
    assert isinstance(engine, AuditedRemote)
    engine.audit()
    assert engine.scheduler.free_blocks == config.usable_blocks
    assert not engine.scheduler.queue.holders
    totals = engine.recorder.totals
    assert totals.finished + totals.rejected == len(requests)
    assert engine.scheduler.loads == len(source.fetches)
    for row in rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        assert 0 <= row.cached_tokens < row.prompt_tokens
    # Nobody is admitted before its first load has come.
    first = {}
    for name, start, tokens, _, done in source.fetches:
        first.setdefault(name, (start + tokens, done))
    for row in rows:
        if row.id in first and row.preemptions == 0:
            tokens, done = first[row.id]
            assert row.scheduled_s >= done
            assert row.cached_tokens == min(tokens, row.prompt_tokens - 1)
    # The same again, in bulk where nothing is decided: the same answer.
    again = Elsewhere(shares, delays)
    assert play(lambda to: RemoteReplica(config, CLOCK, to, again), requests, log=False)[3] == told
    assert again.fetches == source.fetches


class Tight(AuditedRemote):
    """Nobody is preempted who is computed in the step in flight."""

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        if self.in_flight:
            flying = {request for request, _ in self.in_flight[-1][0].scheduled}
            assert not flying & set(plan.preempted)
        return super().planned(plan, clock, until)


@laws
@given(
    cases(),
    st.lists(st.integers(0, 60), min_size=1, max_size=5),
    st.lists(st.sampled_from([0.0, 0.001, 0.0051, 0.02, 0.3]), min_size=1, max_size=4),
    st.integers(0, 5),
    crowds,
)
def test_the_books_are_kept_when_blocks_wait_for_steps(
    case: tuple[EngineConfig, list[Request]], shares: list[int], delays: list[float], spare: int, crowd: Crowd
) -> None:
    """Free + referenced + cached + those of requests that are gone == total, after every event."""
    config, requests = case
    least = 1 + -(-config.max_model_len // config.block_size)
    config = replace(config, num_blocks=least + spare, watermark=0.0, async_scheduling=True)
    told = []
    for kind, log in ((Tight, True), (RemoteReplica, False)):
        rows: list[RequestRow] = []
        lines: list[str] = []
        recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
        recorder.series_stride = stride_of(requests)
        engine = kind(config, CLOCK, recorder, Elsewhere(shares, delays))
        try:
            engine.run(crowd.arrivals(requests))
        except EngineStuck:
            assert may_hang(config)
            return
        engine.close()
        assert engine.scheduler.free_blocks == config.usable_blocks
        assert not engine.scheduler.fenced
        totals = recorder.totals
        assert totals.finished + totals.rejected + totals.timed_out == totals.requests
        told.append((rows, totals.to_dict(), recorder.series, recorder.rejections))
    assert told[0] == told[1]
