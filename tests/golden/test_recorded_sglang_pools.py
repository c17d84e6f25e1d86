"""Recorded decisions of SGLang 0.5.23's prefill and decode servers (``--disaggregation-mode``).

Their event loops, queues and what becomes of outputs are SGLang's own, stopped where time passes. When steps and
transfers begin and end is kvplan's, and so is which rank gets a request; how many drafts stood is written down
with each run.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_runs import recorded
from recorded_runs import Way, digest, digest_of_rows, recordings, request

from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.payload import NO_PAYLOAD, StatePayload
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.disaggregation.strategy import PoolPlan
from kvplan.engine.hicache.index import WRITE_POLICIES
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.metrics import SECTION
from kvplan.engine.speculation.rules import sglang_rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-pools.json.gz")
DRAFTED = recordings("sglang-0.5.23-drafts-pools.json.gz")
RANKED = recordings("sglang-0.5.23-server-ranks.json.gz")
HYBRID = recordings("sglang-0.5.23-hybrid-pools.json.gz")
KEEPING = recordings("sglang-0.5.23-decode-radix.json.gz")
HOSTED = recordings("sglang-0.5.23-host-pools.json.gz")
"""Prefill servers above host memory, which takes a byte a page."""
BESIDE = recordings("sglang-0.5.23-host-pools-beside.json.gz")
"""The same with windows, recurrent states, or drafts."""
HOSTED_RANKS = recordings("sglang-0.5.23-host-pools-ranks.json.gz")
"""Ranks of prefill servers, each above host memory, alone and with windows, recurrent states, or drafts."""


class Line:
    """So many seconds each, and bytes a second."""

    def __init__(self, each_s: float, rate: float) -> None:
        self.each_s, self.rate = each_s, rate

    def seconds(self, size: int, /) -> float:
        return self.each_s + size / self.rate


def drafts_of(run: dict[str, Any]) -> Speculation | None:
    """What a run drafts with, and how many stood."""
    if "drafts" not in run:
        return None
    tokens = run["drafts"]
    return Speculation(sglang_rules_of("eagle", tokens), recorded(tokens, run["accepted"]))


def pool(run: dict[str, Any], number: int, config: SglangConfig) -> PoolPlan:
    """The pool of prefill (0) or of decode (1) servers, with ranks where a run says how many."""
    ranks = run.get("ranks", (None, None))[number]
    return PoolPlan(
        run["instances"][number], config=config, ranks=None if ranks is None else Ranks(*ranks),
        beside=beside(run, number),
    )  # fmt: skip


def beside(run: dict[str, Any], number: int) -> RecurrentStates | WindowPools | None:
    """What servers have beside their tokens."""
    if "beside" not in run:
        return None
    given = run["beside"][number]
    if "windows" in given:
        return WindowPools(SlidingWindows(*given["windows"]))
    return RecurrentStates(StateRules(*given["states"]))


def payload(run: dict[str, Any]) -> StatePayload:
    """A byte for each page of windows, or for a request's states."""
    match beside(run, 0):
        case WindowPools() as pools:
            return StatePayload(window_block_bytes=1, span=pools.windows.span)
        case RecurrentStates():
            return StatePayload(state_bytes=1)
    return NO_PAYLOAD


def host(run: dict[str, Any]) -> HierarchicalCache | None:
    """Host memory below prefill servers."""
    if "host" not in run:
        return None
    pages, put_s, put_page_s, get_s, get_page_s, write, *more = run["host"]
    return HierarchicalCache(1, pages, Way(put_s, put_page_s), Way(get_s, get_page_s), write, *more)


def digest_of_pools(recorder: Recorder) -> str:
    """What became of windows, of states or of host memory on all servers."""
    found = {
        name: [[metric.name, metric.value] for metric in metrics]
        for name, metrics in sorted(recorder.sections.items())
        if any(kind in name for kind in ("windows", "states", "tiers"))
    }
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "runs",
    [RUNS, DRAFTED, RANKED, HYBRID, KEEPING, HOSTED, BESIDE, HOSTED_RANKS],
    ids=["plain", "drafts", "ranks", "hybrid", "radix", "host", "host-beside", "host-ranks"],
)
def test_sglang_pools(runs: list[dict[str, Any]], log: bool) -> None:
    for number, run in enumerate(runs):
        prefill, decode = (SglangConfig(**run[name]) for name in ("prefill", "decode"))
        strategy = SglangDisaggregation(
            (Stage("link", Line(*run["link"]), prefill=True, decode=True, link=True),),
            prefill.page_size,
            pool(run, 0, prefill),
            pool(run, 1, decode),
            DecodeOptions(*run["options"]),
            drafts_of(run),
            payload(run),
            host(run),
        )
        rows: dict[str, RequestRow] = {}
        lines: list[str] = []
        recorder = Recorder(
            on_request=lambda row, rows=rows: rows.__setitem__(row.id, row),  # type: ignore[misc]
            on_decision=lines.append if log else None,
            series=log,
        )
        engine = strategy.sglang_engine(prefill, LinearLatency(*run["clock"]), recorder)
        engine.run(request(*asked) for asked in run["requests"])
        engine.close()
        named = [rows[asked[0]] for asked in run["requests"] if asked[0] in rows]
        assert digest_of_rows(named) == run["rows"], number
        totals = recorder.totals
        moved = engine.fabric.moved_bytes
        assert [totals.steps, totals.preemptions, totals.rejected, moved] == run["totals"], number
        if log:
            assert digest(lines) == run["decisions"], number
        if "sections" in run:
            assert digest_of_pools(recorder) == run["sections"], number
        if strategy.drafts is not None:
            stood = [count for counts in run["accepted"].values() for count in counts]
            found = {metric.name: metric.value for metric in recorder.sections[SECTION]}
            # Of who was retracted or had finished meanwhile, what was verified is lost.
            assert found["steps"] <= len(stood), number
            assert found["accepted"] <= sum(stood), number


@pytest.mark.parametrize("runs", [RUNS, DRAFTED], ids=["plain", "drafts"])
def test_what_is_recorded_retracts_aborts_and_waits(runs: list[dict[str, Any]]) -> None:
    assert sum(run["totals"][1] > 0 for run in runs) >= 10
    assert sum(run["totals"][2] > 0 for run in runs) >= 5
    assert {tuple(run["instances"]) for run in runs} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    for overlap in (True, False):
        those = [run for run in runs if run["prefill"].get("disable_overlap_schedule", False) != overlap]
        assert len(those) >= 12
        assert sum(run["totals"][1] > 0 for run in those) >= 4


def test_ranks_are_recorded_with_and_without_drafts() -> None:
    numbers = {tuple(ranks and ranks[0] for ranks in run["ranks"]) for run in RANKED}
    assert numbers >= {(2, 2), (None, 2), (2, None)}
    for drafted in (True, False):
        runs = [run for run in RANKED if ("drafts" in run) == drafted]
        assert len(runs) >= 12
        assert sum(run["totals"][1] > 0 for run in runs) >= 4


def test_hybrid_pools_are_recorded_with_and_without_ranks() -> None:
    for kind, least in (("windows", 40), ("states", 28)):
        runs = [run for run in HYBRID if kind in run["beside"][0]]
        assert len(runs) >= least
        assert sum("ranks" in run for run in runs) >= 6
        assert sum(run["totals"][1] > 0 for run in runs) >= 6
        for overlap in (True, False):
            those = [run for run in runs if run["prefill"].get("disable_overlap_schedule", False) != overlap]
            assert len(those) >= 10
            assert sum(run["prefill"].get("page_size", 1) > 1 for run in those) >= 3


def test_decode_servers_that_keep_prefixes_are_recorded() -> None:
    assert all(run["options"][2] for run in KEEPING)
    assert len(KEEPING) >= 14
    assert sum(run["totals"][1] > 0 for run in KEEPING) >= 4
    assert sum(run["prefill"].get("page_size", 1) > 1 for run in KEEPING) >= 4


def test_prefill_servers_with_host_memory_are_recorded() -> None:
    assert len(HOSTED) >= 30
    for write in WRITE_POLICIES:
        assert sum(run["host"][5] == write and run["loads"][0] > 1 for run in HOSTED) >= 5
    assert sum(run["loads"][1] > 0 for run in HOSTED) >= 4
    for overlap in (True, False):
        those = [run for run in HOSTED if run["prefill"].get("disable_overlap_schedule", False) != overlap]
        assert sum(run["loads"][0] > 0 for run in those) >= 10
    assert sum(run["instances"][0] > 1 and run["loads"][0] > 0 for run in HOSTED) >= 3
    assert sum(run["options"][2] for run in HOSTED) >= 3


@pytest.mark.parametrize("kind", ["windows", "states", "drafts"])
def test_what_else_prefill_servers_with_host_memory_have_is_recorded(kind: str) -> None:
    runs = [run for run in BESIDE if kind in run or kind in run.get("beside", [()])[0]]
    assert len(runs) >= 16
    for overlap in (True, False):
        those = [run for run in runs if run["prefill"].get("disable_overlap_schedule", False) != overlap]
        assert sum(run["loads"][0] > 1 for run in those) >= 4
    assert {run["host"][5] for run in runs if run["loads"][0]} == {*WRITE_POLICIES}


@pytest.mark.parametrize("kind", [None, "windows", "states", "drafts"])
def test_ranks_of_prefill_servers_with_host_memory_are_recorded(kind: str | None) -> None:
    kinds = {"windows", "states", "drafts"}
    runs = [
        run
        for run in HOSTED_RANKS
        if ({*run, *run.get("beside", [()])[0]} & kinds) == ({kind} if kind else set())
    ]
    assert len(runs) >= 12
    assert sum(run["ranks"][0][0] > 1 and run["loads"][0] > 1 for run in runs) >= 6
    assert {run["ranks"][0][0] for run in runs} >= {2, 3}
    for overlap in (True, False):
        those = [run for run in runs if run["prefill"].get("disable_overlap_schedule", False) != overlap]
        assert any(run["loads"][0] > 1 for run in those)
    assert len({run["host"][5] for run in runs if run["loads"][0]}) >= 2
