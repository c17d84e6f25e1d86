"""Drafts above vLLM's host memory below several groups: as below one where it is one, and without a host none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from crowds import Crowd, crowds
from fuzzing import fuzz
from grouped import grouped_cases
from hypothesis import assume, given
from hypothesis import strategies as st
from offloaded import CLOCK, Host, Wire, hosts, may_hang, play
from workloads import cases

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.engine import Engine
from kvplan.engine.errors import EngineStuck
from kvplan.engine.instance import simulated_in_segments
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.grouped.chunk import PENDING
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.plan import StepPlan
from kvplan.engine.recorder import Recorder
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.grouped.replica import DraftGroupedReplica
from kvplan.engine.speculation.offloading import DraftOffloadingReplica
from kvplan.engine.speculation.replica import DraftReplica
from kvplan.engine.speculation.rules import Method, rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.tiers.line import Line
from kvplan.errors import UsageError
from kvplan.traces.request import Request

laws = fuzz(60)
methods = st.sampled_from(["mtp", "draft_model"])


def drafts_of(method: Method, tokens: int, modules: int = 1) -> Speculation:
    return Speculation(rules_of(method, tokens, (0, 33, 0), modules=modules), geometric(0.6, tokens, 1))


def fitted(config: EngineConfig, tokens: int) -> EngineConfig:
    """With room for drafts, and cached prefixes."""
    return replace(
        config, enable_prefix_caching=True, long_prefill_token_threshold=0,
        max_num_batched_tokens=max(config.max_num_batched_tokens, 3 + tokens),
    )  # fmt: skip


def starts(config: EngineConfig, drafts: Speculation, host: Host) -> bool:
    try:
        drafts.beside_connector(config)
        Offloading.check(config, host[1])
    except UsageError:
        return False
    return True


class Audited(DraftGroupedReplica):
    """Checks its books before and after every delivery."""

    def deliver(self, plan: StepPlan, clock: float) -> None:
        self.audit()
        super().deliver(plan, clock)
        self.audit()

    def audit(self) -> None:
        scheduler, remote, host = self.grouped, self.scheduler, self.grouped.host
        tables = scheduler.numbered.tables
        holders = (*remote.running, *remote.queue.holders, *remote.queue.orphaned, *remote.fenced)
        tables.pool.check(table for request in holders for table in request.state.blocks)  # type: ignore[attr-defined]
        pool = scheduler.numbered.pool
        assert (pool.blank + pool.cached, pool.cached) == (
            tables.pool.free_blocks,
            tables.pool.published_free,
        )
        known = scheduler.known.values()
        there = {key for row in host.order.rows()[:2] for key in row if host.readers(key) >= PENDING}
        assert len(there) == host.resident <= host.capacity
        assert sum(len(store.keys) for each in known for store in each.stores) == host.pending
        assert len({key for each in known for key in each.loading}) == host.read


def grouped(
    kind: type[DraftGroupedReplica],
    config: EngineConfig,
    drafts: Speculation,
    host: Host,
    recorder: Recorder,
) -> DraftGroupedReplica:
    chunks, chunk_blocks, policy, put, get = host
    beside, config = drafts.beside_connector(config)
    return kind(
        config, CLOCK, recorder, HostChunks(chunks, policy), chunk_blocks,
        Line("to_host", Wire(put), 1, 1), Line("from_host", Wire(get), 1, 1), beside,
    )  # fmt: skip


def one_group(config: EngineConfig, drafts: Speculation, host: Host, recorder: Recorder) -> Engine:
    chunks, chunk_blocks, policy, put, get = host
    beside, config = drafts.beside_connector(config)
    return DraftOffloadingReplica(
        config, CLOCK, recorder, HostCache(chunks, chunk_blocks * config.block_size, policy), chunk_blocks,
        Line("to_host", Wire(put), 1, 1), Line("from_host", Wire(get), 1, 1), beside,
    )  # fmt: skip


@laws
@given(cases(), hosts, methods, st.integers(1, 3), st.one_of(st.none(), crowds))
def test_one_group_is_one_group(
    case: tuple[EngineConfig, list[Request]], host: Host, method: Method, tokens: int, crowd: Crowd | None
) -> None:
    config, requests = fitted(case[0], tokens), case[1]
    drafts = drafts_of(method, tokens)
    assume(config.block_size * host[1] > 1 and starts(config, drafts, host))
    told = []
    for make in (
        partial(one_group, config, drafts, host),
        partial(grouped, DraftGroupedReplica, config, drafts, host),
    ):
        try:
            found, _, lines, answer = play(make, requests, crowd, log=True)
        except EngineStuck:
            told.append(None)
            continue
        metrics = {item.name: item.value for item in found.recorder.sections["tiers"]}
        told.append((lines, answer, metrics))
    assert told[0] == told[1]


@laws
@given(grouped_cases(), hosts, st.integers(1, 3))
def test_without_host_memory_another_model_drafts_as_on_the_plain_engine(
    case: tuple[EngineConfig, list[Request]], host: Host, tokens: int
) -> None:
    """Step by step: no blocks wait for steps in flight then."""
    config = replace(fitted(case[0], tokens), num_blocks=100_000, async_scheduling=False)
    drafts = drafts_of("draft_model", tokens)
    assume(starts(config, drafts, host) and simulated_in_segments(config))
    without = partial(grouped, DraftGroupedReplica, config, drafts, (0, *host[1:]))
    _, _, lines, told = play(without, case[1], None, log=True)

    def plain(recorder: Recorder) -> DraftReplica:
        return drafts.engine(config, CLOCK, recorder)

    _, _, plain_lines, plain_told = play(plain, case[1], None, log=True)
    assert lines == plain_lines
    assert told == plain_told


@laws
@given(
    grouped_cases(), hosts, methods, st.integers(1, 3), st.sampled_from([1, 1, 3]), st.integers(0, 8),
    st.one_of(st.none(), crowds),
)  # fmt: skip
def test_the_books_are_kept_and_nothing_hangs(
    case: tuple[EngineConfig, list[Request]],
    host: Host,
    method: Method,
    tokens: int,
    modules: int,
    spare: int,
    crowd: Crowd | None,
) -> None:
    config, requests = fitted(case[0], tokens), case[1]
    room = config.max_model_len + 3 * tokens + 2
    least = 1 + sum(2 * tokens + 4 - (-room // group.block_size) for group in config.groups)
    config = replace(config, num_blocks=least + spare, watermark=0.0)
    drafts = drafts_of(method, tokens, modules)
    assume(starts(config, drafts, host) and config.hit_alignment > 1)
    told = []
    for kind in (Audited, DraftGroupedReplica):
        try:
            found, rows, _, answer = play(
                partial(grouped, kind, config, drafts, host), requests, crowd, log=False
            )
        except EngineStuck:
            assert may_hang(config) or not config.scheduler_reserve_full_isl
            return
        assert isinstance(found, DraftGroupedReplica)
        scheduler, totals = found.grouped, found.recorder.totals
        assert scheduler.free_blocks == config.usable_blocks
        # Nobody asks for a step any more, so nobody hears of the last stores.
        left = scheduler.known.values()
        assert all(each.stores and not each.loading for each in left)
        assert left or not scheduler.fences
        assert not scheduler.fenced
        assert not scheduler.open
        assert scheduler.host.pending == sum(len(store.keys) for each in left for store in each.stores)
        assert totals.finished + totals.rejected + totals.timed_out == totals.requests
        for row in rows:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
            assert 0 <= row.cached_tokens < row.prompt_tokens
        told.append(answer)
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ((CacheGroup("sliding", 16, 64), CacheGroup("mamba", 16)), "need a cache group of full attention"),
        ((CacheGroup("full", 16), CacheGroup("chunked", 16, 64, drafts=True)), "local chunks"),
    ],
)
def test_who_cannot_draft(groups: tuple[CacheGroup, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        drafts_of("eagle", 2).beside_connector(EngineConfig(num_blocks=100, groups=groups))


def test_the_drafter_is_in_the_first_group_of_full_attention_unless_it_is_said() -> None:
    groups = (CacheGroup("sliding", 16, 64), CacheGroup("full", 16), CacheGroup("full", 16))
    _, config = drafts_of("eagle", 2).beside_connector(EngineConfig(num_blocks=100, groups=groups))
    assert [group.drafts for group in config.groups] == [False, True, False]
    said = (*groups[:2], replace(groups[2], drafts=True))
    _, config = drafts_of("eagle", 2).beside_connector(EngineConfig(num_blocks=100, groups=said))
    assert [group.drafts for group in config.groups] == [False, False, True]
    _, config = drafts_of("draft_model", 2).beside_connector(EngineConfig(num_blocks=100, groups=said))
    assert not config.drops_blocks
