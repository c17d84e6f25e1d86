"""Recorded runs with drafts above vLLM 0.33's own host memory, below several cache groups.

As ``test_recorded_draft_offloading``; compared at every call besides: how many tokens and blocks each load and
store has, the shape of every block table, how many free blocks can be found, queried and hit tokens.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_runs import play
from offloading_runs import Copies
from recorded_runs import digest, recordings

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.engine import Engine
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.recorder import Recorder
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.grouped.replica import DraftGroupedReplica
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency

RUNS = recordings("vllm-0.33.0-drafts-offloading-groups.json.gz")


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_offloading_below_several_groups(number: int) -> None:
    run: dict[str, Any] = RUNS[number]
    groups = tuple(
        CacheGroup(kind, size, window, drafts=drafts)
        for kind, size, window, drafts in run["config"]["groups"]
    )
    config = EngineConfig(**{**run["config"], "groups": groups})
    drafts = Speculation(DraftRules(*run["rules"]), Acceptance(tuple(run["rates"]), run["seed"]))
    strategy = Offloading(
        1, run["chunks"], Copies(run["put"]), Copies(run["get"]), run["chunk_blocks"], run["policy"], drafts
    )
    made: list[DraftGroupedReplica] = []

    def make(recorder: Recorder) -> Engine:
        engine = strategy.engine(config, LinearLatency(*run["clock"]), recorder)
        assert isinstance(engine, DraftGroupedReplica)
        made.append(engine)
        return engine

    played = play(run, make, log=True)
    (replica,) = made
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
    kinds = [{group[0] for group in run["config"]["groups"]} for run in RUNS]
    drafting = [{group[0] for group in run["config"]["groups"] if group[3]} for run in RUNS]
    assert set.union(*kinds) == {"full", "sliding", "chunked", "mamba"}
    assert len(RUNS) == 40
    for kind in ("full", "sliding", "chunked", "mamba"):
        assert sum(kind in found for found in kinds) > 5, kind
    assert sum("full" in found for found in drafting) > 10
    assert sum("sliding" in found for found in drafting) > 4
    assert sum(not found for found in drafting) > 4
    assert sum(len({group[1] for group in run["config"]["groups"]}) > 1 for run in RUNS) > 3
    assert {run["policy"] for run in RUNS} == {"lru", "arc"}
    assert {run["config"]["async_scheduling"] for run in RUNS} == {True, False}
    assert {run["config"]["retention_interval"] for run in RUNS} >= {0, None}
    assert sum(run["chunk_blocks"] > 1 for run in RUNS) > 8
    assert sum(run["totals"][1] for run in RUNS) > 100
    assert sum(run["totals"][5] > 0 for run in RUNS) > 8
    assert sum(bool(run["aborted"]) for run in RUNS) > 4
