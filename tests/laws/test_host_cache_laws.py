"""SGLang with host memory: nothing to keep is the plain engine, books balance, fast equals slow."""

from __future__ import annotations

import pytest
from fuzzing import fuzz
from host_tokens import HostTokens
from hypothesis import example, given
from hypothesis import strategies as st
from radix_runs import below_a_host, runs
from workloads import stride_of

from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.hicache.copies import Copies, GatheredLine
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import WRITE_POLICIES, HierarchicalIndex, WritePolicy
from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
FUZZ = fuzz(200)

Case = tuple[SglangConfig, list[Request]]
Link = tuple[float, float]


class Way:
    """A link of so many seconds, and so many per page."""

    def __init__(self, latency_s: float, page_s: float) -> None:
        self.latency_s = latency_s
        self.page_s = page_s

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.latency_s * operations + self.page_s * size if size else 0.0


class Checked(HierarchicalReplica):
    """Looks at the books after every batch that is made."""

    index: HierarchicalIndex

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        planned = super()._plan(clock)
        self.check()
        return planned

    def check(self) -> None:
        index, pool, scheduler = self.index, self.scheduler.pool, self.scheduler
        nodes = _nodes(index.root)
        held = sum(node.tokens for node in nodes if node.on_device and node.lock_ref)
        free = sum(node.tokens for node in nodes if node.on_device and not node.lock_ref)
        stored = sum(node.tokens for node in nodes if node.on_host)
        assert (index.protected, index.evictable) == (held, free)
        assert index.host.used == stored <= index.host.capacity
        assert index.host.stored - index.host.evicted == stored
        holders = {*scheduler.decoding.members, *(scheduler.last.extends if scheduler.last else ())}
        holders |= {request for request in (scheduler.chunked,) if request is not None}
        private = 0
        for request in holders:
            if request.holding is not None:
                computed = request.base + scheduler.decoding.tick if request.ticket else request.computed
                private += -(-computed // pool.page) * pool.page - request.holding.shared
        if not scheduler.finishing:
            assert pool.free + private + held + free == self.config.pool_tokens
        for node in nodes:
            assert node.on_device or node.on_host
            assert node.parent is not None
            assert node.parent.on_device or not node.on_device
            assert node.resident == sum(child.on_device for child in node.children.values())
            assert node.lock_ref <= node.parent.lock_ref or node.parent is index.root
            if index.duplicates is None:
                # Nothing is kept in the host whose beginning is not.
                assert node.parent.on_host or not node.on_host or node.parent is index.root
            below = node.resident if node.on_device else len(node.children)
            assert bool(node.ticket) == (not node.lock_ref and not below)


def _nodes(root: HostedNode) -> list[HostedNode]:
    found = list(root.children.values())
    for node in found:
        found += node.children.values()
    return found


class Outcome:
    """Everything a run tells."""

    def __init__(
        self, case: Case, *, log: bool, host: tuple[int, WritePolicy, Link] | None = None,
        kind: type[HierarchicalIndex] = HierarchicalIndex, check: bool = False,
    ) -> None:  # fmt: skip
        config, workload = case
        self.lines: list[str] = []
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append, on_decision=self.lines.append if log else None)
        recorder.series_stride = stride_of(workload)
        engine: SglangReplica
        if host is None:
            engine = SglangReplica(config, CLOCK, recorder)
        else:
            pages, write, link = host
            size = config.page_size
            copies = Copies(
                GatheredLine("to_host", Way(*link), 1), GatheredLine("from_host", Way(*link), 1), size
            )
            index = kind(size, config.leaf_key, write, HostMemory(pages * size), copies)
            engine = (Checked if check else HierarchicalReplica)(config, CLOCK, recorder, index)
        self.stopped = ""
        try:
            engine.run(workload)
        except OutOfKvMemory as exc:
            self.stopped = exc.message
        engine.close()
        self.section = recorder.sections.pop("tiers", [])
        self.rows = rows
        self.totals = recorder.totals
        self.told = (rows, recorder.totals.to_dict(), recorder.series, recorder.rejections, self.stopped)


def cached(case: Case) -> Case:
    """With the radix cache that goes on in the host."""
    return below_a_host(case[0]), case[1]


hosts = st.tuples(
    st.integers(1, 200),
    st.sampled_from(WRITE_POLICIES),
    st.sampled_from([(0.0, 0.0), (1e-4, 0.0), (1e-3, 1e-3), (0.03, 1e-4)]),
)


@FUZZ
@given(runs().map(cached), st.sampled_from(WRITE_POLICIES))
def test_a_host_without_memory_is_the_plain_engine(case: Case, write: WritePolicy) -> None:
    if write == "write_back" and case[0].radix_eviction_policy in ("lfu", "slru"):
        return  # insertions are not counted then
    for log in (True, False):
        plain = Outcome(case, log=log)
        without = Outcome(case, log=log, host=(0, write, (0.03, 1e-3)))
        assert without.lines == plain.lines
        assert without.told == plain.told


# A copy arrives among quiet steps: the round that finds it lets go of what it held.
@example(
    cached(
        (
            SglangConfig(pool_tokens=47, max_running_requests=3, schedule_conservativeness=1.0),
            [
                Request("r0", 0.0, ((1000, 8),), 8, ((10**6, 6),), 6),
                Request("r1", 0.0, ((2000, 14),), 14, ((10**6 + 1000, 1),), 1),
            ],
        )
    ),
    (100, "write_through", (4e-3, 0.0)),
)
@FUZZ
@given(runs().map(cached), hosts)
def test_books_balance_after_every_batch(case: Case, host: tuple[int, WritePolicy, Link]) -> None:
    checked = Outcome(case, log=True, host=host, check=True)
    # Without a decision log the engine runs through quiet steps in bulk.
    bulk = Outcome(case, log=False, host=host)
    assert bulk.told == checked.told
    assert bulk.section == checked.section
    for row in checked.rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        assert 0 <= row.cached_tokens < row.prompt_tokens + row.output_tokens
    if not checked.stopped:
        assert checked.totals.finished + checked.totals.rejected == len(case[1])


@FUZZ
@given(runs().map(cached), hosts)
def test_fast_index_equals_reference(case: Case, host: tuple[int, WritePolicy, Link]) -> None:
    slow = Outcome(case, log=True, host=host, kind=HostTokens)
    fast = Outcome(case, log=True, host=host)
    assert fast.lines == slow.lines
    assert fast.told == slow.told
    assert fast.section == slow.section


@pytest.mark.parametrize("write", WRITE_POLICIES)
def test_a_large_host_computes_nothing_twice_that_it_was_given(write: WritePolicy) -> None:
    """Two documents of 60 tokens take turns in a pool that holds one."""
    workload = [
        Request(f"r{turn}", float(turn), ((1000 * (turn % 2), 60),), 60, ((10**6 + 100 * turn, 2),), 2)
        for turn in range(8)
    ]
    config = SglangConfig(pool_tokens=80, context_length=100)
    outcome = Outcome((config, workload), log=False, host=(400, write, (1e-3, 0.0)))
    # Selectively, a document is written with its second insertion, and both leave the device before that.
    expected = [0, 0, *[0 if write == "write_through_selective" else 59] * 6]
    assert [row.cached_tokens for row in outcome.rows] == expected
    told = {metric.name: metric.value for metric in outcome.section}
    assert told["host_hit_tokens"] == sum(expected)
    assert told["cached_tokens"] == sum(expected)
    assert bool(told["write_back_s"]) == (write == "write_back")
