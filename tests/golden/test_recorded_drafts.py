"""Recorded decisions of vLLM 0.33's scheduler with speculative decoding.

How many drafts of a verification stood was decided by chance and is written down with each run; the scheduler
around was vLLM's own, with blocks known by the tokens behind them as that version does (``hash_lookahead``), or
with the last block of a hit computed again as earlier ones (``drops_block``).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_runs import Heard, play, recorded
from recorded_runs import digest, recordings

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.recorder import Recorder
from kvplan.engine.speculation.replica import DraftReplica
from kvplan.engine.speculation.rules import DraftRules

PLAIN, GROUPS = recordings("vllm-0.33.0-drafts.json.gz"), recordings("vllm-0.33.0-drafts-groups.json.gz")
MODULES = recordings("vllm-0.33.0-drafts-modules.json.gz")
RUNS = [*PLAIN, *GROUPS, *MODULES]
"""With one group of full attention, with several of it, of windows, local chunks and states, and where several
modules draft in turns.
"""


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_drafts(number: int, log: bool) -> None:
    run: dict[str, Any] = RUNS[number]
    rules = DraftRules(*run["rules"])
    stood = recorded(rules.tokens, run["accepted"])
    clock = Heard(*run["clock"])
    groups = tuple(CacheGroup(*group) for group in run["config"].get("groups", ()))
    config = EngineConfig(**{**run["config"], "groups": groups})
    replicas: list[DraftReplica] = []

    def make(recorder: Recorder) -> DraftReplica:
        replicas.append(DraftReplica(config, clock, recorder, rules=rules, acceptance=stood))
        return replicas[0]

    played = play(run, make, log=log)
    (replica,) = replicas
    table = [
        [
            row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.cached_tokens,
            row.preemptions,
        ]
        for row in played.rows
    ]  # fmt: skip
    totals = replica.recorder.totals
    if log:
        assert digest(played.lines) == run["decisions"]
    assert played.aborted == run["aborted"]
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    found = [totals.steps, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens]
    assert found == run["totals"]
    if run["drafting"] is not None:
        assert hashlib.sha256(json.dumps(clock.drafting).encode()).hexdigest() == run["drafting"]


def test_the_recordings_have_what_they_are_for() -> None:
    methods = {tuple(run["rules"][1:]) != (0, 0, False, 0) for run in PLAIN}
    assert methods == {True, False}
    kinds = {kind for run in GROUPS for kind, *_ in run["config"]["groups"]}
    assert kinds == {"full", "sliding", "chunked", "mamba"}
    for what in (
        {run["config"]["async_scheduling"] for run in PLAIN},
        {run["config"]["policy"] == "priority" for run in PLAIN},
        {bool(run["rules"][2]) for run in PLAIN},
        {bool(run["rules"][3]) for run in PLAIN},
        {bool(run["rules"][4]) for run in PLAIN},
        {bool(run["aborted"]) for run in PLAIN},
        {run["totals"][3] > 0 for run in PLAIN},
    ):
        assert what == {True, False}
