"""The offloading connector below several cache groups: as below one where it is one, and without a host none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

from crowds import Crowd, crowds
from fuzzing import fuzz
from grouped import grouped_cases
from hypothesis import assume, example, given
from hypothesis import strategies as st
from offloaded import CLOCK, Host, Wire, engine, hosts, may_hang, play
from workloads import cases

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.hybrid.replica import HybridReplica
from kvplan.engine.instance import simulated_in_segments
from kvplan.engine.offloading.grouped.chunk import PENDING
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.grouped.replica import GroupedReplica
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.plan import StepPlan
from kvplan.engine.recorder import Recorder
from kvplan.engine.tiers.line import Line
from kvplan.traces.request import Request

laws = fuzz(80)


class AuditedGroups(GroupedReplica):
    """Checks its books before and after every delivery."""

    def deliver(self, plan: StepPlan, clock: float) -> None:
        self.audit()
        super().deliver(plan, clock)
        self.audit()

    def audit(self) -> None:
        scheduler, remote, host = self.grouped, self.scheduler, self.grouped.host
        cache = scheduler.numbered
        holders = (*remote.running, *remote.queue.holders, *remote.queue.orphaned, *remote.fenced)
        cache.tables.pool.check(table for request in holders for table in request.state.blocks)  # type: ignore[attr-defined]
        pool = cache.pool
        assert (pool.blank + pool.cached, pool.cached) == (
            cache.tables.pool.free_blocks, cache.tables.pool.published_free,
        )  # fmt: skip
        known = scheduler.known.values()
        there = {key for row in host.order.rows()[:2] for key in row if host.readers(key) >= PENDING}
        assert len(there) == host.resident <= host.capacity
        assert host.stored - host.evicted == host.resident
        assert sum(len(store.keys) for each in known for store in each.stores) == host.pending
        assert scheduler.outstanding == sum(len(each.stores) for each in known)
        assert len({key for each in known for key in each.loading}) == host.read
        assert set(scheduler.behind) <= set(scheduler.open) & set(scheduler.running)


def grouped_engine(
    kind: type[GroupedReplica], config: EngineConfig, host: Host, recorder: Recorder
) -> GroupedReplica:
    chunks, chunk_blocks, policy, put, get = host
    return kind(
        config, CLOCK, recorder, HostChunks(chunks, policy), chunk_blocks,
        Line("to_host", Wire(put), 1, 1), Line("from_host", Wire(get), 1, 1),
    )  # fmt: skip


def starts(config: EngineConfig, host: Host) -> bool:
    """Whether vLLM does."""
    interval = config.retention_interval
    return not interval or not any(
        interval % (group.block_size * host[1]) for group in config.groups if group.kind != "full"
    )


@laws
@given(cases(), hosts, st.one_of(st.none(), crowds))
def test_one_group_is_one_group(
    case: tuple[EngineConfig, list[Request]], host: Host, crowd: Crowd | None
) -> None:
    config, requests = case
    config = replace(config, enable_prefix_caching=True)
    assume(config.block_size * host[1] > 1)
    for log in (True, False):
        told = []
        for make in (
            partial(engine, OffloadingReplica, config, host),
            partial(grouped_engine, GroupedReplica, config, host),
        ):
            try:
                found, _, lines, answer = play(make, requests, crowd, log=log)
            except EngineStuck:
                told.append(None)
                continue
            metrics = {item.name: item.value for item in found.recorder.sections["tiers"]}
            told.append((lines, answer, metrics))
        assert told[0] == told[1]


@laws
@given(grouped_cases(), hosts)
def test_without_host_memory_it_is_the_plain_engine(
    case: tuple[EngineConfig, list[Request]], host: Host
) -> None:
    """Unless blocks are short: vLLM lets go of windows a little earlier where it could offload."""
    config, requests = case
    config = replace(config, enable_prefix_caching=True, num_blocks=100_000)
    assume(starts(config, host) and simulated_in_segments(config))
    for log in (True, False):
        without = partial(grouped_engine, GroupedReplica, config, (0, *host[1:]))
        _, _, lines, told = play(without, requests, None, log=log)
        _, _, plain_lines, plain = play(partial(HybridReplica, config, CLOCK), requests, None, log=log)
        assert lines == plain_lines
        assert told == plain


TWICE = EngineConfig(
    24, 4, 38, 3, 8, groups=(CacheGroup("full", 4),) * 2, retention_interval=None, async_scheduling=False
)
GOING_ON = [
    Request("r0", 0.0, ((1000, 7),), 7, ((10**6, 2),), 2),
    Request("r1", 0.001, ((2000, 11),), 11, ((10**6 + 1000, 10),), 10),
    Request("r2", 0.061, ((1000, 7), (10**6, 2), (3000, 4)), 13, ((10**6 + 2000, 25),), 25),
]


# A chunk that the host had no room for is stored in the first step after room came, which is a quiet one.
@example((TWICE, GOING_ON), (8, 1, "lru", 0.02, 1e-3), 0, None)
@laws
@given(grouped_cases(), hosts, st.integers(0, 8), st.one_of(st.none(), crowds))
def test_the_books_are_kept_and_nothing_hangs(
    case: tuple[EngineConfig, list[Request]], host: Host, spare: int, crowd: Crowd | None
) -> None:
    config, requests = case
    least = 1 + sum(-(-config.max_model_len // group.block_size) + 2 for group in config.groups)
    config = replace(config, num_blocks=least + spare, enable_prefix_caching=True, watermark=0.0)
    assume(starts(config, host))
    assume(any(group.kind != "full" or group.block_size * host[1] > 1 for group in config.groups))
    told = []
    for kind, log in product((AuditedGroups, GroupedReplica), (True, False)):
        if kind is AuditedGroups and not log:
            continue
        try:
            found, rows, _, answer = play(
                partial(grouped_engine, kind, config, host), requests, crowd, log=log
            )
        except EngineStuck:
            assert may_hang(config) or not config.scheduler_reserve_full_isl
            return
        assert isinstance(found, GroupedReplica)
        scheduler, totals = found.grouped, found.recorder.totals
        assert scheduler.free_blocks == config.usable_blocks
        # Nobody asks for a step any more, so nobody hears of the last stores.
        left = scheduler.known.values()
        assert all(each.stores and not each.loading for each in left)
        assert left or not scheduler.fences
        assert not scheduler.fenced
        assert not scheduler.open
        assert scheduler.host.pending == sum(len(store.keys) for each in left for store in each.stores)
        assert not scheduler.host.read
        assert totals.finished + totals.rejected + totals.timed_out == totals.requests
        for row in rows:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
            assert 0 <= row.cached_tokens < row.prompt_tokens
        metrics = {item.name: item.value for item in found.recorder.sections["tiers"]}
        told.append((answer, metrics))
    assert told[0] == told[1] == told[2]
