"""Requests that decode in step and hold blocks in several groups.

Instead of the table of block boundaries there is a calendar of looks, at which a request needs a block, gives
one back or publishes one. Who does so by phase alone is left to the ``Rhythm``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from kvplan.engine.hybrid.cache import HybridCache
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.rhythm import Beat, Rhythm
from kvplan.engine.live import LiveRequest
from kvplan.engine.looks import Looks
from kvplan.engine.steady import SteadyDecodes


class HybridDecodes(SteadyDecodes):
    """``SteadyDecodes`` over a cache of several groups; its block is the scheduler's.

    Attributes:
        left: requests that left with a token in flight since somebody emptied the list.
        rhythm: of those who need no looks; None where the groups have none.
        most_used: most blocks in use after one of the steps glided through last.

    Args:
        closed: how many steps certainly let nobody in who waits, as far as that is up to the rhythm.
    """

    __slots__ = ("_cache", "_closed", "_looks", "left", "most_used", "rhythm")

    def __init__(self, cache: HybridCache, closed: Callable[[Rhythm], int]) -> None:
        super().__init__(cache.alignment)
        self._cache = cache
        self._looks: Looks[HybridRequest] = Looks()
        self._closed = closed
        self.left: list[HybridRequest] = []
        self.rhythm = cache.rhythm()
        self.most_used = 0
        if self.rhythm is not None:
            self.needs = self.rhythm.needs

    def join(self, request: LiveRequest) -> None:
        """As the base class; its next look goes into the calendar."""
        request = cast(HybridRequest, request)
        super().join(request)
        self.boundaries[-request.base % self.block_size] -= 1
        request.joined = self.tick
        self._expect_look(request)

    def leave(self, request: LiveRequest, in_flight: int) -> None:
        """As the base class; the blocks stay as they are."""
        request = cast(HybridRequest, request)
        self._leave_rhythm(request)
        self._cache.note_published(request)
        base = request.base
        self.boundaries[-base % self.block_size] += 1
        super().leave(request, in_flight)
        self._looks.forget(request)
        if in_flight and self.tick > request.joined:
            request.in_flight += 1
            self.left.append(request)

    def in_flight_tokens(self, request: HybridRequest) -> int:
        """Tokens of a member that are planned and not delivered when the next step is planned."""
        return request.in_flight + (self.lag if self.tick > request.joined else 0)

    # -- rhythm -----------------------------------------------------------------------------------------

    def beats(self) -> list[Beat]:
        """What members of the rhythm do in the next step, in the order of admission."""
        rhythm = self.rhythm
        if rhythm is None:
            return []
        # While anybody decodes in step there is a step in flight whenever one is planned ahead.
        assert self.lag == rhythm.lag or not rhythm.members
        return rhythm.at(self.tick)

    def _leave_rhythm(self, request: HybridRequest) -> None:
        rhythm = self.rhythm
        if rhythm is not None and request in rhythm.members:
            computed = request.base + self.tick
            rhythm.leave(request, computed, computed - 1 - rhythm.lag)

    def _enter_rhythm(self, request: HybridRequest) -> bool:
        """Whether the request needs no look from now on."""
        rhythm = self.rhythm
        if rhythm is None or request.publishes or request.in_flight:
            return False
        if self.tick == request.joined or not rhythm.fits(request, self.tick):
            return False
        rhythm.join(request)
        return True

    def glide(self, steps: int) -> None:
        """As the base class; the rhythm goes on."""
        rhythm, first = self.rhythm, self.tick
        super().glide(steps)
        if rhythm is None or not rhythm.members:
            return
        pool, least = rhythm.pool, rhythm.pool.usable
        for tick in range(first, self.tick):
            if rhythm.at(tick):
                rhythm.step(tick)
                free = pool.blank + pool.cached
                if free < least:
                    least = free
        self.most_used = pool.usable - least

    # -- looks ------------------------------------------------------------------------------------------

    def expect_publication(self, request: LiveRequest) -> None:
        """It has met another request's content: the next block that fills has to be published."""
        self._expect_look(cast(HybridRequest, request))

    def _expect_look(self, request: HybridRequest) -> None:
        self._leave_rhythm(request)
        base = request.base
        request.publishes = self._cache.publishes(request, base + self.tick - self.lag)
        if self._enter_rhythm(request):
            assert self.rhythm is not None
            last = self.rhythm.last_tick(request, self.tick)
            if last is None:
                self._looks.forget(request)
            else:
                self._looks.expect(request, last + 1)
            return
        tick = request.settled_until + 1 - base
        if request.publishes:
            size = self.block_size
            fills = ((base + self.tick - self.lag) // size + 1) * size - base
            if fills < tick:
                tick = fills
        if tick <= self.tick:
            tick = self.tick + 1
        self._looks.expect(request, tick)

    def looks(self) -> list[HybridRequest]:
        """Take out who needs a look in the next step; they do nothing by phase alone in it."""
        due = self._looks.due(self.tick + 1)
        for request in due:
            self._leave_rhythm(request)
            if not request.publishes:
                # The step may fill the first block of a chunk.
                progress = request.base + self.tick + 1 - self.lag
                request.publishes = self._cache.publishes(request, progress)
        return due

    def looked(self, due: list[HybridRequest]) -> None:
        """They had their look, and the step was taken: when is the next?"""
        for request in due:
            if request.steady is self:
                self._expect_look(request)

    def retry(self, due: list[HybridRequest]) -> None:
        """The step was not taken: they want their looks when it is."""
        for request in due:
            self._looks.expect(request, self.tick + 1)

    def next_finish(self) -> int:
        """The tick of the next last token, or earlier."""
        return super().next_event()

    def quiet_steps(self) -> int:
        """As the base class; a step with an entry asks the cache, and one that may give back what somebody
        waits for is met alone."""
        steps = self.next_event() - self.tick - 1
        if self.rhythm is not None and self.rhythm.members:
            steps = min(steps, self._closed(self.rhythm))
        return steps

    def next_event(self) -> int:
        """The next tick at which anything but the clock and the context may change."""
        return self._looks.next(super().next_event())
