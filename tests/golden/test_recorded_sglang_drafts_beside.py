"""Recorded decisions of SGLang 0.5.23's scheduler with drafts above a second pool: of states, or of windows.

As of the recordings of each by itself: how many drafts stood is written down with a run, the rest was SGLang's
own. Above window pools of little more than a window, SGLang aborts whoever does not fit even alone. Each line of
decisions goes on with slots (free, of the tree, of these unheld), or with what both pools have free and what of
the window pool may be evicted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from drafted_runs import play, recorded
from recorded_runs import digest, digest_of_rows, recordings

from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import OUT_OF_MEMORY, SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_windows.windows import EVICTION_INTERVAL, SlidingWindows
from kvplan.engine.speculation.rules import DraftRules, sglang_rules_of
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.sglang.states import DraftedStateReplica
from kvplan.engine.speculation.sglang.windows import DraftedWindowReplica
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency

STATES = recordings("sglang-0.5.23-drafts-states.json.gz")
WINDOWS = recordings("sglang-0.5.23-drafts-windows.json.gz")
TIGHT = recordings("sglang-0.5.23-drafts-tight-windows.json.gz")


def played(
    run: dict[str, Any], log: bool, told: Callable[[Any], str], **pools: Any
) -> tuple[DraftedSglangReplica, list[int]]:
    """Play a run, and compare all but the totals of the second pool."""
    tokens, lookahead, behind = run["rules"]
    rules = DraftRules(tokens, lookahead=lookahead, hash_lookahead=behind)
    assert rules == sglang_rules_of("eagle" if behind else "draft_model", tokens)
    strategy = Speculation(rules, recorded(tokens, run["accepted"]), **pools)
    replicas: list[DraftedSglangReplica] = []
    more: list[str] = []

    def make(recorder: Recorder) -> DraftedSglangReplica:
        config = SglangConfig(**run["config"])
        replica = strategy.sglang_engine(config, LinearLatency(*run["clock"]), recorder)
        assert isinstance(replica, DraftedSglangReplica)
        noted = replica.record

        def note(plan: SglangPlan, clock: float) -> None:
            noted(plan, clock)
            if plan.batch.scheduled_tokens or plan.retracted:
                more.append(told(replica))

        replica.record = note  # type: ignore[method-assign]
        replicas.append(replica)
        return replica

    found = play(run, make, log=log)
    (replica,) = replicas
    if log:
        # The recording does not count who holds memory.
        lines = ["|".join(line.split("|")[part] for part in (0, 1, 3, 4)) for line in found.lines]
        assert (
            digest([f"{line}|{counts}" for line, counts in zip(lines, more, strict=True)]) == run["decisions"]
        )
    assert found.aborted == run["aborted"]
    assert digest_of_rows(found.rows) == run["rows"]
    assert replica.recorder.rejections.get(OUT_OF_MEMORY, 0) == run.get("refused", 0)
    drafted = replica.drafting.drafted
    totals = run["totals"]
    steps = replica.recorder.totals.steps
    assert [steps, drafted.steps, drafted.accepted_tokens] == [totals[0], *totals[4:]]
    return replica, totals[1:4]


def slots(replica: DraftedStateReplica) -> str:
    pool = replica.states.pool
    return f"{pool.free_slots},{pool.index.states},{len(pool.index.unheld_states)}"


def both_pools(replica: DraftedWindowReplica) -> str:
    pool = replica.windowed.pool
    return f"{pool.free}|{pool.free_windows}|{pool.cache.evictable_windows}"


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(STATES)))
def test_drafts_beside_states(number: int, log: bool) -> None:
    replica, totals = played(STATES[number], log, slots, states=StateRules(*STATES[number]["states"]))
    assert isinstance(replica, DraftedStateReplica)
    index = replica.states.pool.index
    assert [index.evicted, index.evicted_states, index.states] == totals


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("run", [*WINDOWS, *TIGHT])
def test_drafts_beside_windows(run: dict[str, Any], log: bool) -> None:
    windows = SlidingWindows(*run["windows"])
    replica, totals = played(run, log, both_pools, windows=windows)
    assert isinstance(replica, DraftedWindowReplica)
    cache = replica.windowed.pool.cache
    assert [cache.evicted, cache.evicted_windows, replica.windowed.preemptions] == totals


@pytest.mark.parametrize("runs", [STATES, WINDOWS])
def test_the_recordings_have_what_they_are_for(runs: list[dict[str, Any]]) -> None:
    configs = [run["config"] for run in runs]
    special = [
        run["states"][2] if "states" in run else run["windows"][2] == EVICTION_INTERVAL for run in runs
    ]
    for what in (
        {config["disable_overlap_schedule"] for config in configs},
        {config["schedule_policy"] == "lpm" for config in configs},
        {config["page_size"] > 1 for config in configs},
        {config["enable_mixed_chunk"] for config in configs},
        {config["disable_radix_cache"] for config in configs},
        {config["chunked_prefill_size"] == -1 for config in configs},
        {bool(run["rules"][2]) for run in runs},
        {run["rules"][0] > 1 for run in runs},
        {bool(run["aborted"]) for run in runs},
        {run["totals"][1] > 0 for run in runs},
        {run["totals"][2] > 3 for run in runs},
        set(special),
    ):
        assert what == {True, False}


def test_some_are_aborted_alone_and_some_when_others_had_to_go() -> None:
    assert sum(run["refused"] for run in TIGHT) > len(TIGHT)
    assert {run["totals"][3] > 0 for run in TIGHT} == {True, False}
