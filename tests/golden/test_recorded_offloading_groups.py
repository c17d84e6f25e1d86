"""Recorded runs of vLLM 0.33's scheduler with its own offloading connector below several cache groups.

As ``test_recorded_offloading``: windows, local chunks, recurrent states and full attention, in blocks of one
size and of several.
"""

from __future__ import annotations

from typing import Any

from offloading_runs import Watched, check
from recorded_runs import recordings

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.offloading.grouped.adaptive import Arc
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.grouped.replica import GroupedReplica
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.recorder import Recorder
from kvplan.engine.reference.state import RequestState
from kvplan.engine.tiers.line import Line
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

RUNS = recordings("vllm-0.33.0-offloading-groups.json.gz")


class WatchedGroups(Watched, GroupedReplica):
    """See ``Watched``."""


def config_of(run: dict[str, Any]) -> EngineConfig:
    groups = tuple(CacheGroup(*group) for group in run["config"]["groups"])
    return EngineConfig(**{**run["config"], "groups": groups})


def make(run: dict[str, Any], log: bool, recorder: Recorder, put: Line, get: Line) -> OffloadingReplica:
    cache = HostChunks(run["chunks"], run["policy"])
    kind = WatchedGroups if log else GroupedReplica
    clock = LinearLatency(*run["clock"])
    return kind(config_of(run), clock, recorder, cache, run["chunk_blocks"], put, get)


def contents(replica: GroupedReplica, asked: list[Request]) -> list[Any]:
    """What the host has and remembers, by the first request that has it, its group and its place."""
    scheduler = replica.grouped
    called: dict[tuple[int, int], str] = {}
    for one in asked:
        state = RequestState(one, 0, 1)
        for group in scheduler.groups:
            for place in range(one.prompt_tokens // group.chunk_tokens):
                prefix = state.prefix_id(scheduler.numbered.tables.chain, (place + 1) * group.chunk_tokens)
                called.setdefault((group.index, prefix), f"{one.id}:{group.index}:{place}")
    order = scheduler.host.order
    rows: list[Any] = [[called[key] for key in row] for row in order.rows()]
    return [*rows, order.share] if isinstance(order, Arc) else rows


def test_offloading_below_several_groups() -> None:
    for number, run in enumerate(RUNS):
        check(number, run, make, contents)


def test_what_is_recorded_has_all_kinds_of_groups() -> None:
    kinds = [{group[0] for group in run["config"]["groups"]} for run in RUNS]
    assert len(RUNS) == 48
    assert set.union(*kinds) == {"full", "sliding", "chunked", "mamba"}
    for kind in ("full", "sliding", "chunked", "mamba"):
        assert sum(kind in found for found in kinds) > 8, kind
    assert sum(len({group[1] for group in run["config"]["groups"]}) > 1 for run in RUNS) > 4
    assert {run["policy"] for run in RUNS} == {"lru", "arc"}
    assert {run["config"]["async_scheduling"] for run in RUNS} == {True, False}
    assert {run["config"]["policy"] for run in RUNS} == {"fcfs", "priority"}
    assert {run["config"]["retention_interval"] for run in RUNS} >= {0, None}
    assert sum(run["chunk_blocks"] > 1 for run in RUNS) > 8
    assert sum(run["totals"][1] for run in RUNS) > 100
    assert sum(run["totals"][5] > 0 for run in RUNS) > 8
    assert sum(bool(run["aborted"]) for run in RUNS) > 4
