"""Recorded runs with drafts above vLLM 0.33's own host memory, below several cache groups, and of several modules.

As ``test_recorded_draft_offloading``; all whose decisions do not come after an idle time were compared at every
call besides: how many tokens and blocks each load and store has, the shape of every block table, how many free
blocks can be found, queried and hit tokens.
"""

from __future__ import annotations

import pytest
from drafted_offloading_runs import check
from recorded_runs import recordings

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.speculation.grouped.replica import DraftGroupedReplica

RUNS = recordings("vllm-0.33.0-drafts-offloading-groups.json.gz")


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_offloading_below_several_groups(number: int) -> None:
    run = RUNS[number]
    groups = tuple(
        CacheGroup(kind, size, window, drafts=drafts)
        for kind, size, window, drafts in run["config"]["groups"]
    )
    check(run, EngineConfig(**{**run["config"], "groups": groups}), DraftGroupedReplica, log=True)


def test_the_recordings_have_what_they_are_for() -> None:
    kinds = [{group[0] for group in run["config"]["groups"]} for run in RUNS]
    drafting = [{group[0] for group in run["config"]["groups"] if group[3]} for run in RUNS]
    assert set.union(*kinds) == {"full", "sliding", "chunked", "mamba"}
    assert len(RUNS) == 60
    assert sum(run["rules"][5] > 1 for run in RUNS) == 14
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
