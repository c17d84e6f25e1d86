"""Recorded decisions of vLLM 0.33's schedulers as ranks of data-parallel attention, step by step together.

Each rank's scheduler is vLLM's own, told as its engine core tells it in which steps prompts have to wait
(``prefill_schedule_interval``). That steps begin together and who gets which request are kvplan's.

Ranks over several cache groups went round the busy loop of the engine core (``DPEngineCoreProc``), too; some of their
clients give up. The last eight runs decode for long in pools that run out of blocks: each goes
otherwise where the blocks of bulk steps are counted wrongly.
"""

from __future__ import annotations

import hashlib
import json

import pytest
from drafted_runs import Passes, play
from recorded_runs import Dealt, digest, recordings, request

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.latency.linear import LinearLatency

RUNS = recordings("vllm-0.33.0-ranks.json.gz")
GROUPED = recordings("vllm-0.33.0-ranks-groups.json.gz")


def test_ranks() -> None:
    for number, run in enumerate(RUNS):
        names = [asked[0] for asked in run["requests"]]
        for log in (True, False):
            rows: dict[str, RequestRow] = {}
            lines: list[str] = []
            recorder = Recorder(
                on_request=lambda row, rows=rows: rows.__setitem__(row.id, row),  # type: ignore[misc]
                on_decision=lines.append if log else None,
                series=log,
            )
            config = EngineConfig(**run["config"])
            clock = LinearLatency(*run["clock"])
            engine = LockstepEngine(run["number"], "round-robin", config, clock, recorder)
            engine.router = Dealt(dict(zip(names, run["ranks"], strict=True)))
            engine.run(request(*asked) for asked in run["requests"])
            engine.close()
            table = [
                [row.id, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions]
                for row in (rows[name] for name in names)
            ]
            assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"], (number, config)
            if log:
                assert digest(lines) == run["decisions"], (number, config)


def test_what_is_recorded_holds_prompts_back() -> None:
    assert len(RUNS) == 40
    assert sum(run["config"]["prefill_schedule_interval"] > 1 for run in RUNS) > 20
    assert {run["number"] for run in RUNS} == {2, 3, 4}


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(GROUPED)))
def test_ranks_over_several_groups(number: int, log: bool) -> None:
    run = GROUPED[number]
    groups = tuple(CacheGroup(*group) for group in run["config"]["groups"])
    config = EngineConfig(**{**run["config"], "groups": groups})
    recorders: list[Recorder] = []

    def make(recorder: Recorder) -> LockstepEngine:
        recorders.append(recorder)
        clock = Passes(*run["clock"], *run["passes"])
        engine = LockstepEngine(run["number"], "round-robin", config, clock, recorder)
        engine.router = Dealt(dict(zip((asked[0] for asked in run["requests"]), run["ranks"], strict=True)))
        return engine

    played = play(run, make, log=log)
    if log:
        assert digest(played.lines) == run["decisions"]
    assert played.aborted == run["aborted"]
    table = [
        [row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions]
        for row in played.rows
    ]
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    totals = recorders[0].totals
    assert [
        totals.steps, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens
    ] == run["totals"]  # fmt: skip


def test_what_is_recorded_over_several_groups() -> None:
    assert {kind for run in GROUPED for kind, *_ in run["config"]["groups"]} == {
        "full", "sliding", "chunked", "mamba"
    }  # fmt: skip
    assert {run["config"]["async_scheduling"] for run in GROUPED} == {True, False}
    assert {bool(run["aborted"]) for run in GROUPED} == {True, False}
    assert {run["totals"][1] > 0 for run in GROUPED} == {True, False}
