"""Recorded decisions of SGLang 0.5.23's scheduler where sliding windows have a pool of their own.

Scheduling, budgets, both allocators, the unified radix cache (its Python core) with full attention and
windows, and the processing of results were SGLang's own. Batches took the time of a linear clock.
"""

from __future__ import annotations

from typing import Any

import pytest
from drafted_runs import check_oracle, play
from recorded_runs import digest, digest_of_rows, recordings

from kvplan.engine.recorder import Recorder
from kvplan.engine.reference.sglang_windows import ReferenceWindowScheduler
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.replica import WindowReplica
from kvplan.engine.sglang_windows.windows import EVICTION_INTERVAL, SlidingWindows
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-windows.json.gz")


class Told(WindowReplica):
    """Adds to each decision what both pools have free, and what of the window pool may be evicted."""

    def make_scheduler(self) -> Any:
        made = super().make_scheduler()
        tell, pool = self.recorder.on_decision, made.pool
        if tell is not None:
            self.recorder.on_decision = lambda line: tell(
                f"{line}|{pool.free}|{pool.free_windows}|{pool.cache.evictable_windows}"
            )
        return made


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_sglang_windows(number: int, log: bool) -> None:
    run: dict[str, Any] = RUNS[number]
    windows = SlidingWindows(*run["windows"])
    replicas: list[WindowReplica] = []

    def make(recorder: Recorder) -> WindowReplica:
        config = SglangConfig(**run["config"])
        windows.check(config)
        if not log:
            # Only steps that nobody asks about are run through without being planned.
            recorder.series_stride = 1 << 20
        replicas.append(Told(config, LinearLatency(*run["clock"]), recorder, windows))
        return replicas[0]

    played = play(run, make, log=log)
    (replica,) = replicas
    if log:
        # The recording does not count who holds memory.
        parts = (0, 1, 3, 4, 5, 6, 7)
        told = ["|".join(line.split("|")[part] for part in parts) for line in played.lines]
        assert digest(told) == run["decisions"]
    assert played.aborted == run["aborted"]
    assert digest_of_rows(played.rows) == run["rows"]
    scheduler, cache = replica.windowed, replica.windowed.pool.cache
    totals = [replica.recorder.totals.steps, cache.evicted, cache.evicted_windows, scheduler.preemptions]
    assert totals == run["totals"]


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_its_oracle(number: int) -> None:
    run: dict[str, Any] = RUNS[number]
    config, windows = SglangConfig(**run["config"]), SlidingWindows(*run["windows"])
    scheduler = ReferenceWindowScheduler(config, windows)
    tree = scheduler.tree
    check_oracle(
        run, config, scheduler,
        lambda: f"{scheduler.free}|{scheduler.free_windows}|{tree.evictable_windows}",
    )  # fmt: skip
    assert [tree.evicted, tree.windows_evicted, scheduler.preemptions] == run["totals"][1:]


def test_the_recordings_have_what_they_are_for() -> None:
    configs = [run["config"] for run in RUNS]
    for what in (
        {config["disable_overlap_schedule"] for config in configs},
        {config["schedule_policy"] == "lpm" for config in configs},
        {config["page_size"] > 1 for config in configs},
        {config["enable_mixed_chunk"] for config in configs},
        {config["disable_radix_cache"] for config in configs},
        {config["chunked_prefill_size"] == -1 for config in configs},
        {run["windows"][2] == EVICTION_INTERVAL for run in RUNS},
        {bool(run["aborted"]) for run in RUNS},
        {run["totals"][2] > run["totals"][1] > 0 for run in RUNS},
        {run["totals"][3] > 0 for run in RUNS},
    ):
        assert what == {True, False}
