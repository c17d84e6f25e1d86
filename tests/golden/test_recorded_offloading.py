"""Recorded runs of vLLM 0.33's scheduler with its own offloading connector, host memory step by step.

Scheduler, connector (both its sides) and the host's manager were vLLM's; only the copies themselves were a
stand-in, one queue in each direction, that takes so long a transfer and a block. Loads and stores are begun,
waited for and found where vLLM's model runner does so, in the steps that its engine core takes. Of every step
are recorded its decisions; when it was planned; how many chunks were idle, being written and being read, how
many stores began, how many transfers its workers told of, and how often a step had waited for stores so far;
in the end, which chunks are in the host, in the order in which they would go.
"""

from __future__ import annotations

from typing import Any

from host_chunks import standing
from offloading_runs import Watched, check
from recorded_runs import recordings

from kvplan.engine.config import EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.offloading.arc import Arc
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.lru import Lru
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.offloading.scheduler import OffloadingScheduler
from kvplan.engine.offloading.turn import Row
from kvplan.engine.recorder import Recorder
from kvplan.engine.tiers.line import Line
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

RUNS = recordings("vllm-0.33.0-offloading.json.gz")


def make(run: dict[str, Any], log: bool, recorder: Recorder, put: Line, get: Line) -> OffloadingReplica:
    config = EngineConfig(**run["config"])
    cache = HostCache(run["chunks"], run["chunk_blocks"] * config.block_size, run["policy"])
    kind = Watched if log else OffloadingReplica
    return kind(config, LinearLatency(*run["clock"]), recorder, cache, run["chunk_blocks"], put, get)


def contents(replica: OffloadingReplica, asked: list[Request]) -> list[Any]:
    """What the host has and remembers, by the first request that has it and its place in its prompt."""
    scheduler, cache = replica.offloading, replica.cache
    assert isinstance(scheduler, OffloadingScheduler)
    assert isinstance(cache, HostCache)
    size = scheduler.chunk_tokens
    called: dict[int, str] = {}
    for one in asked:
        content = Content(one.prompt, one.output)
        for place in range(one.prompt_tokens // size):
            called.setdefault(content.fingerprint((place + 1) * size), f"{one.id}:{place}")

    def names(row: Row) -> list[str]:
        return [called[content.fingerprint((place + 1) * size)] for content, place in standing(row)]

    order = cache.order
    if isinstance(order, Lru):
        return [names(order.row)]
    assert isinstance(order, Arc)
    rows = order.recent, order.frequent, order.left_recent, order.left_frequent
    return [*map(names, rows), order.share]


def test_offloading() -> None:
    for number, run in enumerate(RUNS):
        check(number, run, make, contents)


def test_what_is_recorded_loads_waits_and_gives_up() -> None:
    assert len(RUNS) == 40
    assert {run["policy"] for run in RUNS} == {"lru", "arc"}
    assert {run["config"]["policy"] for run in RUNS} == {"fcfs", "priority"}
    assert {run["config"]["async_scheduling"] for run in RUNS} == {True, False}
    assert sum(run["chunk_blocks"] > 1 for run in RUNS) > 8
    assert sum(run["totals"][1] for run in RUNS) > 100
    assert sum(run["totals"][5] > 0 for run in RUNS) > 8
    assert sum(bool(run["aborted"]) for run in RUNS) > 4
