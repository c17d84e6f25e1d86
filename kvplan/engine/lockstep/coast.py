"""Steps in which no rank decides anything, taken in bulk; the same arithmetic as one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvplan.engine.plan import StepPlan
from kvplan.engine.replica import Replica
from kvplan.engine.scheduler_vllm import VllmScheduler

if TYPE_CHECKING:
    from kvplan.engine.lockstep.engine import Group


class RankCoast:
    """One rank's part: how many blocks the next step needs, and its batch."""

    __slots__ = (
        "batch",
        "boundaries",
        "context",
        "count",
        "free",
        "number",
        "phase",
        "plan",
        "rank",
        "size",
        "taken",
    )

    def __init__(self, rank: Replica, number: int) -> None:
        scheduler = rank.scheduler
        steady = scheduler.steady
        self.rank, self.number = rank, number
        self.count = steady.count
        self.boundaries, self.size = steady.boundaries, steady.block_size
        self.phase = steady.tick % self.size
        self.free = scheduler.free_blocks
        self.context = steady.base_sum + self.count * steady.tick
        self.taken = 0
        self.plan = StepPlan()
        self.batch = self.plan.batch
        self.batch.scheduled_tokens = self.batch.decode_requests = self.batch.sampled_requests = self.count

    def fits(self) -> bool:
        """Whether the next step finds its blocks."""
        return self.taken + self.boundaries[self.phase] <= self.free

    def step(self) -> float:
        """Take a step; returns how long the rank needs for it."""
        phase = self.phase
        self.taken += self.boundaries[phase]
        self.phase = phase + 1 if phase + 1 < self.size else 0
        batch = self.batch
        self.context += self.count
        batch.decode_context = batch.decode_kv_tokens = self.context
        return self.rank._step_seconds(self.plan)

    def settle(self, done: int, *, overlap: bool) -> None:
        """Write down that ``done`` steps were taken."""
        scheduler, totals = self.rank.scheduler, self.rank.recorder.totals
        scheduler.steady.tick += done
        scheduler.steady.lag = 1 if overlap else 0
        if self.taken:
            scheduler.index.take(self.taken)
        scheduler.steps_since_prefill += done
        totals.steps += done
        totals.peak_used_blocks = max(totals.peak_used_blocks, self.rank.used_blocks)
        if overlap:
            scheduler.last_plan = self.plan


def _quiet(scheduler: VllmScheduler) -> bool:
    """Whether the next steps only advance the requests in step, up to the next calendar entry."""
    return not scheduler.prefills and scheduler.steady.quiet_steps() > 1 and not scheduler.undecided()


def quiet_ranks(ranks: Sequence[Replica], before: Group | None) -> list[RankCoast]:
    """The ranks that decode on, if no rank has anything else to do; none otherwise.

    ``before``: the step in flight, in which they must have taken part.
    """
    found = []
    for number, rank in enumerate(ranks):
        if not rank.scheduler.has_requests:
            continue
        if not _quiet(rank.scheduler) or (before and not before.plans[number].batch.scheduled_tokens):
            return []
        found.append((rank, number))
    return [RankCoast(*item) for item in found]


def eventful(group: Group) -> bool:
    """Whether what a step in flight brings may change what follows."""
    return any(plan.first or plan.finish or plan.samples for plan in group.plans)
