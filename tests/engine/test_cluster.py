"""Replicas behind a router: conservation, equality with a single engine, and what each policy is for."""

from __future__ import annotations

from collections import Counter

import pytest
from agreement import in_strides
from fuzzing import examples
from hypothesis import given
from workloads import cases, stride_of

from kvplan.engine.cluster import Cluster
from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.recorder import MAX_SERIES_POINTS, Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.engine.router import ROUTERS
from kvplan.errors import UnknownName, UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request
from kvplan.traces.synthesize import synthesize

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
CONFIG = EngineConfig(num_blocks=3000, max_num_batched_tokens=2048, max_model_len=16384)


def play(
    replicas: int,
    router: str,
    requests: list[Request],
    config: EngineConfig = CONFIG,
    *,
    log: bool = False,
    stride: int = 1,
) -> tuple[list[RequestRow], Recorder, list[str]]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride
    cluster = in_strides(Cluster(replicas, router, config, CLOCK, recorder), recorder)
    cluster.run(requests)
    cluster.close()
    return rows, recorder, lines


@pytest.fixture(scope="module")
def chat() -> list[Request]:
    return list(synthesize("chat", 400, 30.0, 0))


@examples(60)
@given(cases())
def test_one_replica_is_the_engine_itself(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append)
    recorder.series_stride = stride_of(requests)
    alone = Replica(config, CLOCK, recorder)
    alone.run(requests)
    alone.close()
    cluster_rows, whole, _ = play(1, "least-loaded", requests, config, stride=stride_of(requests))
    assert cluster_rows == rows
    assert whole.totals.to_dict() == recorder.totals.to_dict()


@pytest.mark.parametrize("router", ROUTERS.names())
@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_no_request_is_lost(chat: list[Request], router: str, replicas: int) -> None:
    rows, recorder, _ = play(replicas, router, chat)
    totals = recorder.totals
    assert totals.requests == len(chat) == totals.finished + totals.rejected
    assert totals.unfinished == 0
    assert max(Counter(row.id for row in rows).values()) == 1
    for row in rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s


@pytest.mark.parametrize("router", ROUTERS.names())
def test_runs_repeat_exactly(chat: list[Request], router: str) -> None:
    first, second = play(3, router, chat, log=True), play(3, router, chat, log=True)
    assert first[0] == second[0]
    assert first[2] == second[2]
    assert first[1].series == second[1].series


@pytest.mark.parametrize("apart", [0.0, 1e-4, 0.5])
def test_the_series_goes_on_until_everybody_is_served(apart: float) -> None:
    requests = [
        Request(f"r{i}", i * apart, ((1000 * i, 50),), 50, ((10**6 + 1000 * i, 400),), 400) for i in range(40)
    ]
    rows, recorder, _ = play(2, "round-robin", requests)
    times = [point.t_s for point in recorder.series]
    assert times == sorted(times)
    assert times[-1] == max(row.finish_s for row in rows)
    last = recorder.series[-1]
    assert (last.used_blocks, last.running, last.waiting) == (0, 0, 0)
    middle = requests[-1].arrival_s + (times[-1] - requests[-1].arrival_s) / 2
    assert any(middle < t < times[-1] for t in times)
    assert len(times) <= MAX_SERIES_POINTS + 1


def test_a_decision_log_changes_nothing(chat: list[Request]) -> None:
    for stride in (1, 3, 10**9):
        logged, quiet = (play(3, "prefix-aware", chat, log=log, stride=stride) for log in (True, False))
        assert quiet[0] == logged[0]
        assert quiet[1].series == logged[1].series
        assert quiet[1].totals.to_dict() == logged[1].totals.to_dict()


def test_round_robin_deals_evenly(chat: list[Request]) -> None:
    cluster = Cluster(4, "round-robin", CONFIG, CLOCK, Recorder())
    cluster.run(chat)
    cluster.close()
    assert {replica.recorder.totals.requests for replica in cluster.replicas} == {100}


def test_conversations_stay_together_where_they_should(chat: list[Request]) -> None:
    for router in ("session-affinity", "consistent-hashing"):
        homes: dict[str, set[str]] = {}
        _, _, lines = play(4, router, chat, log=True)
        session = {request.id: request.session for request in chat}
        for line in lines:
            replica, scheduled = line.split("\t")
            for item in scheduled.split("|")[0].split(","):
                if item:
                    homes.setdefault(str(session[item.split("=")[0]]), set()).add(replica)
        assert all(len(replicas) == 1 for replicas in homes.values())


def test_routing_by_content_finds_more_than_dealing(chat: list[Request]) -> None:
    hits = {router: play(4, router, chat)[1].totals.hit_tokens for router in ROUTERS.names()}
    assert hits["session-affinity"] > hits["round-robin"]
    assert hits["prefix-aware"] > hits["round-robin"]


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Cluster(0, "round-robin", CONFIG, CLOCK, Recorder())
    with pytest.raises(UnknownName, match="routing policy"):
        Cluster(2, "random", CONFIG, CLOCK, Recorder())
    two_sizes = EngineConfig(num_blocks=100, groups=(CacheGroup("full", 16), CacheGroup("full", 32)))
    with pytest.raises(UsageError, match="blocks of two sizes"):
        Cluster(2, "round-robin", two_sizes, CLOCK, Recorder())


HYBRID = EngineConfig(
    num_blocks=6000, max_num_batched_tokens=2048, max_model_len=16384, retention_interval=None,
    groups=(CacheGroup("full", 16), CacheGroup("sliding", 16, 64)),
)  # fmt: skip


def test_replicas_of_several_groups(chat: list[Request]) -> None:
    outcomes = {router: play(3, router, chat, HYBRID) for router in ROUTERS.names()}
    for rows, recorder, _ in outcomes.values():
        assert sorted(row.id for row in rows) == sorted(request.id for request in chat)
        assert recorder.totals.finished == len(chat)
    hits = {router: recorder.totals.hit_tokens for router, (_, recorder, _) in outcomes.items()}
    assert hits["prefix-aware"] > hits["round-robin"]
