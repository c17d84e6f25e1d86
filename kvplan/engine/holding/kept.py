"""Requests that decode in step and keep what a law keeps: steps that need no look at any one of them.

What a step adds to a request is a pattern (``rhythm``), so what it adds to all of them is a table by tick, as
block boundaries are without a law. Requests that become full leave the tables at the tick at which they do.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import accumulate, cycle, islice, repeat
from typing import TYPE_CHECKING

from kvplan.engine.holding.steady import HeldDecodes
from kvplan.engine.live import LiveRequest

if TYPE_CHECKING:
    from kvplan.engine.holding.dropping import Dropping


class KeptDecodes(HeldDecodes):
    """``HeldDecodes`` of requests that hold what ``dropping`` gives them.

    ``needs`` has the period of the law's rhythm. While a request is in step its blocks follow from its
    progress (``Dropping.blocks_of``); they are written down when it leaves.
    """

    __slots__ = ("_dropping", "_full", "_gains", "_rhythm", "_total")

    def __init__(self, block_size: int, dropping: Dropping) -> None:
        super().__init__(block_size, dropping)
        self._dropping = dropping
        self._rhythm = rhythm = dropping.law.rhythm(block_size)
        self.needs = [0] * rhythm.period
        self._gains = [0] * rhythm.beat
        self._total = 0
        self._full: list[tuple[int, int, LiveRequest]] = []

    def join(self, request: LiveRequest) -> None:
        """As the base class; its rhythm goes into the tables."""
        super().join(request)
        self._weigh(request, 1)

    def leave(self, request: LiveRequest, in_flight: int) -> None:
        """As the base class; its blocks are those of what it keeps."""
        super().leave(request, in_flight)
        self._weigh(request, -1)
        self._dropping.write_down(request)

    def _weigh(self, request: LiveRequest, sign: int) -> None:
        self._total += sign * self._dropping.attended(request, request.base + self.tick)
        full = self._full_at(request)
        if full is None or full > self.tick:
            self._beat(request, sign)
            if full is not None and sign > 0:
                heappush(self._full, (full, request.order, request))

    def _first(self, request: LiveRequest) -> int:
        """The tick at which the request is, or would have been, at position 0 of the rhythm."""
        return self._dropping.law.lost(request.prompt_tokens) - request.base

    def _full_at(self, request: LiveRequest) -> int | None:
        """The tick at which the request is full."""
        until = self._rhythm.until
        return None if until is None else self._first(request) + until

    def _beat(self, request: LiveRequest, sign: int) -> None:
        """Put the request's rhythm into the tables, or take it out."""
        rhythm, first = self._rhythm, self._first(request)
        needs, period = self.needs, rhythm.period
        for position, blocks in rhythm.needs:
            needs[(first + position) % period] += sign * blocks
        gains, beat = self._gains, rhythm.beat
        for position in rhythm.gains:
            gains[(first + position) % beat] += sign

    # -- time -------------------------------------------------------------------------------------------

    def context(self) -> int:
        """As the base class."""
        return self._total

    def contexts(self, steps: int) -> Iterable[int]:
        """As the base class."""
        return islice(accumulate(self._grows(steps), initial=self._total), 1, None)

    def _grows(self, steps: int) -> Iterable[int]:
        """By how many tokens the context grows in each of the next ``steps`` steps."""
        table, beat = self._gains, self._rhythm.beat
        if beat == 1:
            return repeat(table[0], steps)
        first = self.tick % beat
        return islice(cycle(table[first:] + table[:first]), steps)

    def glide(self, steps: int) -> None:
        """As the base class."""
        self._total += self._gains[0] * steps if self._rhythm.beat == 1 else sum(self._grows(steps))
        super().glide(steps)

    def next_event(self) -> int:
        """As the base class; also where a request becomes full."""
        event, full = super().next_event(), self._full
        return full[0][0] if full and full[0][0] < event else event

    def quiet_steps(self) -> int:
        """As the base class."""
        return min(super().quiet_steps(), self.next_event() - self.tick)

    def due(self) -> tuple[list[LiveRequest], list[LiveRequest]]:
        """As the base class, after those that have become full have left the tables."""
        full = self._full
        while full and full[0][0] <= self.tick:
            tick = full[0][0]
            found: dict[LiveRequest, None] = {}  # one that left and came back may be listed twice
            while full and full[0][0] == tick:
                request = heappop(full)[2]
                if request.steady is self and self._full_at(request) == tick:
                    found[request] = None
            for request in found:
                self._beat(request, -1)
        return super().due()
