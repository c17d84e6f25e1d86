"""Recorded decisions of SGLang 0.5.23's scheduler for models with recurrent states.

Scheduling, the request table with its slots for states, both allocators, the unified radix cache (with either
core) and the processing of results were SGLang's own; kernels were not there. Each line of decisions goes on
with the slots that are free, those of the tree, and those of them that nobody holds.
"""

from __future__ import annotations

from typing import Any

import pytest
from drafted_runs import check_oracle, play
from recorded_runs import digest, digest_of_rows, recordings

from kvplan.engine.recorder import Recorder
from kvplan.engine.reference.sglang_states import ReferenceStateScheduler
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang_states.replica import StateReplica
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-states.json.gz")


class Watched(StateReplica):
    """Writes down the slots of every step."""

    def __init__(self, *args: Any) -> None:
        self.slots: list[str] = []
        super().__init__(*args)

    def record(self, plan: SglangPlan, clock: float) -> None:
        super().record(plan, clock)
        if plan.batch.scheduled_tokens or plan.retracted:
            pool, index = self.states.pool, self.states.pool.index
            self.slots.append(f"{pool.free_slots},{index.states},{len(index.unheld_states)}")


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_sglang_states(number: int, log: bool) -> None:
    run: dict[str, Any] = RUNS[number]
    slots, chunk, spare, interval = run["states"]
    rules, config = StateRules(slots, chunk, spare, interval), SglangConfig(**run["config"])
    rules.check(config)
    replicas: list[Watched] = []

    def make(recorder: Recorder) -> Watched:
        replicas.append(Watched(config, LinearLatency(*run["clock"]), recorder, rules))
        return replicas[0]

    played = play(run, make, log=log)
    (replica,) = replicas
    if log:
        # The recording does not count who holds memory.
        lines = ["|".join(line.split("|")[part] for part in (0, 1, 3, 4)) for line in played.lines]
        assert (
            digest([f"{line}|{counts}" for line, counts in zip(lines, replica.slots, strict=True)])
            == (run["decisions"])
        )
    assert played.aborted == run["aborted"]
    assert digest_of_rows(played.rows) == run["rows"]
    index = replica.states.pool.index
    found = [replica.recorder.totals.steps, index.evicted, index.evicted_states, index.states]
    assert found == run["totals"]


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_its_oracle(number: int) -> None:
    run: dict[str, Any] = RUNS[number]
    slots, chunk, spare, interval = run["states"]
    config = SglangConfig(**run["config"])
    scheduler = ReferenceStateScheduler(config, StateRules(slots, chunk, spare, interval))
    tree = scheduler.tree

    def slots_now() -> str:
        unheld = sum(not node.state_locks for node in tree.recency)
        return f"{scheduler.free_slots},{len(tree.recency)},{unheld}"

    check_oracle(run, config, scheduler, slots_now)
    assert [tree.evicted, tree.states_evicted, len(tree.recency)] == run["totals"][1:]


def test_the_recordings_have_what_they_are_for() -> None:
    configs = [run["config"] for run in RUNS]
    for what in (
        {config["disable_overlap_schedule"] for config in configs},
        {config["schedule_policy"] == "lpm" for config in configs},
        {config["page_size"] > 1 for config in configs},
        {config["enable_mixed_chunk"] for config in configs},
        {config["disable_radix_cache"] for config in configs},
        {run["states"][2] for run in RUNS},
        {run["states"][1] > run["config"]["page_size"] for run in RUNS},
        {bool(run["aborted"]) for run in RUNS},
        {run["totals"][1] > 0 for run in RUNS},
        {run["totals"][2] > 3 for run in RUNS},
        {run["totals"][3] > 0 for run in RUNS},
    ):
        assert what == {True, False}
