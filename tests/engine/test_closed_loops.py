"""Clients that wait for answers: every engine meets the requests that such clients would have sent it."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import inf, nextafter

import pytest
from agreement import agree, in_strides
from crowds import conversing
from fuzzing import fuzz
from grouped import grouped_cases
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pools import disaggregations
from workloads import cases, requests, stride_of

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.clients import Conversations, InFlightLimit
from kvplan.engine.cluster import Cluster
from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import make_engine
from kvplan.engine.errors import EngineStuck
from kvplan.engine.holding.strategy import SlotAllocation
from kvplan.engine.hybrid.replica import HybridReplica
from kvplan.engine.instance import simulated_in_segments
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder, RequestRow, SeriesPoint
from kvplan.engine.reference.loop import ReferenceEngine
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.replica import Replica
from kvplan.engine.reuse.pins import PinRule
from kvplan.engine.reuse.strategy import PrefixReuse
from kvplan.engine.router import ROUTERS
from kvplan.engine.sampling.replica import SamplingEngine, SamplingRule
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.strategy import Engine
from kvplan.engine.tiers.stack import TierSpec
from kvplan.engine.tiers.strategy import Tiers
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
FUZZ = fuzz(200)


@dataclass(frozen=True)
class Loop:
    """What clients do; None: no limit."""

    limit: int | None
    conversations: bool
    reaction_s: float
    sessions: int | None = None

    def arrivals(self, workload: Iterable[Request]) -> Arrivals:
        inner: Arrivals = Arrivals(workload)
        if self.conversations:
            inner = Conversations(workload, self.reaction_s, self.sessions)
        return inner if self.limit is None else InFlightLimit(inner, self.limit, self.reaction_s)


loops = st.builds(
    Loop,
    st.sampled_from([None, 1, 1, 2, 3, 8]),
    st.booleans(),
    st.sampled_from([0.0, 0.0, 0.001, 0.005, 0.017, 0.3]),
    st.sampled_from([None, None, 1, 2, 5]),
)


@st.composite
def plain_cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Request], Loop]:
    config, workload = draw(cases())
    return config, draw(conversing(workload)), draw(loops)


@dataclass
class Outcome:
    """What a run told."""

    rows: list[RequestRow]
    lines: list[str]
    totals: dict[str, int | float]
    series: list[SeriesPoint]
    rejected: dict[str, int]
    stuck: str | None
    turned_away: list[str]

    @property
    def told(self) -> tuple[object, ...]:
        return self.rows, self.totals, self.series, self.rejected, self.stuck, self.turned_away


def play(make: Callable[[Recorder], Engine], workload: list[Request], loop: Loop, *, log: bool) -> Outcome:
    rows: list[RequestRow] = []
    lines: list[str] = []
    away: list[str] = []
    recorder = Recorder(
        on_request=rows.append,
        on_rejected=lambda name, *_: away.append(name),
        on_decision=lines.append if log else None,
    )
    recorder.series_stride = stride_of(workload)
    engine = in_strides(make(recorder), recorder)
    stuck = None
    try:
        engine.run(loop.arrivals(workload))
    except EngineStuck as exc:
        stuck = str(exc)
    engine.close()
    outcome = Outcome(
        rows, lines, recorder.totals.to_dict(), recorder.series, recorder.rejections, stuck, away
    )
    if stuck is None:
        check_clients(outcome, workload, loop)
    return outcome


def check_clients(outcome: Outcome, workload: list[Request], loop: Loop) -> None:
    """Every request was sent just when its client could, as told from the answers alone."""
    rows = {row.id: row for row in outcome.rows}
    assert len(rows) + len(outcome.turned_away) == len(workload)
    sent = {
        request.id: (number, when)
        for number, (request, when) in enumerate(expected_sends(workload, loop, rows))
    }
    assert len(sent) == len(workload)
    for row in outcome.rows:
        assert row.arrival_s == sent[row.id][1]
        assert row.scheduled_s >= row.arrival_s
    if loop.limit is not None:
        alive: list[float] = []
        for row in sorted(outcome.rows, key=lambda row: sent[row.id]):
            while alive and alive[0] <= row.arrival_s:
                heapq.heappop(alive)
            heapq.heappush(alive, row.finish_s + loop.reaction_s)
            assert len(alive) <= loop.limit


def expected_sends(
    workload: list[Request], loop: Loop, rows: dict[str, RequestRow]
) -> Iterator[tuple[Request, float]]:
    """The clients once more, knowing every answer: requests in the order in which they are sent, and when."""
    sessions: dict[str, list[int]] = {}
    session_of: dict[str, str] = {}
    for number, request in enumerate(workload):
        follows = request.follows
        name = request.session or (session_of.get(follows[0], request.id) if follows else request.id)
        name = name if loop.conversations else request.id
        session_of[request.id] = name
        sessions.setdefault(name, []).append(number)
    began = {name: min(workload[n].arrival_s for n in numbers) for name, numbers in sessions.items()}
    later = sorted(sessions, key=began.__getitem__)
    left = {name: len(numbers) for name, numbers in sessions.items()}
    due: list[tuple[float, int]] = []
    waiting: dict[str, list[tuple[float, int]]] = {}
    over: dict[str, float] = {}

    def waits(number: int) -> bool:
        follows, name = workload[number].follows, session_of[workload[number].id]
        known = {workload[other].id for other in sessions[name] if other < number}
        return loop.conversations and follows is not None and follows[0] in known

    def begin(now: float) -> None:
        name = later.pop(0)
        for number in sessions[name]:
            follows = workload[number].follows
            if follows and waits(number):
                waiting.setdefault(follows[0], []).append((follows[1], number))
            else:
                own_s = workload[number].arrival_s
                heapq.heappush(due, (own_s + max(0.0, now - began[name]), number))

    limit = loop.sessions if loop.conversations else None
    thinks = [request.follows[1] for n, request in enumerate(workload) if waits(n) and request.follows]
    apart_s = statistics.median(thinks) / limit if limit and thinks else 0.0
    for place in range(len(sessions) if limit is None else min(limit, len(sessions))):
        begin(place * apart_s)
    slots = [float("-inf")] * (len(workload) if loop.limit is None else loop.limit)
    answers: list[tuple[float, str]] = []
    last_s = 0.0
    while due or answers:
        # Whatever is answered before the next request can go may bring another one that goes before it.
        while answers and (
            not due or not slots or answers[0][0] + loop.reaction_s <= max(due[0][0], slots[0])
        ):
            when, name = heapq.heappop(answers)
            heapq.heappush(slots, when + loop.reaction_s)
            for gap_s, number in waiting.pop(name, ()):
                heapq.heappush(due, (when + loop.reaction_s + gap_s, number))
            session = session_of[name]
            left[session] -= 1
            over[session] = max(
                over.get(session, when), when
            )  # one turned away is answered as of its sending
            if later and not left[session]:
                begin(over[session] + loop.reaction_s)
        if not due:
            continue
        own_s, number = heapq.heappop(due)
        # A session's late start, added to its own times, may come out a last bit before what went already.
        own_s = last_s = max(own_s, last_s)
        request, now = workload[number], max(own_s, heapq.heappop(slots))
        yield request, now
        row = rows.get(request.id)
        heapq.heappush(answers, (now if row is None else row.finish_s, request.id))
    assert not waiting
    assert not later


@FUZZ
@given(plain_cases())
def test_fast_engine_equals_reference(case: tuple[EngineConfig, list[Request], Loop]) -> None:
    config, workload, loop = case
    agree(
        lambda make, log: play(make, workload, loop, log=log),
        lambda r: ReferenceEngine(config, CLOCK, r, check=True),
        lambda r: Replica(config, CLOCK, r),
        lambda r: Replica(config, CLOCK, r),
    )


@st.composite
def hybrid_cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Request], Loop]:
    config, workload = draw(grouped_cases())
    return config, draw(conversing(workload)), draw(loops)


@FUZZ
@given(hybrid_cases())
def test_engine_of_several_groups_equals_reference(case: tuple[EngineConfig, list[Request], Loop]) -> None:
    config, workload, loop = case
    reference = play(lambda r: ReferenceEngine(config, CLOCK, r), workload, loop, log=True)
    if not simulated_in_segments(config):
        return
    fast = play(lambda r: HybridReplica(config, CLOCK, r), workload, loop, log=False)
    assert fast.told == reference.told


@st.composite
def sglang_cases(draw: st.DrawFn) -> tuple[SglangConfig, list[Request], Loop]:
    workload = draw(requests(60))
    page = draw(st.sampled_from([1, 2, 4]))
    longest = max(request.prompt_tokens + request.output_tokens for request in workload)
    config = SglangConfig(
        pool_tokens=(longest + 4 * page + draw(st.integers(0, 120))) // page * page,
        page_size=page,
        max_running_requests=draw(st.sampled_from([1, 2, 8])),
        disable_overlap_schedule=draw(st.booleans()),
    )
    return config, draw(conversing(workload)), draw(loops)


@FUZZ
@given(sglang_cases())
def test_sglang_engine_equals_reference(case: tuple[SglangConfig, list[Request], Loop]) -> None:
    config, workload, loop = case
    agree(
        lambda make, log: play(make, workload, loop, log=log),
        lambda r: ReferenceSglangEngine(config, CLOCK, r),
        lambda r: SglangReplica(config, CLOCK, r),
        lambda r: SglangReplica(config, CLOCK, r),
    )


class Wire:
    """So many seconds a block."""

    def seconds(self, size: int, operations: int = 1) -> float:
        return 1e-3 * operations if size else 0.0


def tiers(preemption: str) -> Tiers:
    host = TierSpec("host", 40, 8, Wire(), Wire(), "through")
    disk = TierSpec("disk", 200, 8, Wire(), Wire(), "through")
    return Tiers(8, (host, disk), preemption)  # type: ignore[arg-type]


Maker = Callable[[EngineConfig, LatencyModel, Recorder], Engine]

SYSTEMS: dict[str, Maker] = {
    "tiers": lambda c, t, r: tiers("recompute").engine(c, t, r),
    "swap": lambda c, t, r: tiers("swap").engine(c, t, r),
    "units": lambda c, t, r: PrefixReuse(2 * c.block_size).engine(c, t, r),
    "pins": lambda c, t, r: PrefixReuse(
        None, (PinRule(max(c.block_size, 4), 0.05, 1),), memory=0.5
    ).engine(c, t, r),
    "slots": lambda c, t, r: SlotAllocation().engine(replace(c, enable_prefix_caching=False), t, r),
    "samples": lambda c, t, r: SamplingEngine(
        replace(c, max_num_seqs=8), t, r, SamplingRule(2, "requests")
    ),
    "forks": lambda c, t, r: SamplingEngine(replace(c, max_num_seqs=8), t, r, SamplingRule(3)),
    "ranks": lambda c, t, r: LockstepEngine(2, "least-loaded", c, t, r),
    "clairvoyant": lambda c, t, r: make_engine("fast", replace(c, eviction="belady"), t, r),
    "tiers behind a router": lambda c, t, r: Cluster(2, "prefix-aware", c, t, r, tiers("swap")),
    **{
        f"cluster, {router}": lambda c, t, r, router=router: Cluster(3, router, c, t, r)
        for router in ROUTERS.names()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(SYSTEMS))
@settings(FUZZ, max_examples=max(60, FUZZ.max_examples // 4))
@given(case=plain_cases())
def test_clients_of_every_system_wait_as_they_should(
    name: str, case: tuple[EngineConfig, list[Request], Loop]
) -> None:
    config, workload, loop = case
    config = replace(config, enable_prefix_caching=True)
    if name == "clairvoyant":
        loop = replace(loop, conversations=False)
    try:
        make = SYSTEMS[name]
        make(config, CLOCK, Recorder())
    except UsageError:
        return  # a pool too small for what is asked of it
    logged = play(lambda r: SYSTEMS[name](config, CLOCK, r), workload, loop, log=True)
    assert play(lambda r: SYSTEMS[name](config, CLOCK, r), workload, loop, log=False).told == logged.told


class StepByStep(Cluster):
    """Between two arrivals it is always the replica furthest behind that takes a step."""

    def _reach_next(self, arrivals: Arrivals) -> None:
        for replica in self.replicas:
            replica.stops = arrivals.waits
        while behind := [one for one in self.replicas if one.busy and one.clock < arrivals.next_s]:
            first = min(behind, key=lambda one: one.clock)
            first.advance(nextafter(first.clock, inf))
        super()._reach_next(arrivals)


ONE_SEAT = EngineConfig(
    13, 1, 12, 1, 12, enable_chunked_prefill=False, scheduler_reserve_full_isl=False, async_scheduling=False
)
SHORT_ANSWERS = [
    Request(
        f"r{number}",
        0.0,
        ((1000 + 50 * max(number - 1, 0), 1),),
        1,
        ((500, 1 + (not number)),),
        1 + (not number),
    )
    for number in range(5)
]


@example(
    case=(ONE_SEAT, SHORT_ANSWERS, Loop(2, conversations=False, reaction_s=0.0)),
    replicas=2,
    router="least-loaded",
)
@settings(FUZZ, max_examples=max(100, FUZZ.max_examples // 2))
@given(case=plain_cases(), replicas=st.integers(2, 3), router=st.sampled_from(ROUTERS.names()))
def test_no_replica_runs_ahead_of_an_answer_that_brings_a_request(
    case: tuple[EngineConfig, list[Request], Loop], replicas: int, router: str
) -> None:
    config, workload, loop = case
    at_once, by_steps = (
        play(lambda r, kind=kind: kind(replicas, router, config, CLOCK, r), workload, loop, log=False)
        for kind in (Cluster, StepByStep)
    )
    # Rows are written in the order in which replicas are advanced.
    assert sorted(at_once.rows) == sorted(by_steps.rows)
    assert (at_once.totals, at_once.stuck) == (by_steps.totals, by_steps.stuck)


@st.composite
def split_cases(draw: st.DrawFn):  # type: ignore[no-untyped-def]
    config, workload, loop = draw(plain_cases())
    return config, draw(disaggregations(config)), workload, loop


@settings(FUZZ, max_examples=max(150, FUZZ.max_examples // 2))
@given(case=split_cases())
def test_clients_of_separate_prefill_and_decode_wait_as_they_should(case) -> None:  # type: ignore[no-untyped-def]
    config, strategy, workload, loop = case
    logged = play(lambda r: strategy.engine(config, CLOCK, r), workload, loop, log=True)
    assert play(lambda r: strategy.engine(config, CLOCK, r), workload, loop, log=False).told == logged.told


def served(arrivals: Arrivals, config: EngineConfig) -> list[RequestRow]:
    rows: list[RequestRow] = []
    engine = Replica(config, CLOCK, Recorder(on_request=rows.append))
    engine.run(arrivals)
    return rows


def fixed(count: int, *, gap_s: float = 0.0, tokens: int = 20) -> list[Request]:
    return [
        Request(f"{n}", gap_s * n, ((1000 * n, tokens),), tokens, ((10**6 + 100 * n, 10),), 10)
        for n in range(count)
    ]


ROOMY = EngineConfig(num_blocks=200, block_size=4, max_model_len=200, max_num_seqs=64,
                     max_num_batched_tokens=200)  # fmt: skip


def test_one_at_a_time_never_queues_and_begins_when_the_client_has_the_answer() -> None:
    limit = InFlightLimit(Arrivals(fixed(20)), 1, 0.02)
    rows = served(limit, ROOMY)
    for before, row in pairwise(rows):
        assert row.arrival_s == before.finish_s + 0.02
        assert row.scheduled_s == row.arrival_s
    assert limit.held_back == 19
    assert limit.held_back_s == pytest.approx(sum(row.arrival_s for row in rows))


def test_a_limit_nobody_reaches_changes_nothing() -> None:
    workload = fixed(30, gap_s=0.5)
    assert served(InFlightLimit(Arrivals(workload), 30, 0.01), ROOMY) == served(Arrivals(workload), ROOMY)


def test_requests_in_flight_keep_an_engine_busy_up_to_the_limit() -> None:
    def mean(limit: int) -> float:
        rows = served(InFlightLimit(Arrivals(fixed(60)), limit, 0.0), ROOMY)
        return sum(row.finish_s - row.arrival_s for row in rows) / rows[-1].finish_s

    assert mean(1) == pytest.approx(1.0)
    assert mean(6) == pytest.approx(6.0, rel=0.05)


@pytest.mark.parametrize("overlap", [True, False])
def test_an_answer_among_steps_taken_in_bulk_is_heard_at_once(overlap: bool) -> None:
    """Answers of many lengths, and nobody waits in the engine: no other request ends the steps that decide nothing."""
    config = replace(ROOMY, async_scheduling=overlap)
    workload = [
        request._replace(output=((10**6 + 1000 * n, 7 + 19 * n % 60),), output_tokens=7 + 19 * n % 60)
        for n, request in enumerate(fixed(24))
    ]
    loop = Loop(3, conversations=False, reaction_s=0.004)
    reference = play(lambda r: ReferenceEngine(config, CLOCK, r), workload, loop, log=False)
    assert play(lambda r: Replica(config, CLOCK, r), workload, loop, log=False).told == reference.told


def test_a_turn_waits_for_the_answer_and_then_thinks() -> None:
    first, second, third = fixed(3)
    workload = [first, second._replace(follows=("0", 1.5)), third._replace(follows=("0", 0.25))]
    rows = {row.id: row for row in served(Conversations(workload, 0.02), ROOMY)}
    assert rows["1"].arrival_s == rows["0"].finish_s + 0.02 + 1.5
    assert rows["2"].arrival_s == rows["0"].finish_s + 0.02 + 0.25


def test_a_turn_whose_first_half_was_left_out_comes_at_its_own_time() -> None:
    workload = [request._replace(follows=("gone", 9.0)) for request in fixed(3, gap_s=0.1)]
    turns = Conversations(workload, 0.02)
    assert turns.turns == 0
    assert [row.arrival_s for row in served(turns, ROOMY)] == [0.0, 0.1, 0.2]


def test_so_many_sessions_at_a_time_each_at_its_own_pace() -> None:
    workload = [
        request._replace(session=f"s{n // 3}", follows=(f"{n - 1}", 0.5) if n % 3 else None)
        for n, request in enumerate(fixed(9))
    ]
    turns = Conversations(workload, 0.02, 1)
    assert (turns.sessions, turns.turns) == (3, 6)
    rows = served(turns, ROOMY)
    assert [row.id for row in rows] == [f"{n}" for n in range(9)]
    for before, row in pairwise(rows):
        think_s = 0.5 if int(row.id) % 3 else 0.0
        assert row.arrival_s == before.finish_s + 0.02 + think_s
    both = sorted(served(Conversations(workload, 0.02, 2), ROOMY), key=lambda row: row.arrival_s)
    assert both[-1].finish_s < 0.8 * rows[-1].finish_s
    # The second user comes half a think time after the first.
    assert [row.arrival_s for row in both if row.id in ("0", "3")] == [0.0, 0.25]


def test_a_session_is_over_with_its_last_answer_however_it_is_told() -> None:
    """Found by 2,500 random workloads: who came during a step is turned away after it, as of when it came."""
    config = replace(ROOMY, max_model_len=12, async_scheduling=False)
    long, short = ((10**6, 12),), ((10**6 + 50, 7),)
    workload = [
        Request("a", 0.0, ((0, 1),), 1, short, 7, 0, "p"),
        Request("b", 0.033, ((50, 1),), 1, long, 12, 0, "p"),
        Request("c", 0.033, ((90, 1),), 1, short, 7, 0, "q"),
    ]
    rows = {row.id: row for row in served(Conversations(workload, 0.005, 1), config)}
    assert rows["a"].finish_s > 0.033
    assert rows["c"].arrival_s == rows["a"].finish_s + 0.005


def test_sessions_begin_in_order_whichever_end_is_heard_of_first() -> None:
    """Found by 9,000 random workloads: a refusal of 9 ms is heard of after an answer of 10 ms."""
    config = replace(ROOMY, max_model_len=12, max_num_seqs=1, async_scheduling=False)
    a, b, c, d = (request._replace(output=((9000, 1),), output_tokens=1) for request in fixed(4, tokens=1))
    refused = Request("long", 0.0, ((0, 1),), 1, ((9000, 12),), 12, follows=(a.id, 0.004))
    rows = {row.id: row for row in served(Conversations([a, b, c, d, refused], 0.0, 2), config)}
    assert rows[a.id].finish_s + 0.004 < rows[b.id].finish_s
    assert rows[c.id].arrival_s == rows[a.id].finish_s + 0.004
    assert rows[d.id].arrival_s == rows[b.id].finish_s


def test_a_request_turned_away_is_an_answer() -> None:
    small = replace(ROOMY, max_model_len=40)
    workload = [*fixed(2), *fixed(3, tokens=100)[2:], *fixed(5)[3:]]
    workload[3] = workload[3]._replace(follows=("2", 0.1))
    rows = {row.id: row for row in served(InFlightLimit(Conversations(workload, 0.01), 1, 0.01), small)}
    assert set(rows) == {"0", "1", "3", "4"}
    # "4" goes first: "3" thinks about its refusal.
    assert rows["4"].arrival_s == rows["1"].finish_s + 0.01 + 0.01
    assert rows["3"].arrival_s == pytest.approx(rows["1"].finish_s + 0.01 + 0.01 + 0.1)
    assert rows["3"].arrival_s > rows["4"].finish_s + 0.01


def test_looking_ahead_leaves_requests_to_be_taken() -> None:
    workload = fixed(4)
    arrivals = InFlightLimit(Arrivals(workload), 9, 0.0)
    assert list(arrivals.ahead()) == workload
    assert [arrivals.take() for _ in groupby(workload)] == workload
    assert arrivals.over


def test_who_looks_ahead_cannot_wait_for_answers() -> None:
    with pytest.raises(UsageError, match="an order of their own"):
        list(Conversations(fixed(2), 0.0).ahead())
