"""Recorded runs of vLLM 0.33's scheduler with its own offloading connector, host memory step by step.

Scheduler, connector (both its sides) and the host's manager were vLLM's; only the copies themselves were a
stand-in, one queue in each direction, that takes so long a transfer and a block. Loads and stores are begun,
waited for and found where vLLM's model runner does so. Of every step are recorded its decisions; when it was
planned; how many chunks were idle, being written and being read, how many stores began, how many transfers its
workers told of, and how often a step had waited for stores so far; in the end, which chunks are in the host, in
the order in which they would go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from math import inf
from typing import Any

from host_chunks import standing
from recorded_runs import digest, recordings, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.config import EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.impatient import Impatient
from kvplan.engine.offloading.arc import Arc
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.lru import Lru
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.offloading.turn import Row
from kvplan.engine.patience import Patience
from kvplan.engine.plan import StepPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.remote.plan import RemotePlan
from kvplan.engine.tiers.line import Line
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

RUNS = recordings("vllm-0.33.0-offloading.json.gz")


class Copies:
    """A carrier: so long a transfer, and so long a block of it."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.transfer, self.block = seconds

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.transfer + self.block * operations if size else 0.0


class Watched(OffloadingReplica):
    """Notes what the host is like in every step that has a line of its own."""

    lines: list[str]
    host: list[str]

    def launch(self, plan: StepPlan, clock: float, device_free: float) -> float:
        self.began = len(self.offloading.stores)
        return super().launch(plan, clock, device_free)

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        lines = len(self.lines)
        until = super().planned(plan, clock, until)
        if len(self.lines) > lines:
            assert isinstance(plan, RemotePlan)
            cache = self.cache
            counts = (
                cache.idle, cache.pending, cache.read, self.began, len(plan.told), self.flushes,
            )  # fmt: skip
            self.host.append("|".join([repr(clock), *map(str, counts)]))
        return until


def contents(replica: OffloadingReplica, asked: list[Request]) -> list[Any]:
    """What the host has and remembers, by the first request that has it and its place in its prompt."""
    size = replica.offloading.chunk_tokens
    called: dict[int, str] = {}
    for one in asked:
        content = Content(one.prompt, one.output)
        for place in range(one.prompt_tokens // size):
            called.setdefault(content.fingerprint((place + 1) * size), f"{one.id}:{place}")

    def names(row: Row) -> list[str]:
        return [called[content.fingerprint((place + 1) * size)] for content, place in standing(row)]

    order = replica.cache.order
    if isinstance(order, Lru):
        return [names(order.row)]
    assert isinstance(order, Arc)
    rows = order.recent, order.frequent, order.left_recent, order.left_frequent
    return [*map(names, rows), order.share]


def test_offloading() -> None:
    for number, run in enumerate(RUNS):
        for log in (True, False):
            rows: dict[str, RequestRow] = {}
            lines: list[str] = []
            aborted: list[list[str | float]] = []
            recorder = Recorder(
                on_request=lambda row, rows=rows: rows.__setitem__(row.id, row),  # type: ignore[misc]
                on_timed_out=lambda name, time_s, to=aborted: to.append([name, time_s]),  # type: ignore[misc]
                on_decision=lines.append if log else None,
            )
            config = EngineConfig(**run["config"])
            replica = (Watched if log else OffloadingReplica)(
                config, LinearLatency(*run["clock"]), recorder,
                HostCache(run["chunks"], run["chunk_blocks"] * config.block_size, run["policy"]),
                run["chunk_blocks"], Line("to_host", Copies(run["put"]), 1, 1),
                Line("from_host", Copies(run["get"]), 1, 1),
            )  # fmt: skip
            host: list[str] = []
            if isinstance(replica, Watched):
                replica.lines, replica.host = lines, host
            asked = [request(*one) for one in run["requests"]]
            arrivals = Arrivals(asked)
            if run["patience"] is not None:
                patience = Patience(*(inf if seconds is None else seconds for seconds in run["patience"]))
                arrivals = Impatient(arrivals, patience)
            replica.run(arrivals)
            replica.close()
            served = [rows[one.id] for one in asked if one.id in rows]
            table = [
                [row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions]
                for row in served
            ]
            totals = recorder.totals
            assert aborted == run["aborted"], (number, config)
            assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"], (number, config)
            assert run["totals"] == [
                totals.steps, replica.remote.loads, totals.evicted_blocks, totals.queried_tokens,
                totals.hit_tokens, replica.flushes,
            ], (number, config)  # fmt: skip
            left = json.dumps(contents(replica, asked)).encode()
            assert hashlib.sha256(left).hexdigest() == run["contents"], (number, config)
            if log:
                assert digest(lines) == run["decisions"], (number, config)
                assert digest(host) == run["host"], (number, config)


def test_what_is_recorded_loads_waits_and_gives_up() -> None:
    assert len(RUNS) == 40
    assert {run["policy"] for run in RUNS} == {"lru", "arc"}
    assert {run["config"]["policy"] for run in RUNS} == {"fcfs", "priority"}
    assert {run["config"]["async_scheduling"] for run in RUNS} == {True, False}
    assert sum(run["chunk_blocks"] > 1 for run in RUNS) > 8
    assert sum(run["totals"][1] for run in RUNS) > 100
    assert sum(run["totals"][5] > 0 for run in RUNS) > 8
    assert sum(bool(run["aborted"]) for run in RUNS) > 4
