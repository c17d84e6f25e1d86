"""Replicas that each have a strategy of their own, behind a router."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest
from agreement import in_strides
from crowds import Crowd, conversing, crowds
from fuzzing import examples, fuzz
from hypothesis import given
from hypothesis import strategies as st
from workloads import cases, stride_of

from kvplan.engine.cluster import Cluster
from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import make_engine
from kvplan.engine.errors import EngineStuck
from kvplan.engine.holding.strategy import SlotAllocation
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reuse.pins import PinRule
from kvplan.engine.reuse.strategy import PrefixReuse
from kvplan.engine.router import ROUTERS
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.strategy import Strategy, strategy_engine
from kvplan.engine.tiers.stack import TierSpec
from kvplan.engine.tiers.strategy import Tiers
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request
from kvplan.traces.synthesize import synthesize

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)


class Wire:
    """So many seconds a block."""

    def seconds(self, size: int, operations: int = 1) -> float:
        return 1e-3 * operations if size else 0.0


def tiers(preemption: str = "swap") -> Tiers:
    host = TierSpec("host", 40, 8, Wire(), Wire(), "through")
    return Tiers(8, (host,), preemption)  # type: ignore[arg-type]


STRATEGIES: dict[str, Callable[[EngineConfig], Strategy]] = {
    "tiers": lambda _: tiers("recompute"),
    "swap": lambda _: tiers("swap"),
    "offloading": lambda _: Offloading(1, 40, Wire(), Wire(), 2),
    "units": lambda config: PrefixReuse(2 * config.block_size),
    "ranks": lambda _: DataParallelAttention(2),
}


def play(engine: Cluster, requests: list[Request]) -> None:
    engine.run(requests)
    engine.close()


@st.composite
def cached_cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Request]]:
    config, requests = draw(cases())
    return replace(config, enable_prefix_caching=True), requests


@pytest.mark.parametrize("kind", ["tiers", "units"])
@examples(60)
@given(case=cached_cases())
def test_one_replica_is_the_strategy_itself(kind: str, case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    strategy: Strategy = tiers() if kind == "tiers" else PrefixReuse(2 * config.block_size)
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append)
    recorder.series_stride = stride_of(requests)
    alone = strategy.engine(config, CLOCK, recorder)
    alone.run(requests)
    alone.close()
    ours: list[RequestRow] = []
    whole = Recorder(on_request=ours.append)
    whole.series_stride = stride_of(requests)
    play(in_strides(Cluster(1, "least-loaded", config, CLOCK, whole, strategy), whole), requests)
    assert ours == rows
    assert whole.totals.to_dict() == recorder.totals.to_dict()
    assert whole.sections == {f"{name} 0": metrics for name, metrics in recorder.sections.items()}


@pytest.mark.parametrize("kind", list(STRATEGIES))
@fuzz(60)
@given(case=cached_cases(), crowd=crowds, data=st.data())
def test_clients_that_wait_and_give_up_are_the_same_for_one_replica(
    kind: str, case: tuple[EngineConfig, list[Request]], crowd: Crowd, data: st.DataObject
) -> None:
    config, requests = case
    workload = data.draw(conversing(requests))
    strategy = STRATEGIES[kind](config)
    told = []
    for replicas in (0, 1):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        recorder.series_stride = stride_of(workload)
        engine = (
            in_strides(Cluster(1, "least-loaded", config, CLOCK, recorder, strategy), recorder)
            if replicas
            else strategy.engine(config, CLOCK, recorder)
        )
        stuck = ""
        try:
            engine.run(crowd.arrivals(workload))
        except EngineStuck as exc:
            stuck = exc.message
        engine.close()
        told.append((rows, recorder.totals.to_dict(), list(recorder.sections.values()), stuck))
    assert told[0] == told[1]


def test_what_clients_leave_behind_who_give_up_is_written_when_they_go() -> None:
    """Found by random workloads: it was written when the run was over, whenever that was looked at."""
    config = EngineConfig(
        14, 1, 13, 1, 13, enable_prefix_caching=True, enable_chunked_prefill=False, async_scheduling=False
    )
    first = [Request(f"{n}", 0.0, ((50 * n, 1),), 1, ((500, 1),), 1) for n in range(6)]
    last = Request("last", 0.4, ((300, 11),), 11, ((500, 2),), 2)
    crowd = Crowd(Patience(0.006, inf), 0, 0.0, None, conversations=False)
    waited = []
    for replicas in (0, 1):
        recorder = Recorder()
        engine = (
            Cluster(1, "least-loaded", config, CLOCK, recorder, tiers())
            if replicas
            else tiers().engine(config, CLOCK, recorder)
        )
        engine.run(crowd.arrivals([*first, last]))
        engine.close()
        (metrics,) = recorder.sections.values()
        waited.append(next(metric.value for metric in metrics if metric.name == "to_host_queue_s"))
    assert waited[0] == waited[1] == pytest.approx(7.6e-4, rel=1e-3)


@examples(60)
@given(cached_cases(), st.integers(2, 3), st.sampled_from(ROUTERS.names()))
def test_no_request_is_lost(case: tuple[EngineConfig, list[Request]], replicas: int, router: str) -> None:
    config, requests = case
    recorder = Recorder()
    cluster = Cluster(replicas, router, config, CLOCK, recorder, tiers())
    play(cluster, requests)
    totals = recorder.totals
    assert totals.requests == len(requests) == totals.finished + totals.rejected
    for replica in cluster.replicas:
        assert replica.scheduler.free_blocks == config.usable_blocks


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@examples(40)
@given(case=cached_cases(), ranks=st.integers(1, 3))
def test_replicas_of_ranks_decide_as_each_of_them_alone(
    kind: str, case: tuple[EngineConfig, list[Request]], ranks: int
) -> None:
    vllm, requests = case
    config = vllm if kind == "vllm" else SglangConfig(pool_tokens=64, context_length=vllm.max_model_len)
    strategy = DataParallelAttention(ranks, "round-robin")
    lines: list[str] = []
    play(Cluster(2, "round-robin", config, CLOCK, Recorder(on_decision=lines.append), strategy), requests)
    for replica in (0, 1):
        told: list[str] = []
        engine = strategy_engine(strategy, config, CLOCK, Recorder(on_decision=told.append))
        engine.run(requests[replica::2])
        engine.close()
        assert [line.split("\t", 1)[1] for line in lines if line.startswith(f"{replica}\t")] == told


def test_a_host_tier_behind_every_replica() -> None:
    """Conversations that stay with their replica find in its host memory what its GPU had to give away."""
    chat = list(synthesize("chat", 400, 30.0, 0))
    config = EngineConfig(num_blocks=700, max_num_batched_tokens=2048, max_model_len=8192)
    found = {}
    for name, strategy in (
        ("plain", None),
        ("tiers", Tiers(8, (TierSpec("host", 20_000, 8, Wire(), Wire()),))),
    ):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        play(Cluster(3, "session-affinity", config, CLOCK, recorder, strategy), chat)
        found[name] = sum(row.cached_tokens for row in rows)
        assert sorted(recorder.sections) == ([] if strategy is None else ["tiers 0", "tiers 1", "tiers 2"])
    assert found["tiers"] > 1.2 * found["plain"]


def test_strategies_that_have_no_replicas_are_refused() -> None:
    config = EngineConfig(num_blocks=700, enable_prefix_caching=False)
    with pytest.raises(UsageError, match="one replica") as caught:
        make_engine("fast", config, CLOCK, Recorder(), replicas=2, strategy=SlotAllocation())
    assert caught.value.where == "parallel.replicas"
    pins = PrefixReuse(None, (PinRule(tokens=64, ttl_s=60.0, min_uses=1),))
    engine = make_engine(
        "fast", replace(config, enable_prefix_caching=True), CLOCK, Recorder(), replicas=2, strategy=pins
    )
    assert isinstance(engine, Cluster)
