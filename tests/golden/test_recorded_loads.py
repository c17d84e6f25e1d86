"""Recorded decisions of vLLM 0.33's scheduler where prompts come from elsewhere: a KV connector's loads.

The connector was a stand-in that has so many tokens of each request and brings them after so many seconds; the
scheduler around it was vLLM's own, driven as its engine core does: loads are found when a step is launched, empty
ones included, and the scheduler is told with that step's output. Host time is none. With overlapping steps vLLM gives back no blocks under a step in flight where a
connector may write into them: it decides nothing in the runs of the first file, and something in all of the other.
"""

from __future__ import annotations

import hashlib
import json
from math import inf
from typing import Any

import pytest
from elsewhere import Elsewhere
from recorded_runs import digest, recordings, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.config import EngineConfig
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.remote.replica import RemoteReplica
from kvplan.latency.linear import LinearLatency

LOADS, FENCES = recordings("vllm-0.33.0-loads.json.gz"), recordings("vllm-0.33.0-fences.json.gz")


@pytest.mark.parametrize("runs", [LOADS, FENCES], ids=["loads", "fences"])
def test_loads(runs: list[dict[str, Any]]) -> None:
    for number, run in enumerate(runs):
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
            config = EngineConfig(**run["config"])
            replica = RemoteReplica(config, LinearLatency(*run["clock"]), recorder, Elsewhere(run))
            arrivals = Arrivals(request(*asked) for asked in run["requests"])
            if run["patience"] is not None:
                patience = Patience(*(inf if seconds is None else seconds for seconds in run["patience"]))
                arrivals = Impatient(arrivals, patience)
            replica.run(arrivals)
            replica.close()
            served = [rows[asked[0]] for asked in run["requests"] if asked[0] in rows]
            table = [
                [row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions]
                for row in served
            ]
            totals = recorder.totals
            assert aborted == run["aborted"], (number, config)
            assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"], (number, config)
            assert run["totals"] == [
                totals.steps, replica.scheduler.loads, totals.evicted_blocks, totals.queried_tokens,
                totals.hit_tokens,
            ], (number, config)  # fmt: skip
            if log:
                assert digest(lines) == run["decisions"], (number, config)


def test_what_is_recorded_loads_preempts_and_gives_up() -> None:
    assert (len(LOADS), len(FENCES)) == (61, 48)
    for runs in (LOADS, FENCES):
        assert sum(run["totals"][1] for run in runs) > 200
        assert sum(len(run["aborted"]) for run in runs) > 30
        assert {run["again"] for run in runs} == {True, False}
        assert {run["config"]["policy"] for run in runs} == {"fcfs", "priority"}
        assert sum(run["config"]["async_scheduling"] for run in runs) > 10
    assert all(run["config"]["async_scheduling"] for run in FENCES)
