"""SGLang with host memory below a pool for windows: books balance, nothing to keep is the engine without a host,
and steps nobody plans one by one are the same ones."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from fuzzing import fuzz
from host_runs import CLOCK, WAYS, Case, Way, drafts, room, told
from hypothesis import assume, given
from hypothesis import strategies as st
from radix_runs import below_a_host, runs

from kvplan.engine.hicache.copies import Copies, GatheredLine
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import WRITE_POLICIES, WritePolicy
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.hicache.windows.index import HostedWindowIndex
from kvplan.engine.hicache.windows.memory import HostWindows
from kvplan.engine.hicache.windows.node import HostedWindowNode
from kvplan.engine.hicache.windows.replica import HostedWindowReplica
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.strategy import Speculation

FUZZ = fuzz(100)


@st.composite
def windowed(draw: st.DrawFn) -> tuple[Case, SlidingWindows]:
    """Engines whose pool for windows hardly holds more than their requests need."""
    config, workload = draw(runs())
    config = replace(below_a_host(config), max_running_requests=min(config.max_running_requests, 3))
    span, interval = draw(st.integers(1, 30)), draw(st.sampled_from([1, 2, 7, 128]))
    tokens = span + 2 * config.page_size + draw(st.integers(1, 2 * span + interval + 60))
    return (config, workload), SlidingWindows(span, tokens, interval)


class Checked(HostedWindowReplica):
    """Looks at the books after every batch that is made."""

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        planned = super()._plan(clock)
        self.check()
        return planned

    def check(self) -> None:
        index, pool = self.index, self.windowed.pool
        nodes: list[HostedWindowNode] = list(index.root.children.values())
        for node in nodes:
            nodes += node.children.values()
        there = [node for node in nodes if node.on_device]
        assert index.protected == sum(node.tokens for node in there if node.lock_ref)
        assert index.evictable == sum(node.tokens for node in there if not node.lock_ref)
        with_window = [node for node in nodes if node.has_window]
        assert index.held_windows == sum(node.tokens for node in with_window if node.window_locks)
        assert index.evictable_windows == sum(node.tokens for node in with_window if not node.window_locks)
        assert min(pool.free, pool.free_windows) >= 0
        host, windows = index.host, index.host_beside
        assert host.used == sum(node.tokens for node in nodes if node.on_host) <= host.capacity
        assert windows.used == sum(node.tokens for node in nodes if node.beside_on_host) <= windows.capacity
        assert windows.stored - windows.evicted == windows.used
        for node in nodes:
            assert node.on_device or (node.on_host and not node.has_window)
            assert node.lock_ref >= node.window_locks >= 0
            below = [child for child in node.children.values() if child.on_device]
            assert node.resident == len(below)
            leaf = not node.lock_ref and not (below if node.on_device else node.children)
            assert bool(node.ticket) == leaf
            # What may go from the device, and what only the host has, is in one order or the other.
            waits = not node.window_locks if node.has_window else node.beside_on_host
            assert bool(node.window_ticket) == waits
            assert node.lock_ref or (node.pinned == 0 and node.pinned_from < 0 and node.writing is None)


@FUZZ
@given(
    windowed(), st.sampled_from([0, 3, 30, 150]), st.sampled_from([0, 1, 4, 12, 100]),
    st.sampled_from(WRITE_POLICIES), st.sampled_from(WAYS),
)  # fmt: skip
def test_books_of_windows_balance(
    asked: tuple[Case, SlidingWindows], pages: int, more: int, write: WritePolicy, way: Way
) -> None:
    case, sliding = asked
    config, size = case[0], case[0].page_size
    found = []
    for kind in (Checked, HostedWindowReplica):
        copies = Copies(GatheredLine("to_host", way, 1, 2), GatheredLine("from_host", way, 1, 2), size)
        memory, windows = HostMemory(pages * size), HostWindows(more * size)
        index = HostedWindowIndex(size, config.leaf_key, write, memory, copies, windows, sliding)
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        engine = kind(config, CLOCK, recorder, sliding, index)
        outcome = told(engine, recorder, case, rows)
        found.append((outcome, memory.stored, memory.evicted, windows.stored, windows.evicted, windows.peak))
        for row in rows:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        if outcome[-1]:
            continue
        copies.now = inf
        index.settle()
        # What was put into the host has travelled, and in the end nobody holds anything.
        assert copies.put.moved_blocks * size == memory.stored
        assert copies.put.moved_beside * size == windows.stored
        pool = engine.windowed.pool
        assert pool.unreferenced == config.pool_tokens
        assert pool.unreferenced_windows == pool.window_tokens
        assert index.protected == index.held_windows == 0
    assert found[0] == found[1]


@FUZZ
@given(windowed(), st.sampled_from(WRITE_POLICIES), st.none() | drafts())
def test_a_host_without_memory_is_the_engine_with_windows(
    asked: tuple[Case, SlidingWindows], write: WritePolicy, drafting: Speculation | None
) -> None:
    case, sliding = asked
    # Insertions are not counted then.
    assume(write != "write_back" or case[0].radix_eviction_policy not in ("lfu", "slru"))
    host = HierarchicalCache(1, 0, WAYS[2], WAYS[2], write, 3, 0)
    found = []
    if drafting is not None:
        case = room(case, drafting)
        drafting = replace(drafting, windows=sliding)
        strategies = (drafting, host.with_drafts(drafting))
    else:
        plain = WindowPools(sliding)
        strategies = (plain, host.with_pool(plain))
    for strategy in strategies:
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        found.append(told(strategy.sglang_engine(case[0], CLOCK, recorder), recorder, case, rows))
    assert found[0] == found[1]


@FUZZ
@given(windowed(), st.sampled_from(["write_through", "write_back"]))
def test_a_host_that_holds_everything_loses_no_window_that_was_put_in(
    asked: tuple[Case, SlidingWindows], write: WritePolicy
) -> None:
    case, sliding = asked
    config = case[0]
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append)
    host = HierarchicalCache(1, 10_000, WAYS[0], WAYS[0], write, 1, 10_000)
    engine = host.with_pool(WindowPools(sliding)).sglang_engine(config, CLOCK, recorder)
    assert isinstance(engine, HostedWindowReplica)
    told(engine, recorder, case, rows)
    assert engine.index.host_beside.evicted == 0
    assert write == "write_back" or engine.index.host.evicted == 0
