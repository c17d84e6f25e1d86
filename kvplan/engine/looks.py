"""A calendar of looks: at which tick the blocks of a request that decodes in step change next.

Where blocks come and go by other rules than one for every so many tokens, there is no table of block
boundaries; each request says when it wants to be looked at. Between looks nothing about blocks changes.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, TypeVar

from kvplan.engine.live import LiveRequest

RequestT = TypeVar("RequestT", bound=LiveRequest)


class Looks(Generic[RequestT]):
    """At most one look a request, the latest that was asked for."""

    __slots__ = ("_at", "_tick_of", "_ticks")

    def __init__(self) -> None:
        self._at: dict[int, list[RequestT]] = {}
        self._tick_of: dict[RequestT, int] = {}
        self._ticks: list[int] = []

    def expect(self, request: RequestT, tick: int) -> None:
        """The request wants a look at this tick, not when it did before."""
        if self._tick_of.get(request) == tick:
            return
        self._tick_of[request] = tick
        if tick not in self._at:
            self._at[tick] = []
            heappush(self._ticks, tick)
        self._at[tick].append(request)

    def forget(self, request: RequestT) -> None:
        """The request wants no look any more."""
        self._tick_of.pop(request, None)

    def due(self, tick: int) -> list[RequestT]:
        """Take out who wants a look at this tick; no earlier one is asked for any more."""
        found = self._at.pop(tick, None)
        ticks = self._ticks
        while ticks and ticks[0] <= tick:
            heappop(ticks)
        if not found:
            return []
        due = []
        for request in found:
            # One that left and came back may be listed twice.
            if self._tick_of.get(request) == tick:
                del self._tick_of[request]
                due.append(request)
        return due

    def next(self, otherwise: int) -> int:
        """The tick of the next look, which may turn out to be forgotten, if it comes before ``otherwise``."""
        return min(otherwise, self._ticks[0]) if self._ticks else otherwise
