"""Recorded decisions of SGLang 0.5.23's scheduler: orders of its queue, priorities, requests that make room for
more important ones, full queues, and free places that are waited for.

Its queue, its batches and what becomes of its outputs are SGLang's own. When steps begin and end is kvplan's, and
of requests that are sent back together the order, which in SGLang is that of a set.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Any

import pytest
from recorded_runs import digest, digest_of_rows, recordings, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.queue import PUSHED_OUT, QUEUE_FULL
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-orders.json.gz")


def compare(engine: type, run: dict[str, Any], *, log: bool, **options: bool) -> None:
    config = SglangConfig(**run["config"])
    rows: dict[str, RequestRow] = {}
    lines: list[str] = []
    away: list[list[object]] = []
    gone: list[list[object]] = []
    recorder = Recorder(
        on_request=lambda row: rows.__setitem__(row.id, row),
        on_rejected=lambda name, reason, time_s: away.append([name, reason, time_s]),
        on_timed_out=lambda name, time_s: gone.append([name, time_s]),
        on_decision=lines.append if log else None,
        series=log,  # without one, quiet steps are run through in bulk
    )
    asked = [request(*facts) for facts in run["requests"]]
    arrivals = Arrivals(asked)
    if run["patience"]:
        arrivals = Impatient(arrivals, Patience(*(inf if it is None else it for it in run["patience"])))
    serving = engine(config, LinearLatency(*run["clock"]), recorder, **options)
    serving.run(arrivals)
    serving.close()
    assert digest_of_rows(rows[it.id] for it in asked if it.id in rows) == run["rows"], config
    assert away == run["turned_away"]
    assert gone == run["aborted"]
    assert len(rows) + len(away) + len(gone) == len(asked)
    if log:
        assert digest(lines) == run["decisions"], config


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_every_batch_is_sglangs(number: int) -> None:
    compare(SglangReplica, RUNS[number], log=True)
    compare(SglangReplica, RUNS[number], log=False)
    compare(ReferenceSglangEngine, RUNS[number], log=True, check=True)


def test_what_is_recorded() -> None:
    orders = Counter(run["config"].get("schedule_policy", "fcfs") for run in RUNS)
    assert min(orders.values()) >= 4
    assert sorted(orders) == ["dfs-weight", "fcfs", "hrrn", "lof", "lpm", "shortest-prefill-first"]
    assert sum(run["preempted"] > 0 for run in RUNS) >= 8
    reasons = Counter(reason for run in RUNS for _, reason, _ in run["turned_away"])
    assert min(reasons[QUEUE_FULL], reasons[PUSHED_OUT]) >= 5
    for option in ("retraction_policy", "schedule_low_priority_values_first", "min_free_slots_delay"):
        assert sum(option in run["config"] for run in RUNS) >= 4, option
