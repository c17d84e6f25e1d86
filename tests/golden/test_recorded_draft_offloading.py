"""Recorded runs with drafts above vLLM 0.33's own host memory.

Scheduler, connector and the host's manager were vLLM's, told at every call what this engine's own were told: a
request, a step's outputs, copies that have ended. Every time they decided the same: who gets which tokens and
drafts, who is preempted, which loads and stores begin, which stores a step waits for, how many chunks are idle
and being written.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_runs import play
from offloading_runs import Copies
from recorded_runs import digest, recordings

from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import Engine
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.recorder import Recorder
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.offloading import DraftOffloadingReplica
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency

RUNS = recordings("vllm-0.33.0-drafts-offloading.json.gz")


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_offloading(number: int, log: bool) -> None:
    run: dict[str, Any] = RUNS[number]
    drafts = Speculation(DraftRules(*run["rules"]), Acceptance(tuple(run["rates"]), run["seed"]))
    strategy = Offloading(
        1, run["chunks"], Copies(run["put"]), Copies(run["get"]), run["chunk_blocks"], run["policy"], drafts
    )
    made: list[DraftOffloadingReplica] = []

    def make(recorder: Recorder) -> Engine:
        engine = strategy.engine(EngineConfig(**run["config"]), LinearLatency(*run["clock"]), recorder)
        assert isinstance(engine, DraftOffloadingReplica)
        made.append(engine)
        return engine

    played = play(run, make, log=log)
    (replica,) = made
    if log:
        assert digest(played.lines) == run["decisions"]
    assert played.aborted == run["aborted"]
    table = [[*row[:5], *row[7:]] for row in played.rows]
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    totals, cache = replica.recorder.totals, replica.cache
    assert run["totals"] == [
        totals.steps, replica.remote.loads, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens,
        replica.flushes,
    ]  # fmt: skip
    assert run["host"] == [cache.idle, cache.stored, cache.evicted]
    told = replica.recorder.sections["speculative decoding"][:3]
    assert [metric.value for metric in told] == run["drafted"]


def test_the_recordings_have_what_they_are_for() -> None:
    assert len(RUNS) == 18
    assert {run["policy"] for run in RUNS} == {"lru", "arc"}
    assert {run["config"]["async_scheduling"] for run in RUNS} == {True, False}
    assert {run["rules"][3] for run in RUNS} == {True, False}
    assert sum(run["totals"][1] for run in RUNS) > 50
    assert sum(run["totals"][5] > 0 for run in RUNS) > 5
    assert sum(run["chunk_blocks"] > 1 for run in RUNS) > 5
