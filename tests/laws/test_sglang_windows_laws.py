"""SGLang with a pool for windows: books balance, everybody is served, and windows nobody notices change
nothing."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from radix_runs import runs

from kvplan.engine.errors import EngineStuck, OutOfKvMemory
from kvplan.engine.recorder import Metric, Recorder, RequestRow
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.reference.sglang_windows import ReferenceWindowScheduler
from kvplan.engine.sglang.config import OUT_OF_MEMORY, SglangConfig
from kvplan.engine.sglang.eviction import least_recently_used
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.sglang_windows.errors import ForgottenPrefill
from kvplan.engine.sglang_windows.index import WindowIndex
from kvplan.engine.sglang_windows.node import WindowNode
from kvplan.engine.sglang_windows.replica import WindowReplica
from kvplan.engine.sglang_windows.request import WindowRequest
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

EXAMPLES = int(os.environ.get("KVPLAN_FUZZ_EXAMPLES", "200"))
CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES <= 300,
    suppress_health_check=list(HealthCheck),
)

Case = tuple[SglangConfig, list[Request]]


def _nodes(root: WindowNode) -> list[WindowNode]:
    found, left = [], [*root.children.values()]
    while left:
        node = left.pop()
        found.append(node)
        left.extend(node.children.values())
    return found


class Checked(WindowReplica):
    """Looks at the books after every batch that is made."""

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        planned = super()._plan(clock)
        self.check()
        return planned

    def check(self) -> None:
        scheduler, pool = self.windowed, self.windowed.pool
        cache = pool.cache
        nodes = _nodes(cache.root)
        assert cache.protected == sum(node.tokens for node in nodes if node.lock_ref)
        assert cache.evictable == sum(node.tokens for node in nodes if not node.lock_ref)
        with_window = [node for node in nodes if node.has_window]
        assert cache.held_windows == sum(node.tokens for node in with_window if node.window_locks)
        assert cache.evictable_windows == sum(node.tokens for node in with_window if not node.window_locks)
        assert pool.free >= 0
        assert pool.free_windows >= 0
        for node in nodes:
            # Whoever holds a window holds its node; what may go is queued, and nothing else.
            assert node.lock_ref >= node.window_locks >= 0
            assert bool(node.ticket) == (not node.lock_ref and not node.children)
            assert bool(node.window_ticket) == (node.has_window and not node.window_locks)
        if scheduler.finishing:
            return
        holders = {*scheduler.decoding.members, *(scheduler.last.extends if scheduler.last else ())}
        holders |= {request for request in (scheduler.chunked,) if request is not None}
        private = own_windows = 0
        for request in holders:
            assert isinstance(request, WindowRequest)
            if request.holding is not None:
                computed = request.base + scheduler.decoding.tick if request.ticket else request.computed
                room, shared = -(-computed // pool.page) * pool.page, request.holding.shared
                private += room - shared
                own_windows += room - max(shared, request.slid)
        assert pool.free + private + cache.protected + cache.evictable == self.config.pool_tokens
        in_tree = cache.held_windows + cache.evictable_windows
        assert pool.free_windows + own_windows + in_tree == pool.window_tokens


def _play(
    make: type[SglangReplica], config: SglangConfig, workload: list[Request], *more: SlidingWindows,
    log: bool = True,
) -> tuple[list[str], dict[str, RequestRow], SglangReplica]:  # fmt: skip
    rows: dict[str, RequestRow] = {}
    lines: list[str] = []
    recorder = Recorder(
        on_request=lambda row: rows.__setitem__(row.id, row), on_decision=lines.append if log else None
    )
    if not log:
        # Only steps that nobody asks about are run through without being planned.
        recorder.series_stride = 1 << 20
    replica = make(config, CLOCK, recorder, *more)
    replica.run(workload)
    replica.close()
    return lines, rows, replica


@st.composite
def windowed(draw: st.DrawFn) -> tuple[SglangConfig, list[Request], SlidingWindows]:
    config, workload = draw(runs())
    config = replace(config, tree="unified")
    span, interval = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 7, 128]))
    page = config.page_size
    # From too little for one request alone to more than enough.
    tokens = span + 2 * page + draw(st.integers(1, 2 * span + interval + 60))
    return config, workload, SlidingWindows(span, tokens, interval)


def _reference(
    config: SglangConfig, workload: list[Request], windows: SlidingWindows
) -> tuple[list[str], dict[str, RequestRow], dict[str, list[Metric]]]:
    """The same, every request looked at in every step."""
    rows: dict[str, RequestRow] = {}
    lines: list[str] = []
    recorder = Recorder(on_request=lambda row: rows.__setitem__(row.id, row), on_decision=lines.append)
    scheduler = ReferenceWindowScheduler(config, windows)
    engine = ReferenceSglangEngine(config, CLOCK, recorder, check=True, scheduler=scheduler)
    engine.run(workload)
    engine.close()
    return lines, rows, recorder.sections


@FUZZ
@given(case=windowed())
def test_books_balance_and_everybody_gets_the_whole_answer(
    case: tuple[SglangConfig, list[Request], SlidingWindows],
) -> None:
    config, workload, windows = case
    windows.check(config)
    try:
        lines, rows, replica = _play(Checked, config, workload, windows)
    except (EngineStuck, OutOfKvMemory, ForgottenPrefill) as stop:
        # A pool that does not hold one request's windows beside what it must keep, or no chunk.
        with pytest.raises(type(stop)):
            _play(Checked, config, workload, windows, log=False)
        with pytest.raises(type(stop)):
            _reference(config, workload, windows)
        return
    assert isinstance(replica, WindowReplica)
    pool = replica.windowed.pool
    assert pool.unreferenced == config.pool_tokens
    assert pool.unreferenced_windows == pool.window_tokens
    served = {request.id: request.output_tokens for request in workload if replica.rejection(request) is None}
    assert {row.id: row.output_tokens for row in rows.values()}.items() <= served.items()
    assert len(rows) + replica.recorder.totals.rejected == len(workload)
    if config.max_queued_requests is None:
        # Whoever does not fit, even alone, is aborted.
        assert len(served) - len(rows) == replica.recorder.rejections.get(OUT_OF_MEMORY, 0)
    assert lines or not rows
    # Steps nobody plans one by one are the same ones.
    _, again, bulk = _play(Checked, config, workload, windows, log=False)
    assert again == rows
    assert bulk.recorder.rejections == replica.recorder.rejections
    assert bulk.recorder.sections == replica.recorder.sections
    assert _reference(config, workload, windows) == (lines, rows, replica.recorder.sections)


@FUZZ
@given(case=runs())
def test_windows_longer_than_every_request_change_nothing(case: Case) -> None:
    config, workload = case
    # Where memory is short SGLang tries more often with windows, and cuts its tree elsewhere.
    everything = sum(request.prompt_tokens + request.output_tokens + 8 for request in workload) + 4096
    config = replace(config, tree="unified", pool_tokens=2 * everything)
    wide = SlidingWindows(everything, 3 * everything * (1 + config.max_running_requests))
    lines, rows, _ = _play(SglangReplica, config, workload)
    assert _play(Checked, config, workload, wide)[:2] == (lines, rows)


def test_what_is_refused() -> None:
    config = SglangConfig(1000, page_size=4)
    for windows, options in (
        (SlidingWindows(100, 104), config),
        (SlidingWindows(100, 900), replace(config, tree="radix")),
    ):
        with pytest.raises(UsageError):
            WindowPools(windows).sglang_engine(options, CLOCK, Recorder())
    with pytest.raises(UsageError, match="at least 1"):
        SlidingWindows(0, 100)


def test_prefills_that_sglang_would_forget_are_told() -> None:
    config = SglangConfig(1000, chunked_prefill_size=300, disable_overlap_schedule=True)
    windows = SlidingWindows(20, 150, 16)
    workload = [
        Request(name, 0.0, ((1000 * number, tokens),), tokens, ((10**6 + 1000 * number, answer),), answer)
        for number, (name, tokens, answer) in enumerate((("a", 30, 9), ("b", 200, 9), ("c", 200, 2)))
    ]
    _, rows, _ = _play(Checked, config, workload[:2], windows)
    assert set(rows) == {"a", "b"}
    with pytest.raises(ForgottenPrefill, match="'b', as that of 'c'"):
        _play(Checked, config, workload, windows)


def test_a_match_needs_a_window_before_its_end() -> None:
    cache = WindowIndex(1, least_recently_used, SlidingWindows(4, 100))
    content = cache.content(Request("a", 0.0, ((1, 30),), 30, ((100, 1),), 1))
    node = cache.add(content, 20, 0, counted=0, owned=0, live=12).node
    assert cache.look(content, 30)[0:3:2] == (20, 20)
    assert cache.look(content, 14)[0:3:2] == (0, 14)
    assert cache.cached(content, 30) == 20
    held = cache.hold(node)
    # The held window stays; what lies before it goes.
    assert cache.reclaim(0, 100) == (0, 4)
    cache.let_go(node, held)
    assert cache.reclaim(0, 1) == (4, 4)
    assert cache.look(content, 30)[0:3:2] == (0, 16)
