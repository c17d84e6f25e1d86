"""Laws of vLLM's ranks that offload to host memory: steps taken in bulk are single ones, everybody is served or gave
up, every rank gives back what it took, and an empty host changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from crowds import Crowd, crowds
from fuzzing import fuzz
from grouped import grouped_cases
from hypothesis import given
from hypothesis import strategies as st
from offloaded import CLOCK, Host, Wire, hosts, may_hang
from workloads import cases

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.instance import one_full_group
from kvplan.engine.lockstep.offloading import OffloadingRanks
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.strategy import Engine
from kvplan.traces.request import Request


def host_of(host: Host) -> Offloading:
    chunks, chunk_blocks, policy, put, get = host
    return Offloading(1, chunks, Wire(put), Wire(get), chunk_blocks, policy)


def played(
    engine: Engine, rows: list[RequestRow], requests: list[Request], crowd: Crowd | None
) -> tuple[object, ...]:
    engine.run(requests if crowd is None else crowd.arrivals(requests))
    engine.close()
    return rows, engine.recorder.totals.to_dict(), engine.recorder.sections


@fuzz(80)
@given(
    st.one_of(cases(), grouped_cases()), hosts, st.integers(1, 3), st.one_of(st.none(), crowds),
    st.sampled_from((1, 3)),
)  # fmt: skip
def test_everybody_is_served_in_single_steps_and_in_bulk(
    case: tuple[EngineConfig, list[Request]], host: Host, ranks: int, crowd: Crowd | None, interval: int
) -> None:
    config, requests = case
    config = replace(
        config, enable_prefix_caching=True, eviction="lru", retention_interval=0,
        prefill_schedule_interval=interval,
    )  # fmt: skip
    strategy = DataParallelAttention(ranks, "round-robin").with_host(host_of(host))
    told = []
    for log in (None, lambda _: None):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append, on_decision=log, series=log is not None)
        engine = strategy.engine(config, CLOCK, recorder)
        try:
            told.append(played(engine, rows, requests, crowd))
        except EngineStuck:
            assert may_hang(config) or not one_full_group(config)
            return
        totals = recorder.totals
        assert totals.finished + totals.rejected + totals.timed_out == totals.requests
        for rank in engine.ranks:
            assert rank.scheduler.free_blocks == rank.config.usable_blocks
    assert told[0] == told[1], "steps taken in bulk are steps taken one by one"


@fuzz(60)
@given(cases(), st.integers(1, 3))
def test_without_host_memory_ranks_are_plain_ones(
    case: tuple[EngineConfig, list[Request]], ranks: int
) -> None:
    config, requests = case
    # With overlapping steps a connector that loads keeps blocks under them, whether or not anything is loaded.
    config = replace(config, enable_prefix_caching=True, eviction="lru", async_scheduling=False)
    told = []
    for host in (None, host_of((0, 1, "lru", 0.0, 0.0))):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        engine = DataParallelAttention(ranks, "round-robin", host=host).engine(config, CLOCK, recorder)
        try:
            answers = played(engine, rows, requests, None)
        except EngineStuck as exc:
            told.append((exc.message,))
            continue
        told.append(answers[:2])
    assert told[0] == told[1]


@fuzz(80)
@given(
    st.one_of(cases(), grouped_cases()), hosts, st.one_of(st.none(), crowds),
    st.lists(st.sampled_from((0.0, 1e-3, 0.5)), max_size=2),
)  # fmt: skip
def test_one_rank_is_a_replica(
    case: tuple[EngineConfig, list[Request]], host: Host, crowd: Crowd | None, idle_s: list[float]
) -> None:
    """Also of what its workers found while nobody asked for anything."""
    config, requests = case
    config = replace(config, enable_prefix_caching=True, eviction="lru", retention_interval=0)
    asked = list(requests)
    for times, seconds in enumerate(idle_s):
        # All at once: who is put off has others that are let in before it.
        again_s = asked[-1].arrival_s + seconds
        asked += [one._replace(id=f"{one.id} {times}", arrival_s=again_s) for one in requests]
    told = []
    for strategy in (host_of(host), DataParallelAttention(1, "round-robin").with_host(host_of(host))):
        rows: list[RequestRow] = []
        engine = strategy.engine(config, CLOCK, Recorder(on_request=rows.append))
        try:
            answers = played(engine, rows, asked, crowd)[:2]
        except EngineStuck as exc:
            told.append((exc.message,))
            continue
        (replica,) = engine.ranks if isinstance(engine, OffloadingRanks) else (engine,)
        assert isinstance(replica, OffloadingReplica)
        told.append((*answers, replica.cache.idle, replica.cache.pending))
    assert told[0] == told[1]
