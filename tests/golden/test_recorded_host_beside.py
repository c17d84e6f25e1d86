"""Recorded decisions of SGLang 0.5.23 with host memory (HiCache) beside drafts, recurrent states and sliding
windows, and of these with drafts.

Two of three runs have the Rust core of the tree, the others its Python one. Scheduler, tree, cache controller,
allocators and the processing of results were SGLang's own, compared after every batch and every result; copies took
the time of a link (a state or a page of windows that of so many pages), and how many drafts stood is written
down with a run.
"""

from __future__ import annotations

from typing import Any

import pytest
from drafted_runs import play
from hosted_runs import config_of, drafts_of, host_of, pool_of
from recorded_runs import digest, digest_of_rows, recordings, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.engine import make_engine
from kvplan.engine.hicache.index import WRITE_POLICIES
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.states.replica import HostedStateReplica
from kvplan.engine.hicache.windows.replica import HostedWindowReplica
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang_states.errors import OutOfStates
from kvplan.engine.speculation.sglang.hicache import DraftedHierarchicalReplica
from kvplan.engine.strategy import Engine
from kvplan.latency.linear import LinearLatency

DRAFTS = recordings("sglang-0.5.23-host-drafts.json.gz")
STATES = recordings("sglang-0.5.23-host-states.json.gz")
WINDOWS = recordings("sglang-0.5.23-host-windows.json.gz")


def engine_of(run: dict[str, Any], clock: LinearLatency, recorder: Recorder) -> Engine:
    strategy, drafts, pool = host_of(run), drafts_of(run), pool_of(run)
    if drafts is not None:
        strategy = strategy.with_drafts(drafts)
    elif pool is not None:
        strategy = strategy.with_pool(pool)
    return make_engine("fast", config_of(run), clock, recorder, strategy=strategy)


def totals(engine: Engine) -> list[int]:
    assert isinstance(engine, HierarchicalReplica)
    index, host = engine.index, engine.index.host
    found = [
        engine.recorder.totals.steps, index.evicted, engine.hierarchical.loads, host.stored, host.evicted,
        host.peak,
    ]  # fmt: skip
    if isinstance(engine, HostedStateReplica):
        states, copies = engine.index.host_beside, engine.copies
        found += [states.stored, states.evicted, engine.index.evicted_states]
        found += [copies.put.moved_beside, copies.get.moved_beside]
    elif isinstance(engine, HostedWindowReplica):
        memory, copies = engine.index.host_beside, engine.copies
        found += [memory.stored, memory.evicted, engine.index.evicted_windows, engine.windowed.pool.slid]
        found += [engine.hierarchical.refused, copies.put.moved_beside, copies.get.moved_beside]
    elif isinstance(engine, DraftedHierarchicalReplica):
        found.append(engine.drafting.drafted.accepted_tokens)
    return found


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(DRAFTS) + len(STATES) + len(WINDOWS)))
def test_what_goes_with_host_memory(number: int, log: bool) -> None:
    run = (DRAFTS + STATES + WINDOWS)[number]
    engines: list[Engine] = []

    def make(recorder: Recorder) -> Engine:
        engines.append(engine_of(run, LinearLatency(*run["clock"]), recorder))
        return engines[0]

    played = play(run, make, log=log)
    if log:
        assert digest(played.lines) == run["decisions"]
    assert digest_of_rows(played.rows) == run["rows"]
    assert (played.aborted, played.away) == (run["aborted"], run["turned_away"])
    assert totals(engines[0]) == run["totals"]


def test_what_is_recorded_of_drafts() -> None:
    assert {run["host"][-1] for run in DRAFTS} == set(WRITE_POLICIES)
    eagle = [run for run in DRAFTS if run["drafts"][2]]
    assert sum(run["totals"][2] > 0 for run in eagle) >= 12
    assert sum(run["totals"][2] > 0 for run in DRAFTS if run not in eagle) >= 5
    assert {run["drafts"][0] for run in DRAFTS} == {1, 2, 3, 5}
    for option in ("enable_mixed_chunk", "disable_overlap_schedule"):
        assert sum(run["config"].get(option, False) and run["totals"][2] > 0 for run in DRAFTS) >= 2
    assert sum(run["config"].get("page_size", 1) > 1 for run in DRAFTS) >= 6
    assert sum(bool(run["aborted"]) for run in DRAFTS) >= 3


def test_what_is_recorded_of_states() -> None:
    assert {run["host"][-1] for run in STATES} == set(WRITE_POLICIES)
    loading = [run for run in STATES if run["totals"][2]]
    for drafts in (True, False):
        assert sum(("drafts" in run) is drafts for run in loading) >= 8
    for spare in (True, False):
        assert sum(run["states"][2] is spare for run in loading) >= 4
    assert {run["host"][-1] for run in loading} == set(WRITE_POLICIES)
    assert sum(run["totals"][7] > 0 for run in STATES) >= 8
    assert sum(run["hosted"][0] > 1 for run in loading) >= 3
    for run in loading:
        # A load brings a state for the tree and one for the request.
        assert run["totals"][10] == 2 * run["totals"][2]


def test_what_is_recorded_of_windows() -> None:
    assert {run["host"][-1] for run in WINDOWS} == set(WRITE_POLICIES)
    loading = [run for run in WINDOWS if run["totals"][2]]
    for drafts in (True, False):
        assert sum(("drafts" in run) is drafts for run in loading) >= 12
    for write in WRITE_POLICIES:
        assert sum(run["host"][-1] == write for run in loading) >= 6
    assert sum(run["config"].get("page_size", 1) > 1 for run in loading) >= 10
    # The host gave windows up, and refused to bring some back.
    assert sum(run["totals"][7] > 0 for run in WINDOWS) >= 25
    assert sum(run["totals"][10] > 0 for run in WINDOWS) >= 5
    assert sum(run["hosted"][0] > 1 for run in loading) >= 6
    for run in loading:
        assert run["totals"][12] >= run["totals"][2]


STOPPED = recordings("sglang-0.5.23-host-states.json.gz", "stopped")


@pytest.mark.parametrize("number", range(len(STOPPED)))
def test_where_copies_hold_the_last_states(number: int) -> None:
    """SGLang stops there: "Can not alloc mamba cache", or "Not enough space for mamba cache"."""
    run, lines, rows = STOPPED[number], list[str](), list[str]()
    recorder = Recorder(on_decision=lines.append, on_request=lambda row: rows.append(row.id))
    arrivals = Arrivals(request(*asked) for asked in run["requests"])
    assert run["patience"] is None
    with pytest.raises(OutOfStates, match="on its way to the host"):
        engine_of(run, LinearLatency(*run["clock"]), recorder).run(arrivals)
    assert digest(lines) == run["decisions"]
    assert len(rows) == run["answered"]
