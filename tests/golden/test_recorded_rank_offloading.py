"""Recorded decisions of vLLM 0.33's data-parallel ranks that offload to host memory, each to its own.

Every rank went round the busy loop of its engine core (``DPEngineCoreProc``) above vLLM's own scheduler and the
scheduler's side of its offloading connector, with a host of its own. How long steps and copies take, and that a step
which waits for stores has the other ranks wait, was the recording's: workers are made up. Some clients give up.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

import pytest
from drafted_runs import Passes, play
from offloading_runs import Copies
from recorded_runs import Dealt, digest, recordings

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.lockstep.offloading import OffloadingRanks
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.recorder import Recorder

RUNS = recordings("vllm-0.33.0-ranks-offloading.json.gz")


def config_of(run: dict[str, Any]) -> EngineConfig:
    config = dict(run["config"])
    if "groups" in config:
        config["groups"] = tuple(CacheGroup(*group) for group in config["groups"])
    return EngineConfig(**config)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_ranks_that_offload(number: int, log: bool) -> None:
    run = RUNS[number]
    host = Offloading(
        1, run["chunks"], Copies(run["put"]), Copies(run["get"]), run["chunk_blocks"], run["policy"]
    )
    made: list[OffloadingRanks] = []

    def make(recorder: Recorder) -> LockstepEngine:
        strategy = DataParallelAttention(run["number"], "round-robin").with_host(host)
        engine = strategy.engine(config_of(run), Passes(*run["clock"], *run["passes"]), recorder)
        engine.router = Dealt(dict(zip((asked[0] for asked in run["requests"]), run["ranks"], strict=True)))
        made.append(cast(OffloadingRanks, engine))
        return engine

    played = play(run, make, log=log)
    if log:
        assert digest(played.lines) == run["decisions"]
    assert sorted(played.aborted) == run["aborted"]
    table = [
        [row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions]
        for row in played.rows
    ]
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    ranks, totals = made[0].offloaders, made[0].recorder.totals
    assert [
        totals.steps, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens,
        sum(rank.scheduler.loads for rank in ranks), sum(rank.flushes for rank in ranks),
    ] == run["totals"]  # fmt: skip
    hosts = [cast(HostCache, rank.cache) for rank in ranks]
    assert [[cache.idle, cache.pending] for cache in hosts] == run["hosts"]


def test_the_recordings_have_what_they_are_for() -> None:
    assert {run["number"] for run in RUNS} == {2, 3, 4}
    assert {"groups" in run["config"] for run in RUNS} == {True, False}
    assert {run["config"]["async_scheduling"] for run in RUNS} == {True, False}
    assert {run["policy"] for run in RUNS} == {"lru", "arc"}
    assert {bool(run["aborted"]) for run in RUNS} == {True, False}
    assert sum(run["totals"][4] for run in RUNS) > 50  # loads
    assert sum(run["totals"][5] for run in RUNS) > 50  # steps that waited for stores
