"""Requests that decode in step and hold blocks by other rules than one for every so many tokens.

Instead of the table of block boundaries there is a calendar of *looks*: the tick at which the holder has to
be asked for more. Between looks nothing about blocks changes, so the engine may run through such steps.
"""

from __future__ import annotations

from heapq import heappop, heappush

from kvplan.engine.holding.holder import Holder
from kvplan.engine.live import LiveRequest
from kvplan.engine.steady import SteadyDecodes


class HeldDecodes(SteadyDecodes):
    """``SteadyDecodes`` under a holder whose answers nobody knows beforehand."""

    __slots__ = ("_holder", "_look_of", "_looks", "_ticks")

    def __init__(self, block_size: int, holder: Holder) -> None:
        super().__init__(block_size)
        self.needs = [0]
        self._holder = holder
        self._looks: dict[int, list[LiveRequest]] = {}
        self._look_of: dict[LiveRequest, int] = {}
        self._ticks: list[int] = []

    def join(self, request: LiveRequest) -> None:
        """As the base class; its next look goes into the calendar."""
        super().join(request)
        self._expect_look(request)

    def leave(self, request: LiveRequest, in_flight: int) -> None:
        """As the base class; the blocks stay as they are."""
        blocks = request.blocks
        super().leave(request, in_flight)
        request.blocks = blocks
        self._look_of.pop(request, None)

    @property
    def boundary_blocks(self) -> int:
        """As the base class."""
        return self.needs[self.tick % len(self.needs)]

    def _expect_look(self, request: LiveRequest) -> None:
        after = self._holder.next_look(request, request.base + self.tick)
        if after is None:
            self._look_of.pop(request, None)
            return
        tick = after - request.base
        self._look_of[request] = tick
        if tick not in self._looks:
            self._looks[tick] = []
            heappush(self._ticks, tick)
        self._looks[tick].append(request)

    def looks(self) -> list[LiveRequest]:
        """Take out who needs a look before the next step."""
        tick = self.tick + 1
        found = self._looks.pop(tick, None)
        while self._ticks and self._ticks[0] <= tick:
            heappop(self._ticks)
        if not found:
            return []
        due = []
        for request in found:
            # One that left and came back may be listed twice.
            if self._look_of.get(request) == tick:
                del self._look_of[request]
                due.append(request)
        return due

    def looked(self, due: list[LiveRequest]) -> None:
        """They had their look, and the step was taken: when is the next?"""
        for request in due:
            if request.steady is self:
                self._expect_look(request)

    def quiet_steps(self) -> int:
        """As the base class; a step with a look is left to the scheduler."""
        steps = super().quiet_steps()
        return min(steps, self._ticks[0] - self.tick - 1) if self._ticks else steps
