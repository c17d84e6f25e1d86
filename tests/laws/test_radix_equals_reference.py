"""SGLang: segments decide what tokens decide, on random caches and random engines; failures shrink."""

from __future__ import annotations

from cache_lifecycle import CacheReplay, Finished
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from radix_runs import LONGEST, eviction, runs
from workloads import requests, stride_of

from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.radix import TokenTree
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import eviction_policy
from kvplan.engine.sglang.prefix_radix import RadixIndex
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)

FUZZ = fuzz(300)


@st.composite
def replays(draw: st.DrawFn) -> tuple[dict, int, int, list[Request]]:
    """A cache, its pool, how many requests at a time, and a workload."""
    tree = {
        "page_size": draw(st.sampled_from([1, 1, 2, 3, 4])),
        "policy": eviction_policy(*draw(eviction())),
        "kind": draw(st.sampled_from(["unified", "radix"])),
    }
    return tree, draw(st.integers(20, 160)), draw(st.integers(1, 4)), draw(requests(LONGEST))


@FUZZ
@given(replays())
def test_fast_tree_equals_reference(case: tuple[dict, int, int, list[Request]]) -> None:
    options, pool, concurrency, workload = case
    fast = CacheReplay(RadixIndex(**options), pool, concurrency)
    slow_tree = TokenTree(**options)
    slow = CacheReplay(slow_tree, pool, concurrency)
    events = []
    for event in slow.run(workload):
        slow_tree.check()
        private = sum(item.holding.private for item in slow.active)
        assert (
            slow.free + private + slow_tree.evictable + slow_tree.protected
            == pool - pool % slow_tree.page_size
        )
        events.append(event)
    assert list(fast.run(workload)) == events
    assert len(fast.tree.leaves) == sum(1 for node in slow_tree.nodes() if not node.children)
    assert sum(1 for event in events if isinstance(event, Finished)) <= len(workload)
    # One request, one answer: admitted and finished, or refused.
    assert len({event.id for event in events}) == len(workload)


class Outcome:
    """Everything a run tells: decisions, rows in finishing order, totals, series, rejections."""

    def __init__(
        self, kind: type, config: SglangConfig, workload: list[Request], *, log: bool, **options: bool
    ):
        self.lines: list[str] = []
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append, on_decision=self.lines.append if log else None)
        recorder.series_stride = stride_of(workload)
        engine = kind(config, CLOCK, recorder, **options)
        self.stopped = ""
        try:
            engine.run(workload)
        except OutOfKvMemory as exc:
            # Some configurations bring the real engine to a stop, too; both must stop at the same place.
            self.stopped = exc.message
        engine.close()
        self.rows = rows
        self.totals = recorder.totals
        self.told = (rows, recorder.totals.to_dict(), recorder.series, recorder.rejections, self.stopped)


@FUZZ
@given(runs())
def test_fast_engine_equals_reference(case: tuple[SglangConfig, list[Request]]) -> None:
    config, workload = case
    reference = Outcome(ReferenceSglangEngine, config, workload, log=True, check=True)
    stepping = Outcome(SglangReplica, config, workload, log=True)
    assert stepping.lines == reference.lines
    assert stepping.told == reference.told
    # Without a decision log the fast engine runs through quiet steps in bulk.
    assert Outcome(SglangReplica, config, workload, log=False).told == reference.told
    for row in reference.rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
    if not reference.stopped:
        totals = reference.totals
        assert totals.finished + totals.rejected == totals.requests == len(workload)
        assert totals.unfinished == 0
