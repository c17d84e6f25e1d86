"""Engines with vLLM's offloading connector under pressure: books, liveness; without host memory, the plain one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

from audited import Audited
from crowds import Crowd, crowds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workloads import cases

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.live import LiveRequest
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.chunk import ChunkRun
from kvplan.engine.offloading.order import EvictionPolicy
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.engine.tiers.line import Line
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

EXAMPLES = int(os.environ.get("KVPLAN_FUZZ_EXAMPLES", "150"))

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)

laws = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES <= 150,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

Host = tuple[int, int, EvictionPolicy, float, float]
"""Chunks, blocks of each, which go first, and seconds a block takes to the host and back."""

speeds = st.sampled_from([0.0, 1e-4, 1e-3, 0.02])
hosts = st.tuples(st.integers(0, 40), st.integers(1, 3), st.sampled_from(["lru", "arc"]), speeds, speeds)


class Wire:
    """A carrier: so long a block."""

    def __init__(self, seconds: float) -> None:
        self.each = seconds

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.each * operations if size else 0.0


def runs_below(run: ChunkRun) -> Iterator[ChunkRun]:
    for child in run.children.values():
        assert child.start == run.end < child.end
        yield child
        yield from runs_below(child)


class AuditedOffloading(Audited, OffloadingReplica):
    """Counts who holds blocks without running, and what is on its way."""

    def _holders(self) -> list[LiveRequest]:
        remote = self.remote
        return [*super()._holders(), *remote.queue.holders, *remote.queue.orphaned, *remote.fenced]

    def audit(self) -> None:
        super().audit()
        cache, scheduler = self.cache, self.offloading
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


def engine(
    kind: type[OffloadingReplica], config: EngineConfig, host: Host, recorder: Recorder
) -> OffloadingReplica:
    chunks, chunk_blocks, policy, put, get = host
    return kind(
        config, CLOCK, recorder, HostCache(chunks, chunk_blocks * config.block_size, policy), chunk_blocks,
        Line("to_host", Wire(put), 1, 1), Line("from_host", Wire(get), 1, 1),
    )  # fmt: skip


def may_hang(config: EngineConfig) -> bool:
    """As any engine with loads: who has loaded may lack blocks, and stand before who holds them."""
    return config.policy == "priority" and not config.scheduler_reserve_full_isl


def play(
    make: Callable[[Recorder], Replica], requests: list[Request], crowd: Crowd | None, *, log: bool
) -> tuple[Replica, list[RequestRow], list[str], tuple[object, ...]]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    replica = make(recorder)
    replica.run(requests if crowd is None else crowd.arrivals(requests))
    replica.close()
    return replica, rows, lines, (rows, recorder.totals.to_dict(), recorder.series, recorder.rejections)


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
        scheduler, totals = found.offloading, found.recorder.totals
        assert scheduler.free_blocks == config.usable_blocks
        assert not scheduler.known
        assert not scheduler.index.fences
        assert not scheduler.fenced
        assert not found.cache.pending
        assert not found.cache.read
        assert found.put.line.moved_blocks == found.cache.stored * host[1]
        assert found.get.line.moved_blocks * config.block_size == scheduler.fetched_tokens
        assert totals.finished + totals.rejected + totals.timed_out == totals.requests
        for row in rows:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
            assert 0 <= row.cached_tokens < row.prompt_tokens
        # The same again, in bulk where nothing is decided: the same answer.
        metrics = {item.name: item.value for item in found.recorder.sections["tiers"]}
        told.append((answer, metrics))
    assert told[0] == told[1]
