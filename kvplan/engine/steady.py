"""Requests that decode in step: one token each in every step, so that a step costs the same for any number.

All progress is relative to a shared *tick*, the number of steps these requests took together. A request
that has computed ``base + tick`` tokens needs a new block whenever that is a multiple of the block size,
so how many need one in a step is a table look-up by ``tick % block_size``. What happens to single requests
(the last token, a block to publish that nobody may miss) stands in a calendar by tick.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from kvplan.engine.live import LiveRequest

FINISH = 0
PUBLISH = 1


class SteadyDecodes:
    """The set of requests in step.

    Attributes:
        count: how many.
        tick: steps taken together since the engine started.
        lag: 1 while the outputs of the step before are still in flight (async scheduling): the newest
            computed token of each request is then not published yet.
        needs: blocks that a step takes, by tick modulo the length of the table: those of the block boundaries
            passed, where a strategy has no other table.
        base_sum: sum of ``base`` over the set: context of a step = base_sum + count * tick.
    """

    __slots__ = (
        "_calendar",
        "base_sum",
        "block_size",
        "boundaries",
        "count",
        "lag",
        "members",
        "needs",
        "tick",
    )

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.count = 0
        self.tick = 0
        self.lag = 0
        self.base_sum = 0
        self.boundaries = [0] * block_size
        self.needs = self.boundaries
        self.members: dict[LiveRequest, None] = {}
        self._calendar: list[tuple[int, int, int, LiveRequest]] = []

    def join(self, request: LiveRequest) -> None:
        """A request whose known tokens are all computed or in flight decodes from the next step on."""
        base = request.computed - self.tick
        request.base = base
        request.steady = self
        request.finish_tick = self.tick + request.max_tokens - request.samples
        self.count += 1
        self.base_sum += base
        self.boundaries[-base % self.block_size] += 1
        self.members[request] = None
        heappush(self._calendar, (request.finish_tick, FINISH, request.order, request))

    def leave(self, request: LiveRequest, in_flight: int) -> None:
        """Write the request's counters down and take it out; ``in_flight`` of its outputs are undelivered."""
        base = request.base
        blocks = (base + self.tick - self.lag) // self.block_size
        if blocks > request.published:
            request.published = blocks
        request.steady = None
        request.computed = base + self.tick
        request.placeholders = in_flight
        request.num_tokens = request.computed - in_flight + 1
        request.samples = request.max_tokens - (request.finish_tick - self.tick)
        request.blocks = -(-request.computed // self.block_size)
        self.count -= 1
        self.base_sum -= base
        self.boundaries[-base % self.block_size] -= 1
        del self.members[request]

    @property
    def boundary_blocks(self) -> int:
        """Blocks the next step needs."""
        return self.boundaries[self.tick % self.block_size]

    def expect_publication(self, request: LiveRequest) -> None:
        """Put the step in which the request's next block can fill into the calendar."""
        missing = (request.in_tree + 1) * self.block_size - request.base
        due = missing if missing > self.tick else self.tick + 1
        heappush(self._calendar, (due, PUBLISH, request.order, request))

    def due(self) -> tuple[list[LiveRequest], list[LiveRequest]]:
        """Take out what is due at the current tick: who may publish a block, and whose last output this is.

        Both in admission order; entries of requests that have left meanwhile are forgotten.
        """
        calendar, now = self._calendar, self.tick
        publishing: list[LiveRequest] = []
        ending: list[LiveRequest] = []
        while calendar and calendar[0][0] <= now:
            tick, kind, order, request = heappop(calendar)
            if request.steady is not self or order != request.order:
                continue
            if kind == PUBLISH:
                publishing.append(request)
            elif tick == request.finish_tick:
                ending.append(request)
        if len(publishing) > 1:
            publishing = sorted(dict.fromkeys(publishing), key=_order)
        if len(ending) > 1:
            ending = sorted(dict.fromkeys(ending), key=_order)
        return publishing, ending

    def context(self) -> int:
        """Tokens that the last step attended to."""
        return self.base_sum + self.count * self.tick

    def contexts(self, steps: int) -> Iterable[int]:
        """``context`` after each of the next ``steps`` steps; there must be requests."""
        count = self.count
        first = self.base_sum + count * (self.tick + 1)
        return range(first, first + count * steps, count)

    def glide(self, steps: int) -> None:
        """So many steps were taken; what is due at the last of them is left to ``due``."""
        self.tick += steps

    def quiet_steps(self) -> int:
        """Steps up to the next calendar entry, that step included, for which ``boundaries`` says all that is
        needed, and at whose end ``due`` says what happens; many without an entry."""
        return (self._calendar[0][0] if self._calendar else 1 << 62) - self.tick

    def next_event(self) -> int:
        """The tick of the next calendar entry, which may turn out to be forgotten; huge without any."""
        return self._calendar[0][0] if self._calendar else 1 << 62


def _order(request: LiveRequest) -> int:
    return request.order
