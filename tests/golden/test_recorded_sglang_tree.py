"""Recorded decisions of SGLang 0.5.23 with the Rust core of its radix tree, which is its default.

Orders of the queue that ask the tree, branches among which they have to choose, policies of eviction with their
parameters, retraction and clients that give up; beside recurrent states and windows, too, and above host memory
(HiCache; every third of these with the Python core), whose copies took the time of a link. Scheduler, queue, tree,
allocators and the processing of results were SGLang's own, compared after every batch and every result.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Any

import pytest
from recorded_runs import Way, digest, digest_of_rows, recordings, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.engine import make_engine
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import EvictionParameters
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.strategy import Strategy
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-tree.json.gz") + recordings("sglang-0.5.23-host-orders.json.gz")


def compare(name: str, run: dict[str, Any], *, log: bool) -> None:
    given = dict(run["config"])
    parameters = EvictionParameters(**given.pop("radix_eviction_policy_config", {}))
    config = SglangConfig(**given, radix_eviction_policy_config=parameters)
    strategy: Strategy | None = None
    if run["kind"] == "states":
        strategy = RecurrentStates(StateRules(*run["rules"]))
    elif run["kind"] == "windows":
        strategy = WindowPools(SlidingWindows(*run["rules"]))
    elif run["kind"] == "host":
        pages, put_s, put_page_s, get_s, get_page_s, write = run["rules"]
        ways = Way(put_s, put_page_s), Way(get_s, get_page_s)
        strategy = HierarchicalCache(1, pages, *ways, write)
    rows: dict[str, RequestRow] = {}
    lines: list[str] = []
    away: list[list[object]] = []
    gone: list[list[object]] = []
    recorder = Recorder(
        on_request=lambda row: rows.__setitem__(row.id, row),
        on_rejected=lambda name, reason, time_s: away.append([name, reason, time_s]),
        on_timed_out=lambda name, time_s: gone.append([name, time_s]),
        on_decision=lines.append if log else None,
        series=log,
    )
    asked = [request(*facts) for facts in run["requests"]]
    arrivals = Arrivals(asked)
    if run["patience"]:
        arrivals = Impatient(arrivals, Patience(*(inf if it is None else it for it in run["patience"])))
    serving = make_engine(name, config, LinearLatency(*run["clock"]), recorder, strategy=strategy)
    serving.run(arrivals)
    serving.close()
    assert digest_of_rows(rows[it.id] for it in asked if it.id in rows) == run["rows"], config
    assert away == run["turned_away"]
    assert gone == run["aborted"]
    assert recorder.totals.evicted_blocks * config.page_size == run["evicted"]
    if log:
        assert digest(lines) == run["decisions"], config


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_every_batch_is_sglangs(number: int) -> None:
    compare("fast", RUNS[number], log=True)
    compare("fast", RUNS[number], log=False)
    if RUNS[number]["kind"] != "host":  # it has no oracle
        compare("reference", RUNS[number], log=True)


def test_what_is_recorded() -> None:
    kinds = Counter(run["kind"] for run in RUNS)
    assert min(kinds[kind] for kind in ("plain", "states", "windows")) >= 6
    hosts = [run for run in RUNS if run["kind"] == "host"]
    assert sum(run["loads"] > 0 for run in hosts) >= 15
    assert sum(run["config"].get("schedule_policy") == "dfs-weight" for run in hosts) >= 8
    orders = Counter(run["config"].get("schedule_policy", "fcfs") for run in RUNS)
    assert sorted(orders) == ["dfs-weight", "fcfs", "hrrn", "lof", "lpm", "shortest-prefill-first"]
    assert min(orders.values()) >= 4
    policies = Counter(run["config"].get("radix_eviction_policy", "lru") for run in RUNS)
    assert policies["tlru"] >= 20
    parameters = [run["config"].get("radix_eviction_policy_config", {}) for run in RUNS]
    for name in ("threshold", "next_prompt_estimate", "protected_threshold"):
        assert sum(name in it for it in parameters) >= 5, name
