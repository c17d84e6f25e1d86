"""Decoding requests whose blocks come and go in a fixed rhythm, so that nobody has to ask when.

Once a request decodes in step and has nothing to publish, every group takes a block each time one is full,
and windows and states give one back each time they have left one: both at the same tick modulo the block
size, for good, or until a chunk ends. Such a request is entered under those phases, and its block tables are
written down when it leaves. What happens within a step still happens in the order of admission, as it decides
what is evicted.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import TypeAlias

from kvplan.engine.hybrid.chunks import ChunkGroup
from kvplan.engine.hybrid.group import Group
from kvplan.engine.hybrid.pool import SharedPool
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.sparse import SparseGroup
from kvplan.engine.hybrid.states import BoundaryStates, RunningState
from kvplan.engine.hybrid.windows import WindowGroup

Beat: TypeAlias = tuple[int, HybridRequest, tuple[SparseGroup, ...], int]
"""What a request does at one phase: its order, itself, groups that may leave a block, blocks it takes."""

_LEAVING = (WindowGroup, BoundaryStates)
"""Kinds that keep the same number of blocks, or one fewer, for any length."""


class Rhythm:
    """Requests in step that take and give back blocks by phase.

    Args:
        groups: of the cache; it ``suits`` them.
        lag: steps in flight when the next one is planned, as long as the engine is busy.

    Attributes:
        needs: blocks taken by the step planned at a tick, by tick modulo the block size.
        gives: blocks given back by that step at most.
        members: who is entered.
    """

    __slots__ = (
        "_beats",
        "_bounded",
        "_groups",
        "_pattern",
        "gives",
        "lag",
        "members",
        "needs",
        "pool",
        "size",
    )

    def __init__(self, groups: Sequence[Group], size: int, pool: SharedPool, lag: int) -> None:
        self.size = size
        self.pool = pool
        self.lag = lag
        self.needs = [0] * size
        self.gives = [0] * size
        self.members: dict[HybridRequest, None] = {}
        self._beats: list[list[Beat]] = [[] for _ in range(size)]
        self._groups = groups
        self._bounded = [group for group in groups if isinstance(group, ChunkGroup)]
        takes = 0
        at: dict[int, list[SparseGroup]] = {0: []}
        for group in groups:
            if isinstance(group, _LEAVING):
                at.setdefault((lag + group.behind) % size, []).append(group)
            takes += group.pace
        self._pattern = [
            (offset, tuple(leaving), 0 if offset else takes) for offset, leaving in sorted(at.items())
        ]

    @staticmethod
    def suits(groups: Sequence[Group], size: int) -> bool:
        """Whether all groups that take blocks more than once have blocks of ``size`` tokens."""
        return all(group.block_size == size or isinstance(group, RunningState) for group in groups)

    # -- members ----------------------------------------------------------------------------------------

    def fits(self, request: HybridRequest, tick: int) -> bool:
        """Whether the request's tables are, before the step at ``tick``, what the rhythm says they are."""
        computed = request.base + tick
        processed = computed - 1 - self.lag
        return all(group.keeps_step(request, computed, processed) for group in self._groups)

    def last_tick(self, request: HybridRequest, tick: int) -> int | None:
        """The tick up to which a request that ``fits`` now is a member at most, if there is one."""
        ends = [group.chunk_end(request.base + tick) for group in self._bounded]
        return min(ends) - request.base if ends else None

    def join(self, request: HybridRequest) -> None:
        """From the next step on; it ``fits``."""
        size, needs = self.size, self.needs
        self.members[request] = None
        for offset, leaving, takes in self._pattern:
            phase = (offset - request.base) % size
            insort(self._beats[phase], (request.order, request, leaving, takes))
            needs[phase] += takes
            self.gives[phase] += sum([group.width for group in leaving])

    def leave(self, request: HybridRequest, computed: int, processed: int) -> None:
        """Write down the tables of a member that has blocks for ``computed`` tokens, and take it out.

        ``processed``: tokens behind which blocks have been given back.
        """
        size, needs = self.size, self.needs
        del self.members[request]
        for offset, leaving, takes in self._pattern:
            phase = (offset - request.base) % size
            beats = self._beats[phase]
            del beats[bisect_left(beats, (request.order,))]
            needs[phase] -= takes
            self.gives[phase] -= sum([group.width for group in leaving])
        for group in self._groups:
            group.write_down(request, computed, processed)
        request.settled_until = 0

    # -- steps ------------------------------------------------------------------------------------------

    def at(self, tick: int) -> list[Beat]:
        """What the step planned at ``tick`` brings, in the order of admission."""
        return self._beats[tick % self.size]

    def next(self, tick: int) -> int:
        """The first tick from ``tick`` on at which anything happens; there are members."""
        size, beats = self.size, self._beats
        return next(tick + ahead for ahead in range(size) if beats[(tick + ahead) % size])

    def steps_below(self, tick: int, room: int, stock: int) -> int:
        """Steps from ``tick`` on that free less than ``room`` blocks in all, and take ``stock`` at most.

        At least; in each period as many are taken as are given back.
        """
        size, needs, gives, taken = self.size, self.needs, self.gives, 0
        for ahead in range(size):
            phase = (tick + ahead) % size
            room += needs[phase] - gives[phase]
            taken += needs[phase]
            if room <= 0 or taken > stock:
                return ahead
        return size * (stock // taken) if taken else size

    def step(self, tick: int) -> None:
        """All beats of a step; the pool has the blocks.

        Blocks without content come and go at the head of the free queue, so how many have to be evicted
        depends on the order of the beats; which ones does not.
        """
        pool = self.pool
        blank, evicted, taken = pool.blank, 0, 0
        for _, request, leaving, takes in self._beats[tick % self.size]:
            if leaving:
                blank += self._freed(request, leaving, tick)
            if takes:
                taken += takes
                blank -= takes
                if blank < 0:
                    evicted -= blank
                    blank = 0
        pool.blank = blank
        pool.allocated += taken
        if evicted:
            pool.evict(evicted)

    def play(self, beat: Beat, tick: int) -> bool:
        """One beat; False, with blocks given back and none taken, where the pool has not enough."""
        _, request, leaving, takes = beat
        pool = self.pool
        pool.blank += self._freed(request, leaving, tick)
        if takes > pool.blank + pool.cached:
            return False
        if takes:
            pool.take(takes)
        return True

    def _freed(self, request: HybridRequest, leaving: tuple[SparseGroup, ...], tick: int) -> int:
        """Let go of the block that each of the groups has left; how many without content come free."""
        blank, size, processed = 0, self.size, request.base + tick - self.lag
        for group in leaving:
            entry = (processed - group.behind) // size - 1
            if entry < 0:
                continue
            holding = request.sparse[group.place]
            if not group.leave(holding, entry):
                blank += group.width
        return blank

    def break_off(self, played: Sequence[Beat], failed: Beat | None, tick: int) -> list[HybridRequest]:
        """The step at ``tick`` ends with these beats: whoever had one is written down as they are."""
        left = []
        for beat in [*played] if failed is None else [*played, failed]:
            request = beat[1]
            computed = request.base + tick
            self.leave(request, computed if beat is failed else computed + 1, computed - self.lag)
            left.append(request)
        return left
