"""Steps in which no rank decides anything, taken in bulk; the same arithmetic as one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvplan.engine.plan import StepPlan
from kvplan.engine.replica import Replica

if TYPE_CHECKING:
    from kvplan.engine.lockstep.engine import Group


class Part:
    """One rank's part in steps that only decode.

    Args:
        rank, number: which.
        steps: how many of them there are before the rank has something to decide.
    """

    __slots__ = ("batch", "count", "number", "plan", "rank", "steps")

    def __init__(self, rank: Replica, number: int, steps: int) -> None:
        steady = rank.scheduler.steady
        self.rank, self.number, self.steps = rank, number, steps
        self.count = count = steady.count
        self.plan = rank.scheduler.new_plan()
        self.batch = batch = self.plan.batch
        batch.scheduled_tokens = batch.decode_requests = batch.sampled_requests = count
        batch.decode_context = batch.decode_kv_tokens = steady.context()

    def fitting(self, steps: int) -> int:
        """As many of the next ``steps`` steps as surely find their blocks; 0 if the first does not."""
        free = self.rank.scheduler.free_blocks
        while steps and self._blocks(steps) > free:
            steps //= 2
        return steps

    def _blocks(self, steps: int) -> int:
        """Blocks that the next ``steps`` steps need."""
        steady = self.rank.scheduler.steady
        needs = steady.needs
        period = len(needs)
        rounds, rest = divmod(steps, period)
        phase = steady.tick % period
        beyond = max(0, phase + rest - period)
        return rounds * sum(needs) + sum(needs[phase : phase + rest]) + sum(needs[:beyond])

    def settle(self, done: int, *, overlap: bool) -> StepPlan:
        """Write down that ``done`` steps were taken; returns the plan of the last one."""
        scheduler, totals = self.rank.scheduler, self.rank.recorder.totals
        steady, plan = scheduler.steady, self.plan
        taken = self._blocks(done)
        steady.glide(done)
        steady.lag = 1 if overlap else 0
        self.rank.watchdog.fruitless = 0
        scheduler.steps_since_prefill += done
        totals.steps += done
        if taken:
            totals.peak_used_blocks = max(totals.peak_used_blocks, scheduler.take(taken))
        totals.peak_waiting = max(totals.peak_waiting, len(scheduler.waiting))
        if steady.next_event() <= steady.tick:
            plan = scheduler.settle_calendar(plan)
        if overlap:
            scheduler.last_plan = plan
        return plan


def quiet_parts(ranks: Sequence[Replica], before: Group | None) -> list[Part]:
    """The ranks that decode on, if no rank has anything else to do; none otherwise.

    ``before``: the step in flight, in which they must have taken part.
    """
    found = []
    for number, rank in enumerate(ranks):
        scheduler = rank.scheduler
        if not rank.works:
            if rank.asks and (rank.hears or rank.owes):
                return []
            continue
        if (
            scheduler.undecided()
            or scheduler.prefills
            or (before and not before.plans[number].batch.scheduled_tokens)
        ):
            return []
        # A block that fills may let in, in that very step, who is waiting.
        open_to = scheduler.waiting.items and len(scheduler.running) < rank.config.max_num_seqs
        steps = scheduler.steady.quiet_steps() - (1 if open_to else 0)
        if steps < 1:
            return []
        found.append((rank, number, steps))
    return [Part(*item) for item in found]
