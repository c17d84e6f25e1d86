"""Recorded decisions of both engines as ranks of data-parallel attention whose requests have drafts.

vLLM 0.33's ranks went round the busy loop of its own engine core (``DPEngineCoreProc``), with their waves, empty
batches and drafts that all skip or none; SGLang 0.5.23's gathered their batches in its own
``get_next_batch_to_run``. How many drafts stood was decided by chance and is written down with each run, and so is
who got which request of vLLM's; how long steps take is a clock's of the tests.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_runs import Passes, Played, play, recorded
from recorded_runs import Dealt, digest, recordings

from kvplan.engine.config import EngineConfig
from kvplan.engine.lockstep.drafted import DraftedLockstepEngine
from kvplan.engine.lockstep.sglang_drafted import DraftedSglangLockstepEngine
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.speculation.metrics import SECTION
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation

VLLM = recordings("vllm-0.33.0-drafts-ranks.json.gz")
SGLANG = recordings("sglang-0.5.23-drafts-ranks.json.gz")


def sha(told: object) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def check(run: dict[str, Any], played: Played, recorder: Recorder, *, log: bool, arrivals: bool) -> None:
    if log:
        assert digest(played.lines) == run["decisions"]
    assert played.aborted == run["aborted"]
    table = [
        [
            row.id, *([row.arrival_s] if arrivals else []), row.scheduled_s, row.first_token_s, row.finish_s,
            row.preemptions,
        ]
        for row in played.rows
    ]  # fmt: skip
    assert sha(table) == run["rows"]
    found = {metric.name: metric.value for metric in recorder.sections[SECTION]}
    if "drafting" in run:  # of vLLM's all are counted that were verified, also of who gave up meanwhile
        assert found["accepted"] == sum(sum(stood) for stood in run["accepted"].values())


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(VLLM)))
def test_vllm(number: int, log: bool) -> None:
    run: dict[str, Any] = VLLM[number]
    drafts = Speculation(DraftRules(*run["rules"]), recorded(run["rules"][0], run["accepted"]))
    clock, config = Passes(*run["clock"], *run["passes"]), EngineConfig(**run["config"])
    recorders: list[Recorder] = []

    def make(recorder: Recorder) -> DraftedLockstepEngine:
        recorders.append(recorder)
        engine = DraftedLockstepEngine(run["number"], "round-robin", config, clock, recorder, drafts)
        engine.router = Dealt(dict(zip((asked[0] for asked in run["requests"]), run["ranks"], strict=True)))
        return engine

    check(run, play(run, make, log=log), recorders[0], log=log, arrivals=True)
    totals = recorders[0].totals
    assert [
        totals.steps, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens
    ] == run["totals"]  # fmt: skip
    assert sha(clock.drafting) == run["drafting"]


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(SGLANG)))
def test_sglang(number: int, log: bool) -> None:
    run: dict[str, Any] = SGLANG[number]
    tokens, lookahead, behind = run["rules"]
    rules = DraftRules(tokens, lookahead=lookahead, hash_lookahead=behind)
    drafts = Speculation(rules, recorded(tokens, run["accepted"]))
    clock, config = Passes(*run["clock"], *run["passes"]), SglangConfig(**run["config"])
    recorders: list[Recorder] = []

    def make(recorder: Recorder) -> DraftedSglangLockstepEngine:
        recorders.append(recorder)
        return DraftedSglangLockstepEngine(run["number"], "round-robin", config, clock, recorder, drafts)

    check(run, play(run, make, log=log), recorders[0], log=log, arrivals=False)
    totals = recorders[0].totals
    assert [
        totals.steps, totals.preemptions, totals.queried_tokens, totals.hit_tokens
    ] == run["totals"]  # fmt: skip


def test_the_recordings_have_what_they_are_for() -> None:
    for runs in (VLLM, SGLANG):
        assert len(runs) == (52 if runs is VLLM else 32)
        assert {run["number"] for run in runs} == {2, 3, 4}
        assert {bool(run["aborted"]) for run in runs} == {True, False}
        assert {bool(run["passes"][0]) for run in runs} == {True, False}
        assert {bool(run["rules"][2]) for run in runs} == {True, False}
    assert {run["config"]["async_scheduling"] for run in VLLM} == {True, False}
    assert sum(run["config"]["prefill_schedule_interval"] > 1 for run in VLLM) >= 10
    assert {len(run["rules"]) > 6 for run in VLLM} == {True, False}
    for option in ("disable_overlap_schedule", "enable_mixed_chunk", "prefill_decode_interval"):
        assert {bool(run["config"].get(option)) for run in SGLANG} == {True, False}, option
