"""Recorded decisions with host memory: SGLang 0.5.23's own scheduler, radix cache and cache controller (HiCache).

Copies took the time of a link (``host.put``, ``host.get``: seconds of each, and of each page more) on streams
that wait for the forward stream, and nothing else of them was real. Half of the runs have the tree's Rust core, half
its Python one. Forty runs are chosen for pairs of options and of what happened that no other has, ten because
a rule that is wrong by a little decides otherwise there: loads of one token fewer or more, ancestors without a
copy, nodes cut while they are loaded, an engine that is idle but for its copies.
"""

from __future__ import annotations

import hashlib
import json
from math import inf
from typing import Any

from recorded_runs import Way, digest, recordings, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.engine import make_engine
from kvplan.engine.hicache.index import WRITE_POLICIES
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-host-cache.json.gz")


class Told:
    """What the engine told of one recorded run."""

    def __init__(self, run: dict[str, Any], *, log: bool) -> None:
        self.rows: dict[str, RequestRow] = {}
        self.lines: list[str] = []
        self.held: list[str] = []
        """Tokens in the host, with every line."""
        self.aborted: list[list[str | float]] = []
        recorder = Recorder(
            on_request=lambda row: self.rows.__setitem__(row.id, row),
            on_timed_out=lambda name, time_s: self.aborted.append([name, time_s]),
            on_decision=self._line if log else None,
            series=log,
        )
        host = run["host"]
        strategy = HierarchicalCache(1, host["pages"], Way(*host["put"]), Way(*host["get"]), host["policy"])
        config = SglangConfig(**run["config"])
        engine = make_engine("fast", config, LinearLatency(*run["clock"]), recorder, strategy=strategy)
        assert isinstance(engine, HierarchicalReplica)
        self.engine = engine
        arrivals = Arrivals(request(*asked) for asked in run["requests"])
        if run["patience"] is not None:
            patience = Patience(*(inf if seconds is None else seconds for seconds in run["patience"]))
            arrivals = Impatient(arrivals, patience)
        engine.run(arrivals)
        engine.close()
        host_memory, put, get = engine.index.host, engine.copies.put, engine.copies.get
        self.totals = [
            recorder.totals.steps, put.transfers, get.transfers, put.moved_blocks, get.moved_blocks,
            host_memory.used, host_memory.peak,
        ]  # fmt: skip

    def _line(self, line: str) -> None:
        # The recording does not count who holds memory.
        self.lines.append("|".join(line.split("|")[part] for part in (0, 1, 3, 4)))
        self.held.append(str(self.engine.index.host.used))

    def answered(self, run: dict[str, Any]) -> str:
        """Digest of the times of those who were answered, in the order of requests."""
        served = [self.rows[asked[0]] for asked in run["requests"] if asked[0] in self.rows]
        table = [[row.id, row.scheduled_s, row.first_token_s, row.finish_s] for row in served]
        return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def test_decisions_times_and_contents_of_the_host() -> None:
    for number, run in enumerate(RUNS):
        for log in (True, False):
            told = Told(run, log=log)
            assert told.aborted == run["aborted"], number
            assert told.totals == run["totals"], number
            assert told.answered(run) == run["rows"], number
            if log:
                assert digest(told.lines) == run["decisions"], number
                assert digest(told.held) == run["held"], number


def test_what_is_recorded_loads_writes_evicts_and_waits() -> None:
    assert len(RUNS) == 50
    assert {run["host"]["policy"] for run in RUNS} == set(WRITE_POLICIES)
    assert {run["core"] for run in RUNS} == {"python", "rust"}
    assert len({run["config"]["radix_eviction_policy"] for run in RUNS}) == 7
    writes, loads = (sum(run["totals"][part] for run in RUNS) for part in (1, 2))
    assert writes > 1500
    assert loads > 400
    assert sum(run["patience"] is not None for run in RUNS) == 3
    full = [run for run in RUNS if run["totals"][6] == run["host"]["pages"] * run["config"]["page_size"]]
    assert len(full) >= 10
