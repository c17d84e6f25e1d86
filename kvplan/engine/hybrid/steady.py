"""Requests that decode in step and hold blocks in several groups.

Instead of the table of block boundaries there is a calendar of looks, at which a request needs a block, gives
one back or publishes one.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.hybrid.cache import HybridCache
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.live import LiveRequest
from kvplan.engine.looks import Looks
from kvplan.engine.steady import SteadyDecodes


class HybridDecodes(SteadyDecodes):
    """``SteadyDecodes`` over a cache of several groups; its block is the scheduler's.

    Attributes:
        left: requests that left with a token in flight since somebody emptied the list.
    """

    __slots__ = ("_cache", "_looks", "left")

    def __init__(self, cache: HybridCache) -> None:
        super().__init__(cache.alignment)
        self._cache = cache
        self._looks: Looks[HybridRequest] = Looks()
        self.left: list[HybridRequest] = []

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

    # -- looks ------------------------------------------------------------------------------------------

    def expect_publication(self, request: LiveRequest) -> None:
        """It has met another request's content: the next block that fills has to be published."""
        self._expect_look(cast(HybridRequest, request))

    def _expect_look(self, request: HybridRequest) -> None:
        base = request.base
        tick = request.settled_until + 1 - base
        request.publishes = self._cache.publishes(request, base + self.tick - self.lag)
        if request.publishes:
            size = self.block_size
            fills = ((base + self.tick - self.lag) // size + 1) * size - base
            if fills < tick:
                tick = fills
        if tick <= self.tick:
            tick = self.tick + 1
        self._looks.expect(request, tick)

    def looks(self) -> list[HybridRequest]:
        """Take out who needs a look in the next step."""
        return self._looks.due(self.tick + 1)

    def looked(self, due: list[HybridRequest]) -> None:
        """They had their look, and the step was taken: when is the next?"""
        for request in due:
            if request.steady is self:
                self._expect_look(request)

    def next_finish(self) -> int:
        """The tick of the next last token, or earlier."""
        return super().next_event()

    def quiet_steps(self) -> int:
        """As the base class; a step with an entry asks the cache."""
        return self.next_event() - self.tick - 1

    def next_event(self) -> int:
        """The next tick at which anything but the clock and the context may change."""
        return self._looks.next(super().next_event())
