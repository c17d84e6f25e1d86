"""SGLang engines behind a router: each is the engine it would be alone, and looking changes nothing."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from agreement import in_strides
from crowds import Crowd, conversing, crowds
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from radix_runs import below_a_host, runs

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.clients import InFlightLimit
from kvplan.engine.cluster import Cluster
from kvplan.engine.config import EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.engine import make_engine
from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.hicache.index import WRITE_POLICIES, WritePolicy
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.router import ROUTERS
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request
from kvplan.traces.synthesize import synthesize

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
FUZZ = fuzz(100)
CONFIG = SglangConfig(pool_tokens=60_000, chunked_prefill_size=2048, context_length=16_384)


class Outcome:
    """What a system of engines tells, and how it ended."""

    def __init__(self, make, workload, *, log: bool = False, stride: int = 1000) -> None:
        self.rows: list[RequestRow] = []
        self.lines: list[str] = []
        self.recorder = Recorder(on_request=self.rows.append, on_decision=self.lines.append if log else None)
        self.recorder.series_stride = stride
        self.engine = in_strides(make(self.recorder), self.recorder)
        self.stopped = ""
        try:
            self.engine.run(workload)
        except OutOfKvMemory as exc:
            self.stopped = exc.message
        self.engine.close()
        self.totals = self.recorder.totals.to_dict()


@FUZZ
@given(case=runs(), router=st.sampled_from(sorted(ROUTERS.names())), log=st.booleans())
def test_one_replica_is_the_engine_itself_whatever_the_router_looks_at(
    case: tuple[SglangConfig, list[Request]], router: str, log: bool
) -> None:
    config, workload = case
    alone = Outcome(lambda r: SglangReplica(config, CLOCK, r), workload, log=log)
    routed = Outcome(lambda r: Cluster(1, router, config, CLOCK, r), workload, log=log)
    assert routed.rows == alone.rows
    assert routed.totals == alone.totals
    assert routed.stopped == alone.stopped
    assert [line.removeprefix("0\t") for line in routed.lines] == alone.lines


@FUZZ
@given(case=runs(), replicas=st.integers(2, 4))
def test_dealt_in_turns_each_is_the_engine_it_would_be_alone(
    case: tuple[SglangConfig, list[Request]], replicas: int
) -> None:
    config, workload = case
    routed = Outcome(lambda r: Cluster(replicas, "round-robin", config, CLOCK, r), workload)
    own = [
        Outcome(lambda r: SglangReplica(config, CLOCK, r), workload[index::replicas])
        for index in range(replicas)
    ]
    if any(outcome.stopped for outcome in (routed, *own)):
        return  # one that runs out of memory ends them all
    assert sorted(routed.rows) == sorted(row for outcome in own for row in outcome.rows)
    for name in ("requests", "finished", "rejected", "steps", "hit_tokens", "preemptions", "evicted_blocks"):
        assert routed.totals[name] == sum(outcome.totals[name] for outcome in own)


@FUZZ
@given(case=runs(), crowd=crowds, data=st.data())
def test_clients_that_wait_and_give_up_are_the_same_for_one_replica(
    case: tuple[SglangConfig, list[Request]], crowd: Crowd, data: st.DataObject
) -> None:
    config, workload = case
    workload = data.draw(conversing(workload))
    alone, routed = (
        Outcome(make, crowd.arrivals(workload))
        for make in (
            lambda r: SglangReplica(config, CLOCK, r),
            lambda r: Cluster(1, "least-loaded", config, CLOCK, r),
        )
    )
    assert routed.rows == alone.rows
    assert routed.totals == alone.totals


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_who_gave_up_during_a_step_has_tried_again_before_the_next_one(engine: str, overlap: bool) -> None:
    """Found by random workloads: a router's engine made its next batch without the second try."""
    config = (
        EngineConfig(100, 4, 200, 8, 200, async_scheduling=overlap)
        if engine == "vllm"
        else replace(CONFIG, disable_overlap_schedule=not overlap)
    )
    crowd = Crowd(Patience(0.006, inf), 1, 0.0, None, conversations=False)
    # Steps take 5 ms: "a" gives up at 6 ms, within the second one, and "a~2" is there at 9 ms, before its end.
    workload = [
        Request(name, arrival_s, ((start, 20),), 20, ((start + 100, 60),), 60)
        for name, arrival_s, start in (("a", 0.0, 0), ("b", 0.0112, 1000))
    ]
    makes = (
        lambda r: make_engine("fast", config, CLOCK, r),
        lambda r: make_engine("reference", config, CLOCK, r),
        lambda r: Cluster(1, "round-robin", config, CLOCK, r),
    )
    alone, reference, routed = (Outcome(make, crowd.arrivals(workload), log=True) for make in makes)
    assert next(n for n, line in enumerate(alone.lines) if "a~2=" in line) == (3 if overlap else 2)
    assert alone.lines == reference.lines == [line.removeprefix("0\t") for line in routed.lines]
    assert alone.totals == reference.totals == routed.totals


class Wire:
    """So many seconds a transfer."""

    def seconds(self, size: int, operations: int = 1) -> float:
        return 2e-3 * operations if size else 0.0


@FUZZ
@given(case=runs(), crowd=crowds, write=st.sampled_from(WRITE_POLICIES), data=st.data())
def test_host_memory_is_each_replicas_own(
    case: tuple[SglangConfig, list[Request]], crowd: Crowd, write: WritePolicy, data: st.DataObject
) -> None:
    config, workload = below_a_host(case[0]), case[1]
    host = HierarchicalCache(1, 120 // config.page_size, Wire(), Wire(), write)
    conversation = data.draw(conversing(workload))
    alone, routed = (
        Outcome(make, crowd.arrivals(conversation))
        for make in (
            lambda r: make_engine("fast", config, CLOCK, r, strategy=host),
            lambda r: Cluster(1, "prefix-aware", config, CLOCK, r, host),
        )
    )
    assert routed.rows == alone.rows
    assert routed.totals == alone.totals
    own = [
        Outcome(lambda r: make_engine("fast", config, CLOCK, r, strategy=host), workload[index::2])
        for index in range(2)
    ]
    both = Outcome(lambda r: make_engine("fast", config, CLOCK, r, replicas=2, strategy=host), workload)
    if not any(outcome.stopped for outcome in (both, *own)):
        assert sorted(both.rows) == sorted(row for outcome in own for row in outcome.rows)
        sections = both.recorder.sections
        assert [sections["tiers 0"], sections["tiers 1"]] == [
            outcome.recorder.sections["tiers"] for outcome in own
        ]


@pytest.fixture(scope="module")
def chat() -> list[Request]:
    return list(synthesize("chat", 300, 30.0, 0))


@pytest.mark.parametrize("router", ROUTERS.names())
@pytest.mark.parametrize("page", [1, 16])
def test_no_request_is_lost(chat: list[Request], router: str, page: int) -> None:
    config = replace(CONFIG, page_size=page)
    found = Outcome(lambda r: Cluster(3, router, config, CLOCK, r), chat)
    assert found.totals["requests"] == len(chat) == found.totals["finished"] + found.totals["rejected"]
    assert len({row.id for row in found.rows}) == found.totals["finished"]
    for row in found.rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
    again = Outcome(lambda r: Cluster(3, router, config, CLOCK, r), chat, log=True)
    assert again.rows == found.rows, "a decision log changes nothing, and runs repeat"


def test_at_most_so_many_are_in_flight_over_all_replicas(chat: list[Request]) -> None:
    found = Outcome(
        lambda r: Cluster(2, "least-loaded", CONFIG, CLOCK, r), InFlightLimit(Arrivals(chat), 6, 0.01)
    )
    events = sorted([(row.finish_s, -1) for row in found.rows] + [(row.arrival_s, 1) for row in found.rows])
    now = most = 0
    for _, change in events:
        now += change
        most = max(most, now)
    assert most == 6


def test_routing_by_content_finds_more_than_dealing(chat: list[Request]) -> None:
    hits = {
        router: Outcome(lambda r, router=router: Cluster(4, router, CONFIG, CLOCK, r), chat).totals[
            "hit_tokens"
        ]
        for router in ("round-robin", "prefix-aware", "session-affinity")
    }
    assert hits["session-affinity"] > hits["round-robin"]
    assert hits["prefix-aware"] > hits["round-robin"]


@FUZZ
@given(case=runs())
def test_what_a_router_sees_is_what_a_request_would_find(case: tuple[SglangConfig, list[Request]]) -> None:
    config, workload = case
    outcome = Outcome(lambda r: SglangReplica(config, CLOCK, r), workload)
    replica = outcome.engine
    tree = replica.scheduler.pool.tree
    for request in workload:
        content = Content(request.prompt, request.output)
        limit = request.prompt_tokens - 1
        seen = tree.cached(content, limit)
        assert seen == tree.cached(content, limit)
        assert replica.cached_blocks_of(request) == seen // replica.scheduler.page
        assert seen == tree.match(content, limit)[0]
