"""Recorded decisions of vLLM 0.33's scheduler with drafts where prompts come from elsewhere.

Connector and clock are those of ``test_recorded_loads``, drafts those of ``test_recorded_drafts``; some have several
modules that draft in turns.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_loads import DraftRemoteReplica
from drafted_runs import play, recorded
from elsewhere import Elsewhere
from recorded_runs import digest, recordings

from kvplan.engine.config import EngineConfig
from kvplan.engine.recorder import Recorder
from kvplan.engine.speculation.rules import DraftRules
from kvplan.latency.linear import LinearLatency

LOADS = recordings("vllm-0.33.0-drafts-loads.json.gz")


def _sha(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(LOADS)))
def test_loads(number: int, log: bool) -> None:
    run = LOADS[number]
    config, rules = EngineConfig(**run["config"]), DraftRules(*run["rules"])
    stood = recorded(rules.tokens, run["accepted"])
    made: list[DraftRemoteReplica] = []

    def make(recorder: Recorder) -> DraftRemoteReplica:
        clock, source = LinearLatency(*run["clock"]), Elsewhere(run)
        made.append(DraftRemoteReplica(config, clock, recorder, source, rules=rules, acceptance=stood))
        return made[0]

    played = play(run, make, log=log)
    table = [
        [row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions]
        for row in played.rows
    ]
    if log:
        assert digest(played.lines) == run["decisions"]
    assert played.aborted == run["aborted"]
    assert _sha(table) == run["rows"]
    totals = made[0].recorder.totals
    assert run["totals"] == [
        totals.steps, made[0].scheduler.loads, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens,
    ]  # fmt: skip


def test_the_recordings_have_what_they_are_for() -> None:
    kinds = {(run["rules"][3], run["rules"][4], run["rules"][5] > 1) for run in LOADS}
    assert kinds == {(True, 0, False), (False, 1, False), (False, 0, False), (True, 0, True)}
    assert sum(run["totals"][1] for run in LOADS) > 100
    assert sum(bool(run["aborted"]) for run in LOADS) > 5
    assert {run["config"]["async_scheduling"] for run in LOADS} == {True, False}
    looked_up = [run for run in LOADS if not run["rules"][1]]
    assert {run["config"]["async_scheduling"] for run in looked_up} == {True, False}
