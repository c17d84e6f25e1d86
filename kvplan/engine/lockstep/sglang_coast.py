"""Steps in which no rank of SGLang decides anything, taken in bulk; the same arithmetic as one by one."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.engine.protocols import StepBatch
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.replica import SglangReplica


class QuietRank:
    """One rank's part in steps that only decode.

    Args:
        rank, number: which. ``steps``: how many there are before one of its requests ends.
    """

    __slots__ = ("batch", "count", "number", "rank", "steps")

    def __init__(self, rank: SglangReplica, number: int) -> None:
        decoding = rank.scheduler.decoding
        self.rank, self.number = rank, number
        self.steps = decoding.quiet_steps
        self.count = count = decoding.count
        context = decoding.base_sum + count * decoding.tick
        self.batch = StepBatch(count, context, count, context, None, count)

    def next_seconds(self) -> float:
        """How long this rank's part of the next step takes."""
        batch = self.batch
        batch.decode_context = batch.decode_kv_tokens = batch.decode_context + self.count
        return self.rank.step_seconds(batch)

    def fitting(self, steps: int) -> int:
        """As many of the next ``steps`` steps as the allocator surely has pages for.

        It wants one for everyone at hand, whether it is needed or not.
        """
        scheduler = self.rank.scheduler
        spare = scheduler.pool.room - self.count * scheduler.page
        while steps and self._tokens(steps - 1) > spare:
            steps //= 2
        return steps

    def _tokens(self, steps: int) -> int:
        """Tokens of the pages that the next ``steps`` steps take."""
        scheduler = self.rank.scheduler
        page, boundaries, tick = scheduler.page, scheduler.decoding.boundaries, scheduler.decoding.tick
        rounds, rest = divmod(steps, page)
        return page * (rounds * self.count + sum(boundaries[(tick + step) % page] for step in range(rest)))

    def settle(self, done: int) -> SglangPlan:
        """Write down that ``done`` steps were taken; returns the plan of the last one."""
        return self.rank.coasted(done, self._tokens(done))


def quiet_ranks(ranks: Sequence[SglangReplica]) -> list[QuietRank]:
    """The ranks that decode on, if no rank has anything else to do; none otherwise."""
    found = []
    for number, rank in enumerate(ranks):
        if rank.waits:
            continue
        if not rank.quiet() or rank.scheduler.decoding.quiet_steps < 1:
            return []
        found.append(QuietRank(rank, number))
    return found
