"""Recorded decisions of SGLang 0.5.23 as ranks of data-parallel attention that keep recurrent states or windows in a
pool of their own, with drafts and without.

Every rank's scheduler, allocators and radix cache are SGLang's own, and batches are gathered as it does. How many
drafts stood is written down with each run; when steps begin and end is kvplan's.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_runs import play, recorded
from recorded_runs import digest, recordings

from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.strategy import Engine
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-pools-ranks.json.gz")


def ranks_of(run: dict[str, Any]) -> DataParallelAttention:
    states = StateRules(*run["states"]) if "states" in run else None
    windows = SlidingWindows(*run["windows"]) if "windows" in run else None
    ranks = DataParallelAttention(run["number"], "round-robin")
    if run["rules"] is not None:
        tokens, lookahead, behind = run["rules"]
        rules = DraftRules(tokens, lookahead=lookahead, hash_lookahead=behind)
        stood = recorded(tokens, run["accepted"])
        return ranks.with_drafts(Speculation(rules, stood, states=states, windows=windows))
    if states is not None:
        return ranks.with_pool(RecurrentStates(states))
    assert windows is not None
    return ranks.with_pool(WindowPools(windows))


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_ranks_with_a_second_pool(number: int, log: bool) -> None:
    run: dict[str, Any] = RUNS[number]
    strategy, config, clock = ranks_of(run), SglangConfig(**run["config"]), LinearLatency(*run["clock"])
    recorders: list[Recorder] = []

    def make(recorder: Recorder) -> Engine:
        recorders.append(recorder)
        return strategy.sglang_engine(config, clock, recorder)

    played = play(run, make, log=log)
    if log:
        assert digest(played.lines) == run["decisions"]
    assert played.aborted == run["aborted"]
    table = [
        [row.id, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions] for row in played.rows
    ]
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    totals = recorders[0].totals
    found = [totals.steps, totals.preemptions, totals.queried_tokens, totals.hit_tokens]
    assert found == run["totals"]


def test_the_recordings_have_what_they_are_for() -> None:
    kinds = [("states" in run, run["rules"] is not None) for run in RUNS]
    assert all(kinds.count((states, drafts)) == 9 for states in (True, False) for drafts in (True, False))
    assert {run["number"] for run in RUNS} == {2, 3}
    for what in (
        {bool(run["aborted"]) for run in RUNS},
        {run["totals"][1] > 0 for run in RUNS},
        *(
            {bool(run["config"].get(option)) for run in RUNS}
            for option in (
                "disable_overlap_schedule", "enable_mixed_chunk", "prefill_decode_interval", "disable_radix_cache",
            )
        ),
    ):  # fmt: skip
        assert what == {True, False}
