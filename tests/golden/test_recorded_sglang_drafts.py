"""Recorded decisions of SGLang 0.5.23's scheduler with speculative decoding.

How many drafts of a verification stood was decided by chance and is written down with each run; scheduling,
allocation, both radix caches (the unified one with either core) and the processing of results were SGLang's
own. Batches took the time of a linear clock.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_runs import Heard, play, recorded
from recorded_runs import digest, digest_of_rows, recordings

from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.speculation.rules import DraftRules, sglang_rules_of
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica

RUNS = recordings("sglang-0.5.23-drafts.json.gz")


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_sglang_drafts(number: int, log: bool) -> None:
    run: dict[str, Any] = RUNS[number]
    tokens, lookahead, behind = run["rules"]
    rules = DraftRules(tokens, lookahead=lookahead, hash_lookahead=behind)
    assert rules == sglang_rules_of("eagle" if behind else "draft_model", tokens)
    clock = Heard(*run["clock"])
    replicas: list[DraftedSglangReplica] = []

    def make(recorder: Recorder) -> DraftedSglangReplica:
        stood = recorded(tokens, run["accepted"])
        config = SglangConfig(**run["config"])
        replicas.append(DraftedSglangReplica(config, clock, recorder, rules=rules, acceptance=stood))
        return replicas[0]

    played = play(run, make, log=log)
    (replica,) = replicas
    if log:
        # The recording does not count who holds memory.
        assert (
            digest(["|".join(line.split("|")[part] for part in (0, 1, 3, 4)) for line in played.lines])
            == (run["decisions"])
        )
    assert played.aborted == run["aborted"]
    assert digest_of_rows(played.rows) == run["rows"]
    scheduler = replica.drafting
    drafted, evicted = scheduler.drafted, scheduler.pool.tree.evicted
    assert [replica.recorder.totals.steps, evicted, drafted.steps, drafted.accepted_tokens] == run["totals"]
    assert hashlib.sha256(json.dumps(clock.drafting).encode()).hexdigest() == run["drafting"]


def test_the_recordings_have_what_they_are_for() -> None:
    configs = [run["config"] for run in RUNS]
    for what in (
        {config["disable_overlap_schedule"] for config in configs},
        {config["schedule_policy"] == "lpm" for config in configs},
        {config["tree"] == "unified" for config in configs},
        {config["page_size"] > 1 for config in configs},
        {config["enable_mixed_chunk"] for config in configs},
        {config["disable_radix_cache"] for config in configs},
        {bool(run["rules"][2]) for run in RUNS},
        {bool(run["aborted"]) for run in RUNS},
        {run["totals"][1] > 0 for run in RUNS},
    ):
        assert what == {True, False}
