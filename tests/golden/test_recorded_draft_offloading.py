"""Recorded runs with drafts above vLLM 0.33's own host memory.

Scheduler, connector and the host's manager were vLLM's, in the loop of its engine core (``EngineCoreProc``), which
says when a step is planned and what it hears of; workers and their times were made up. They decided who gets which
tokens and drafts, who is preempted, which loads and stores begin, which stores a step waits for, how many chunks
are idle and being written.
"""

from __future__ import annotations

import pytest
from drafted_offloading_runs import check
from recorded_runs import recordings

from kvplan.engine.config import EngineConfig
from kvplan.engine.speculation.offloading import DraftOffloadingReplica

RUNS = recordings("vllm-0.33.0-drafts-offloading.json.gz")


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_offloading(number: int, log: bool) -> None:
    run = RUNS[number]
    check(run, EngineConfig(**run["config"]), DraftOffloadingReplica, log=log)


def test_the_recordings_have_what_they_are_for() -> None:
    assert len(RUNS) == 18
    assert {run["policy"] for run in RUNS} == {"lru", "arc"}
    assert {run["config"]["async_scheduling"] for run in RUNS} == {True, False}
    assert {run["rules"][3] for run in RUNS} == {True, False}
    assert sum(run["totals"][1] for run in RUNS) > 50
    assert sum(run["totals"][5] > 0 for run in RUNS) > 5
    assert sum(run["chunk_blocks"] > 1 for run in RUNS) > 5
