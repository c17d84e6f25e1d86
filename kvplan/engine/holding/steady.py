"""Requests that decode in step and hold blocks by other rules than one for every so many tokens.

Instead of the table of block boundaries there is a calendar of looks, at which the holder is asked for more.
"""

from __future__ import annotations

from kvplan.engine.holding.holder import Holder
from kvplan.engine.live import LiveRequest
from kvplan.engine.looks import Looks
from kvplan.engine.steady import SteadyDecodes


class HeldDecodes(SteadyDecodes):
    """``SteadyDecodes`` under a holder whose answers nobody knows beforehand."""

    __slots__ = ("_holder", "_looks")

    def __init__(self, block_size: int, holder: Holder) -> None:
        super().__init__(block_size)
        self.needs = [0]
        self._holder = holder
        self._looks: Looks[LiveRequest] = Looks()

    def join(self, request: LiveRequest) -> None:
        """As the base class; its next look goes into the calendar."""
        super().join(request)
        self._expect_look(request)

    def leave(self, request: LiveRequest, in_flight: int) -> None:
        """As the base class; the blocks stay as they are."""
        blocks = request.blocks
        super().leave(request, in_flight)
        request.blocks = blocks
        self._looks.forget(request)

    @property
    def boundary_blocks(self) -> int:
        """As the base class."""
        return self.needs[self.tick % len(self.needs)]

    def _expect_look(self, request: LiveRequest) -> None:
        after = self._holder.next_look(request, request.base + self.tick)
        if after is None:
            self._looks.forget(request)
        else:
            self._looks.expect(request, after - request.base)

    def looks(self) -> list[LiveRequest]:
        """Take out who needs a look before the next step."""
        return self._looks.due(self.tick + 1)

    def looked(self, due: list[LiveRequest]) -> None:
        """They had their look, and the step was taken: when is the next?"""
        for request in due:
            if request.steady is self:
                self._expect_look(request)

    def quiet_steps(self) -> int:
        """As the base class; a step with a look is left to the scheduler."""
        return min(super().quiet_steps(), self._looks.next(1 << 62) - self.tick - 1)
