"""Plays recorded runs of vLLM's scheduler with its own offloading connector, and compares step by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, TypeAlias

from recorded_runs import digest, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.impatient import Impatient
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.patience import Patience
from kvplan.engine.plan import StepPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.remote.plan import RemotePlan
from kvplan.engine.tiers.line import Line
from kvplan.traces.request import Request


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


Make: TypeAlias = Callable[[dict[str, Any], bool, Recorder, Line, Line], OffloadingReplica]
"""A replica for a run, ``Watched`` or not."""

Contents: TypeAlias = Callable[[Any, list[Request]], list[Any]]
"""What its host has and remembers in the end, by the first request that has it."""


def check(number: int, run: dict[str, Any], make: Make, contents: Contents) -> None:
    for log in (True, False):
        rows: dict[str, RequestRow] = {}
        lines: list[str] = []
        aborted: list[list[str | float]] = []
        recorder = Recorder(
            on_request=lambda row, rows=rows: rows.__setitem__(row.id, row),  # type: ignore[misc]
            on_timed_out=lambda name, time_s, to=aborted: to.append([name, time_s]),  # type: ignore[misc]
            on_decision=lines.append if log else None,
            series=log,
        )
        ways = Line("to_host", Copies(run["put"]), 1, 1), Line("from_host", Copies(run["get"]), 1, 1)
        replica = make(run, log, recorder, *ways)
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
        totals, config = recorder.totals, replica.config
        assert aborted == run["aborted"], (number, config)
        assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"], (number, config)
        assert run["totals"] == [
            totals.steps, replica.scheduler.loads, totals.evicted_blocks, totals.queried_tokens,
            totals.hit_tokens, replica.flushes,
        ], (number, config)  # fmt: skip
        left = json.dumps(contents(replica, asked)).encode()
        assert hashlib.sha256(left).hexdigest() == run["contents"], (number, config)
        if log:
            assert digest(lines) == run["decisions"], (number, config)
            assert digest(host) == run["host"], (number, config)
