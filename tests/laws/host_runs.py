"""What runs with host memory share: links, drafts, and what a run tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from radix_runs import below_a_host

from kvplan.engine.errors import EngineStuck, OutOfKvMemory
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.sglang_states.errors import OutOfStates
from kvplan.engine.sglang_windows.errors import ForgottenPrefill
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.rules import sglang_rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)

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
    except (EngineStuck, ForgottenPrefill, OutOfKvMemory, OutOfStates) as exc:
        stopped = exc.message
    engine.close()
    recorder.sections.pop("tiers", None)
    return rows, recorder.totals.to_dict(), recorder.rejections, recorder.sections, stopped
