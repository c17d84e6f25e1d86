"""Beams: hypotheses of one request that share a prompt and the trunk of their answer.

Every step extends all ``n`` beams and keeps the best ``n`` continuations, so that some beams fork and others
end, and far enough back all of them have the same ancestor. The model is one number, the *trunk lag*: beams
differ in their last ``trunk_lag`` tokens only. A block that lies wholly before those is held once; the
copies of the other beams are freed as the trunk reaches its end.

Default: ``2 (n - 1)`` tokens, the mean number of generations after which n individuals have one common
ancestor where every one is as likely a parent as any other (Wright-Fisher). Real scores differ, which ends
beams sooner: the default holds too much rather than too little. Replaced beams copy the block they write
into; how many do so is the expectation of the same model, ``n (1 - 1/n)^n`` a step.
"""

from __future__ import annotations

from heapq import heappop, heappush

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.sampling.forking import ForkingScheduler, Siblings
from kvplan.engine.steady import SteadyDecodes


def default_trunk_lag(n: int) -> int:
    """Mean generations back to one common ancestor of ``n`` equally fit beams."""
    return 2 * (n - 1)


def replaced_beams(n: int) -> float:
    """Beams per step that continue another one than themselves, and so copy its last block, on average."""
    return n * (1 - 1 / n) ** n


class TrunkDecodes(SteadyDecodes):
    """``SteadyDecodes`` that also knows when a trunk next reaches the end of a block."""

    __slots__ = ("trunks",)

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size)
        self.trunks: list[tuple[int, int, Siblings]] = []

    def next_event(self) -> int:
        """The next tick at which anything may change."""
        event = super().next_event()
        return min(event, self.trunks[0][0]) if self.trunks else event


class BeamScheduler(ForkingScheduler):
    """Samples that are beams. Prefix caching is off: what beams have computed is not the answer.

    Attributes:
        merged_blocks: blocks freed because a trunk had reached their end.
        replaced: expected number of copies by beams that continued another one.
    """

    def __init__(self, config: EngineConfig, n: int, trunk_lag: int, *, keep_schedule: bool = False) -> None:
        super().__init__(config, n, keep_schedule=keep_schedule)
        self.steady = self.beams = TrunkDecodes(config.block_size)
        self.trunk_lag = trunk_lag
        self.merged_blocks = 0
        self.replaced = 0.0
        self._rate = replaced_beams(n)

    def undecided(self) -> bool:
        """As the base class; also where a trunk grows."""
        return self.beams.quiet_steps() < 1 or super().undecided()

    def schedule(self) -> StepPlan:
        """As the base class, after trunks have grown."""
        beams = self.beams
        if self.explicit:
            for group in dict.fromkeys(self.siblings.values()):
                self._merge(group)
        while beams.trunks and beams.trunks[0][0] <= beams.tick:
            self._expect(heappop(beams.trunks)[2])
        return super().schedule()

    def _fork(self, plan: StepPlan, leader: LiveRequest) -> None:
        super()._fork(plan, leader)
        self._expect(self.siblings[leader])

    def _expect(self, group: Siblings) -> None:
        """Merge what can be, and come back when the next block can."""
        left = self._merge(group)
        if left is not None:
            heappush(self.beams.trunks, (self.beams.tick + left, group.number, group))

    def _merge(self, group: Siblings) -> int | None:
        """Hold every block before the lag once; returns tokens until the next, ``None`` for a lone beam."""
        members = group.members
        if len(members) < 2:
            return None
        tick = self.beams.tick
        computed = min(beam.computed if beam.steady is None else beam.base + tick for beam in members)
        trunk = (computed - self.trunk_lag) // self.block_size
        blocks = trunk - group.shared
        if blocks > 0:
            freed = blocks * (len(members) - 1)
            self.pool.blank += freed
            self.merged_blocks += freed
            self.version += 1
            group.shared = trunk
        return (max(trunk, group.shared) + 1) * self.block_size + self.trunk_lag - computed

    def _finish(self, request: LiveRequest) -> None:
        size, first = self.block_size, request.prompt_tokens
        last = first + request.max_tokens - 1
        # Tokens written into blocks that were begun before: only those are copied.
        into = (last - first) - (-(-last // size) - -(-first // size))
        self.replaced += into * self._rate / self.n
        super()._finish(request)
