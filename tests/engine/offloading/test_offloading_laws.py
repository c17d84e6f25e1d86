"""Engines with vLLM's offloading connector under pressure: books, liveness; without host memory, the plain one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

from audited import Audited
from crowds import Crowd, crowds
from fuzzing import fuzz
from hypothesis import example, given
from hypothesis import strategies as st
from offloaded import CLOCK, Host, engine, hosts, may_hang, play
from workloads import cases

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.live import LiveRequest
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.chunk import ChunkRun
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.offloading.scheduler import OffloadingScheduler
from kvplan.engine.replica import Replica
from kvplan.traces.request import Request

laws = fuzz(150)


def runs_below(run: ChunkRun) -> Iterator[ChunkRun]:
    for child in run.children.values():
        assert child.start == run.end < child.end
        yield child
        yield from runs_below(child)


class AuditedOffloading(Audited, OffloadingReplica):
    """Counts who holds blocks without running, and what is on its way."""

    def _holders(self) -> list[LiveRequest]:
        remote = self.scheduler
        return [*super()._holders(), *remote.queue.holders, *remote.queue.orphaned, *remote.fenced]

    def audit(self) -> None:
        super().audit()
        cache, scheduler = self.cache, self.offloading
        assert isinstance(cache, HostCache)
        assert isinstance(scheduler, OffloadingScheduler)
        known = scheduler.known.values()
        assert cache.resident <= cache.capacity
        assert cache.stored - cache.evicted == cache.resident
        states = Counter[int]()
        for run in runs_below(cache.tree.root):
            assert run.anywhere or run.children
            assert run.turn is None or run in run.turn.runs
            states[min(run.readers, 1)] += run.blocks
        assert (states[0], states[-1], states[1]) == (cache.idle, cache.pending, cache.read)
        assert sum(store.chunks for each in known for store in each.stores) == cache.pending
        assert (
            sum(last - first for each in known if each.loading for first, last in [each.loading])
            == cache.read
        )
        assert scheduler.outstanding == sum(len(each.stores) for each in known)
        assert set(scheduler.behind) <= set(scheduler.running)


@laws
@given(cases(), hosts)
def test_without_host_memory_it_is_the_plain_engine(
    case: tuple[EngineConfig, list[Request]], host: Host
) -> None:
    """Unless blocks are short with overlapping steps: an engine that could load preempts nobody in flight."""
    config, requests = case
    config = replace(config, enable_prefix_caching=True)
    for each, log in product(
        (replace(config, async_scheduling=False), replace(config, num_blocks=100_000)), (True, False)
    ):
        without = partial(engine, OffloadingReplica, each, (0, *host[1:]))
        _, _, lines, told = play(without, requests, None, log=log)
        _, _, plain_lines, plain = play(partial(Replica, each, CLOCK), requests, None, log=log)
        assert lines == plain_lines
        assert told == plain


FULL_HOST = EngineConfig(
    13, 1, 12, 1, 12, enable_chunked_prefill=False, scheduler_reserve_full_isl=False, async_scheduling=False
)
ONE_BY_ONE = [
    Request(f"r{number}", 0.0, ((1000 + 50 * number, 1),), 1, ((500, output),), output)
    for number, output in enumerate((1, 2, 1))
]


BESIDE = [
    Request("r0", 0.0, ((1000, 6),), 6, ((10**6, 20),), 20),
    Request("r1", 0.0, ((1000, 6), (10**6, 3), (2000, 1)), 10, ((10**6 + 1000, 3),), 3),
]


# What a request leaves behind that ends among quiet steps is stored in the next one.
@example((EngineConfig(29, 1, 26, 3, 26, async_scheduling=False), BESIDE), (8, 2, "lru", 0.05, 0.05), 2, None)
# A chunk that the host had no room for is stored in the first step after room came, which is a quiet one.
@example((FULL_HOST, ONE_BY_ONE), (1, 1, "lru", 0.0, 0.0), 0, None)
@laws
@given(cases(), hosts, st.integers(0, 5), st.one_of(st.none(), crowds))
def test_the_books_are_kept_and_nothing_hangs(
    case: tuple[EngineConfig, list[Request]], host: Host, spare: int, crowd: Crowd | None
) -> None:
    config, requests = case
    least = 1 + -(-config.max_model_len // config.block_size)
    config = replace(config, num_blocks=least + spare, enable_prefix_caching=True, watermark=0.0)
    told = []
    for kind, log in ((AuditedOffloading, True), (OffloadingReplica, False)):
        try:
            found, rows, _, answer = play(partial(engine, kind, config, host), requests, crowd, log=log)
        except EngineStuck:
            assert may_hang(config)
            return
        assert isinstance(found, OffloadingReplica)
        scheduler, cache, totals = found.offloading, found.cache, found.recorder.totals
        assert isinstance(scheduler, OffloadingScheduler)
        assert scheduler.free_blocks == config.usable_blocks
        # Nobody asks for a step any more, so nobody hears of the last stores.
        left = scheduler.known.values()
        assert all(each.stores and not each.loading for each in left)
        assert {fence for each in scheduler.index.fences.values() for fence in each} <= {
            each.fence for each in left
        }
        assert not scheduler.fenced
        assert cache.pending == sum(store.chunks for each in left for store in each.stores)
        assert not cache.read
        assert found.put.line.moved_blocks == cache.stored * host[1]
        assert found.get.line.moved_blocks * config.block_size == scheduler.fetched_tokens
        assert totals.finished + totals.rejected + totals.timed_out == totals.requests
        for row in rows:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
            assert 0 <= row.cached_tokens < row.prompt_tokens
        # The same again, in bulk where nothing is decided: the same answer.
        metrics = {item.name: item.value for item in found.recorder.sections["tiers"]}
        told.append((answer, metrics))
    assert told[0] == told[1]
