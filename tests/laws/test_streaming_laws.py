"""The way back through a front end, counted by step: as when it is walked chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from radix_runs import runs
from streams import Message, front_end
from workloads import cases

from kvplan.engine.arrivals import Arrivals, Relayed
from kvplan.engine.clients import InFlightLimit
from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.loop import ReferenceEngine
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.replica import Replica
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.streaming import Streamer
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
costs = st.sampled_from([0.0, 1e-5, 2e-4, 1.3e-3, 0.011])


class Watched(ReferenceEngine):
    """Writes down what every step brought."""

    def _deliver(self, plan, clock):  # type: ignore[no-untyped-def]
        self.messages.append(Message(clock, tuple(state.request.id for state in plan.sampling)))
        super()._deliver(plan, clock)


class WatchedSglang(ReferenceSglangEngine):
    """The same below SGLang."""

    def _deliver(self, plan, clock):  # type: ignore[no-untyped-def]
        batch = (*plan.extends, *plan.decodes)
        self.messages.append(
            Message(clock, tuple(state.request.id for state in batch if state is not plan.chunked))
        )
        super()._deliver(plan, clock)


class Sent(Relayed):
    """Writes down what is sent."""

    def __init__(self, inner: Arrivals) -> None:
        super().__init__(inner)
        self.sent: list[tuple[str, float, int]] = []

    def take(self) -> Request:
        request = super().take()
        self.sent.append((request.id, request.arrival_s, request.prompt_tokens))
        return request


class Admitting(Streamer):
    """Writes down when requests reach the engine."""

    def take(self) -> Request:
        request = super().take()
        self.admitted[request.id] = request.arrival_s
        return request


class Played(NamedTuple):
    rows: list[RequestRow]
    engine: Any
    arrivals: Admitting
    sent: list[tuple[str, float, int]]


Load = tuple[int | None, list[float]]
loads = st.tuples(st.sampled_from([None, 1, 2, 5]), st.lists(costs, min_size=4, max_size=4))


def service_of(server_s: float, token_s: float) -> Callable[[int], float]:
    return lambda tokens: server_s + token_s * tokens


def play(kind: type, config: object, workload: list[Request], load: Load, *, series: bool = True) -> Played:
    limit, (server_s, token_s, output_s, chunk_s) = load
    rows: list[RequestRow] = []
    engine = kind(config, CLOCK, Recorder(on_request=rows.append, series=series))
    engine.messages = []
    inner: Arrivals = Arrivals(workload)
    sent = Sent(inner if limit is None else InFlightLimit(inner, limit, 0.002))
    arrivals = Admitting(sent, service_of(server_s, token_s), output_s, chunk_s)
    arrivals.admitted = {}  # type: ignore[attr-defined]
    engine.run(arrivals)
    engine.close()
    return Played(sorted(rows), engine, arrivals, sent.sent)


def agrees(kinds: tuple[type, type], config: object, workload: list[Request], load: Load) -> None:
    fast, reference = kinds
    try:
        slow = play(reference, config, workload, load)
    except OutOfKvMemory:
        return
    for series in (True, False):
        played = play(fast, config, workload, load, series=series)
        assert played.rows == slow.rows
        assert (played.arrivals.outputs, played.arrivals.chunks) == (
            slow.arrivals.outputs,
            slow.arrivals.chunks,
        )


@fuzz(150)
@given(cases(), loads)
def test_fast_equals_reference(case: tuple[EngineConfig, list[Request]], load: Load) -> None:
    agrees((Replica, ReferenceEngine), *case, load)


@fuzz(100)
@given(runs(), loads)
def test_fast_equals_reference_below_sglang(case: tuple[SglangConfig, list[Request]], load: Load) -> None:
    agrees((SglangReplica, ReferenceSglangEngine), *case, load)


def walked(kind: type, config: object, workload: list[Request], load: Load) -> None:
    """By step as chunk by chunk: when requests reach the engine, and nearly when tokens are written."""
    try:
        played = play(kind, config, workload, load)
    except OutOfKvMemory:
        return
    if any(row.preemptions for row in played.rows) or len(played.rows) < len(workload):
        # Who is computed again is counted as new, and may be in the round already; who is turned away during a
        # step is known to be so after it, and what its client sends next comes behind what the step brought.
        return
    server_s, token_s, output_s, chunk_s = load[1]
    expected = front_end(
        played.sent, played.engine.messages, service_of(server_s, token_s), output_s, chunk_s
    )
    assert played.arrivals.admitted == pytest.approx(expected.admitted_s, abs=1e-9)
    assert played.arrivals.chunks <= sum(expected.rounds)
    most = max((len(set(m.streams)) for m in played.engine.messages), default=0)
    late = 0.0
    for row in played.rows:
        first_s, last_s = expected.outputs_s[row.id][0], expected.outputs_s[row.id][-1]
        assert row.first_token_s >= row.scheduled_s
        assert row.finish_s >= row.first_token_s
        # Within a round the order is that of admission, and first tokens of one step share their middle.
        assert abs(row.first_token_s - first_s) <= chunk_s * most + 1e-9
        assert abs(row.finish_s - last_s) <= chunk_s * (most + len(played.rows)) + 1e-9  # ended in the round
        late += row.first_token_s - first_s
    assert abs(late) <= chunk_s * most * len(played.rows) / 2 + 1e-9


@fuzz(150)
@given(cases(), loads)
def test_by_step_as_chunk_by_chunk(case: tuple[EngineConfig, list[Request]], load: Load) -> None:
    walked(Watched, *case, load)


@fuzz(150)
@given(runs(), loads)
def test_by_step_as_chunk_by_chunk_below_sglang(case: tuple[SglangConfig, list[Request]], load: Load) -> None:
    walked(WatchedSglang, *case, load)


@fuzz(60)
@given(cases(), st.sampled_from([None, 1, 2, 5]))
def test_without_work_it_is_not_there(case: tuple[EngineConfig, list[Request]], limit: int | None) -> None:
    config, workload = case
    streamed = play(Replica, config, workload, (limit, [0.0] * 4))
    if limit is not None and len(streamed.rows) < len(workload):
        return  # see ``walked``
    rows: list[RequestRow] = []
    engine = Replica(config, CLOCK, Recorder(on_request=rows.append))
    inner: Arrivals = Arrivals(workload)
    engine.run(inner if limit is None else InFlightLimit(inner, limit, 0.002))
    assert streamed.rows == sorted(rows)


@fuzz(60)
@given(cases(), costs, costs)
def test_more_work_makes_nobody_of_an_open_loop_earlier(
    case: tuple[EngineConfig, list[Request]], output_s: float, chunk_s: float
) -> None:
    """At least of one request alone: what falls into one step may change in company."""
    config, workload = case
    alone = workload[:1]
    less, more = (play(Replica, config, alone, (None, [0.0, 0.0, f * output_s, f * chunk_s])) for f in (1, 2))
    for early, late in zip(less.rows, more.rows, strict=True):
        assert late.first_token_s >= early.first_token_s
        assert late.finish_s >= early.finish_s
