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

from itertools import accumulate

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.sampling.forking import ForkingScheduler, Siblings
from kvplan.engine.sampling.trunks import TrunkDecodes

_MANY = 1 << 62


def default_trunk_lag(n: int) -> int:
    """Mean generations back to one common ancestor of ``n`` equally fit beams."""
    return 2 * (n - 1)


def replaced_beams(n: int) -> float:
    """Beams per step that continue another one than themselves, and so copy its last block, on average."""
    return n * (1 - 1 / n) ** n


class BeamScheduler(ForkingScheduler):
    """Samples that are beams. Prefix caching is off: what beams have computed is not the answer.

    Attributes:
        merged_blocks: blocks freed because a trunk had reached their end.
        replaced: expected number of copies by beams that continued another one.
    """

    def __init__(self, config: EngineConfig, n: int, trunk_lag: int, *, keep_schedule: bool = False) -> None:
        super().__init__(config, n, keep_schedule=keep_schedule)
        self.steady = self.beams = TrunkDecodes(config.block_size, self)
        self.trunk_lag = trunk_lag
        self.merged_blocks = 0
        self.replaced = 0.0
        self._rate = replaced_beams(n)

    def undecided(self) -> bool:
        """As the base class, after trunks have grown; who still does not fit need not be planned for."""
        self.beams.free()
        waiting, blocked = self.waiting, self.blocked
        changed = blocked is not None and blocked[1] != self.version
        if changed and blocked is not None and waiting.items and blocked[0] is waiting.head():
            self._fits(blocked[0], Match(), 1)
        return super().undecided()

    def schedule(self) -> StepPlan:
        """As the base class, after trunks have grown."""
        self.beams.free()
        return super().schedule()

    def steps_to_admission(self, ahead: list[int]) -> int:
        """Steps after which trunks may have made room for who waits, and one more; many if nobody can come.

        ``ahead``: blocks that each of the next steps takes, less those that are freed before it.
        """
        if not self.waiting.items:
            return _MANY
        request, config = self.waiting.head(), self.config
        if not self._has_places(request) or not config.scheduler_reserve_full_isl:
            return _MANY
        spare = self.pool.blank - self.reserve
        spare -= -(-request.num_tokens // self.block_size)
        for step, taken in enumerate(accumulate(ahead)):
            if taken <= spare:
                return step + 1
        return _MANY

    def _fork(self, plan: StepPlan, leader: LiveRequest) -> None:
        super()._fork(plan, leader)
        self.beams.loosen(self.siblings[leader])

    def merge(self, group: Siblings) -> None:
        """Hold every block before the lag once."""
        members = group.members
        tick = self.steady.tick
        computed = min(beam.computed if beam.steady is None else beam.base + tick for beam in members)
        trunk = (computed - self.trunk_lag) // self.block_size
        if trunk > group.shared:
            freed = (trunk - group.shared) * (len(members) - 1)
            group.shared = trunk
            self.pool.blank += freed
            self.count_merged(freed)

    def count_merged(self, blocks: int) -> None:
        """So many blocks have come free."""
        self.merged_blocks += blocks
        self.version += 1

    def _finish(self, request: LiveRequest) -> None:
        size, first = self.block_size, request.prompt_tokens
        last = first + request.max_tokens - 1
        # Tokens written into blocks that were begun before: only those are copied.
        into = (last - first) - (-(-last // size) - -(-first // size))
        self.replaced += into * self._rate / self.n
        super()._finish(request)
