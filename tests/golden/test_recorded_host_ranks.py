"""Recorded decisions of SGLang 0.5.23's ranks of data-parallel attention above host memory (HiCache), each with a
tree and host pools of its own: alone, beside drafts, recurrent states and sliding windows, and of these with drafts.

Every rank's scheduler, tree (two of three runs its Rust core), cache controller and processing of results were
SGLang's own, and batches were gathered as it does, each waiting for who waits for a copy. Copies took the time of a
link, steps that of a clock; how many drafts stood is written down with a run.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from drafted_runs import Passes, play
from hosted_runs import config_of, drafts_of, host_of, pool_of
from recorded_runs import digest, digest_of_rows, recordings

from kvplan.engine.hicache.index import WRITE_POLICIES
from kvplan.engine.lockstep.hicache import HierarchicalRanks
from kvplan.engine.lockstep.sglang import SglangLockstepEngine
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.recorder import Recorder

RUNS = recordings("sglang-0.5.23-host-ranks.json.gz")


def engine_of(run: dict[str, Any], recorder: Recorder) -> SglangLockstepEngine:
    strategy = DataParallelAttention(run["number"], "round-robin").with_host(host_of(run))
    drafts, pool = drafts_of(run), pool_of(run)
    if drafts is not None:
        strategy = strategy.with_drafts(drafts)
    elif pool is not None:
        strategy = strategy.with_pool(pool)
    return strategy.sglang_engine(config_of(run), Passes(*run["clock"], *run["passes"]), recorder)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_ranks_above_host_memory(number: int, log: bool) -> None:
    run = RUNS[number]
    engines: list[HierarchicalRanks] = []

    def make(recorder: Recorder) -> HierarchicalRanks:
        engines.append(cast(HierarchicalRanks, engine_of(run, recorder)))
        return engines[0]

    played = play(run, make, log=log)
    if log:
        assert digest(played.lines) == run["decisions"]
    assert digest_of_rows(played.rows) == run["rows"]
    assert played.aborted == run["aborted"]
    assert played.away == run["turned_away"]
    totals = engines[0].recorder.totals
    assert [
        totals.steps, totals.preemptions, totals.queried_tokens, totals.hit_tokens
    ] == run["totals"]  # fmt: skip
    assert [
        [
            rank.index.evicted, rank.hierarchical.loads, rank.index.host.stored, rank.index.host.evicted,
            rank.index.host.peak, rank.copies.lengthened_s, rank.copies.waited_s,
        ]
        for rank in engines[0].hosted
    ] == run["ranks"]  # fmt: skip


def test_the_recordings_have_what_they_are_for() -> None:
    several = [run for run in RUNS if run["number"] > 1]
    assert {run["number"] for run in RUNS} == {1, 2, 3, 4}
    loading = [run for run in several if sum(rank[1] for rank in run["ranks"])]
    for beside in ("states", "windows", None):
        for drafts in (True, False):
            assert sum(
                ("drafts" in run) is drafts and ((beside in run) if beside else not {"states", "windows"} & {*run})
                for run in loading
            ) >= 4  # fmt: skip
    assert {run["host"][-1] for run in loading} == set(WRITE_POLICIES)
    # A step took longer for one rank's load, and all ranks waited for what one of them evicted.
    assert sum(any(rank[5] for rank in run["ranks"]) for run in several) >= 10
    assert sum(any(rank[6] for rank in run["ranks"]) for run in several) >= 15
    assert sum(bool(run["aborted"]) for run in several) >= 3
    assert sum(run["totals"][1] > 0 for run in several) >= 2
    for option in ("disable_overlap_schedule", "prefill_decode_interval"):
        assert {bool(run["config"].get(option)) for run in several} == {True, False}
