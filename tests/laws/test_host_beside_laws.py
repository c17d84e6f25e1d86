"""SGLang with host memory and drafts: nothing to keep is the engine without a host, fast equals slow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fuzzing import fuzz
from host_tokens import HostTokens
from hypothesis import assume, given
from hypothesis import strategies as st
from radix_runs import below_a_host, runs

from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.hicache.copies import Copies, GatheredLine
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import WRITE_POLICIES, HierarchicalIndex, WritePolicy
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.rules import sglang_rules_of
from kvplan.engine.speculation.sglang.hicache import DraftedHierarchicalReplica
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
FUZZ = fuzz(100)

Case = tuple[SglangConfig, list[Request]]


class Way:
    """So many seconds a transfer, and so many a page."""

    def __init__(self, latency_s: float, page_s: float) -> None:
        self.latency_s, self.page_s = latency_s, page_s

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.latency_s * operations + self.page_s * size if size else 0.0


WAYS = [Way(0.0, 0.0), Way(1e-3, 1e-3), Way(0.03, 1e-4)]


@st.composite
def drafts(draw: st.DrawFn) -> Speculation:
    tokens = draw(st.integers(1, 4))
    rules = sglang_rules_of(draw(st.sampled_from(["eagle", "draft_model"])), tokens)
    return Speculation(rules, geometric(draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])), tokens, 0))


def room(case: Case, drafts: Speculation) -> Case:
    """With places for drafts."""
    page = case[0].page_size
    more = -(-4 * (drafts.rules.tokens + 2) // page) * page
    return replace(below_a_host(case[0]), pool_tokens=case[0].pool_tokens + more), case[1]


def told(engine: SglangReplica, recorder: Recorder, case: Case, rows: list[RequestRow]) -> tuple[Any, ...]:
    """Everything a run tells but the host."""
    stopped = ""
    try:
        engine.run(case[1])
    except OutOfKvMemory as exc:
        stopped = exc.message
    engine.close()
    recorder.sections.pop("tiers", None)
    return rows, recorder.totals.to_dict(), recorder.rejections, recorder.sections, stopped


@FUZZ
@given(runs(), drafts(), st.sampled_from(WRITE_POLICIES))
def test_a_host_without_memory_is_the_engine_that_drafts(
    case: Case, drafting: Speculation, write: WritePolicy
) -> None:
    # Insertions are not counted then.
    assume(write != "write_back" or case[0].radix_eviction_policy not in ("lfu", "slru"))
    case = room(case, drafting)
    found = []
    for strategy in (drafting, HierarchicalCache(1, 0, WAYS[2], WAYS[2], write).with_drafts(drafting)):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        found.append(told(strategy.sglang_engine(case[0], CLOCK, recorder), recorder, case, rows))
    assert found[0] == found[1]


@FUZZ
@given(
    runs(), drafts(), st.integers(1, 150), st.sampled_from(WRITE_POLICIES), st.sampled_from(WAYS),
)  # fmt: skip
def test_fast_index_equals_reference(
    case: Case, drafting: Speculation, pages: int, write: WritePolicy, way: Way
) -> None:
    case = room(case, drafting)
    config, size = drafting.unmixed(case[0]), case[0].page_size
    found = []
    for kind in (HierarchicalIndex, HostTokens):
        copies = Copies(GatheredLine("to_host", way, 1, 1), GatheredLine("from_host", way, 1, 1), size)
        index = kind(size, config.leaf_key, write, HostMemory(pages * size), copies)
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        engine = DraftedHierarchicalReplica(
            config, CLOCK, recorder, rules=drafting.rules, acceptance=drafting.acceptance, index=index
        )
        outcome = told(engine, recorder, case, rows)
        memory = index.host
        found.append((outcome, memory.used, memory.peak, memory.stored, memory.evicted))
    assert found[0] == found[1]
