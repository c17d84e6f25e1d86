"""Requests that decode in step and hold blocks by other rules than one for every so many tokens.

Instead of the table of block boundaries there is a calendar of *looks*: the tick at which the holder has to
be asked for more. Between looks nothing about blocks changes, so the engine may run through such steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from kvplan.engine.holding.holder import Holder
from kvplan.engine.live import LiveRequest
from kvplan.engine.steady import SteadyDecodes


class HeldDecodes(SteadyDecodes):
    """``SteadyDecodes`` under a holder; ``base_sum`` counts attended tokens instead of computed ones.

    Attributes:
        unsettled: requests that computed a part of their prompt in the last step: what they need not keep
            is dropped when the next step is planned.
    """

    __slots__ = ("_context", "_holder", "_look_of", "_looks", "_ticks", "unsettled")

    def __init__(self, block_size: int, holder: Holder) -> None:
        super().__init__(block_size)
        self._holder = holder
        self._context = holder.context()
        self._looks: dict[int, list[LiveRequest]] = {}
        self._look_of: dict[LiveRequest, int] = {}
        self._ticks: list[int] = []
        self.unsettled: list[LiveRequest] = []

    def join(self, request: LiveRequest) -> None:
        """As the base class; its next look goes into the calendar."""
        computed = request.computed
        super().join(request)
        self.boundaries[-request.base % self.block_size] -= 1
        if self._context is None:
            self.base_sum -= computed - self._holder.attended(request, computed)
        else:
            self._context.join(request.base, self.tick)
        self._expect_look(request)

    def leave(self, request: LiveRequest, in_flight: int) -> None:
        """As the base class; the blocks stay as they are."""
        blocks, base = request.blocks, request.base
        self.boundaries[-base % self.block_size] += 1
        super().leave(request, in_flight)
        request.blocks = blocks
        self._look_of.pop(request, None)
        if self._context is None:
            computed = request.computed
            self.base_sum += computed - self._holder.attended(request, computed)
        else:
            self._context.leave(base, self.tick)

    def advance(self) -> int:
        """One token for everybody; returns the tokens all of them attend to."""
        self.tick += 1
        if self._context is None:
            return self.base_sum + self.count * self.tick
        self._context.advance(self.tick)
        return self._context.total

    def context(self) -> int:
        """As the base class."""
        return super().context() if self._context is None else self._context.total

    def gains(self, steps: int) -> Iterable[int]:
        """As the base class."""
        return super().gains(steps) if self._context is None else self._context.gains(self.tick, steps)

    def glide(self, steps: int) -> None:
        """As the base class."""
        if self._context is not None:
            for tick in range(self.tick + 1, self.tick + steps + 1):
                self._context.advance(tick)
        super().glide(steps)

    # -- looks ------------------------------------------------------------------------------------------

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

    def next_finish(self) -> int:
        """The tick of the next last token, or earlier."""
        return super().next_event()

    def quiet_steps(self) -> int:
        """As the base class; a step with an entry asks the holder."""
        return self.next_event() - self.tick - 1

    def next_event(self) -> int:
        """The next tick at which anything but the clock and the context may change."""
        if self.unsettled:
            return self.tick + 1
        event = super().next_event()
        return min(event, self._ticks[0]) if self._ticks else event
