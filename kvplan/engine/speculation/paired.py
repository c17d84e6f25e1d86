"""Contents in which a token counts as another one wherever the tokens behind it differ.

A block that is known by its tokens and the next few is equal to another just where, of such contents, both
blocks are equal: prefix indexes need not know. The last tokens of all have too few behind them: left out.
"""

from __future__ import annotations

from bisect import bisect_right

from kvplan.engine.content import Content
from kvplan.traces.request import Request

_SPREAD, _BITS = 0x9E3779B97F4A7C15, (1 << 64) - 1


class Pairs:
    """Names for what runs meet in, the same for all requests of an engine.

    Args:
        ahead: tokens behind one that it is known by, too.
    """

    __slots__ = ("_ahead", "_names")

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._names: dict[tuple[int, ...], int] = {}

    def content(self, request: Request) -> Content:
        """Prompt and answer, token by token with the next ones."""
        plain = Content(request.prompt, request.output)
        ahead, last = self._ahead, (plain.ends[-1] if plain.ends else 0) - self._ahead
        ends: list[int] = []
        shifts: list[int] = []
        start = 0
        for end, shift in zip(plain.ends, plain.shifts, strict=True):
            alone = min(end - ahead, last)
            if alone > start:
                ends.append(alone)
                shifts.append(shift)
            # A token for itself where those behind it are of another run: each meets it at another distance.
            for position in range(max(start, end - ahead), min(end, last)):
                ends.append(position + 1)
                shifts.append(self._name(_seen(plain, position, ahead)))
            start = end
        return Content.of_runs(ends, shifts)

    def _name(self, seen: tuple[int, ...]) -> int:
        """No run's own shift, with lower bits that fingerprints can be made of."""
        name = self._names.get(seen)
        if name is None:
            number = len(self._names) + 1
            name = self._names[seen] = -(1 << 80) - (number * _SPREAD & _BITS)
        return name


def _seen(plain: Content, position: int, ahead: int) -> tuple[int, ...]:
    """The token at ``position`` and the next ones, as shifts and how many tokens have each."""
    ends, stop = plain.ends, position + ahead + 1
    run = bisect_right(ends, position)
    found: list[int] = []
    while position < stop:
        end = min(ends[run], stop)
        found += (plain.shifts[run], end - position)
        position = end
        run += 1
    return tuple(found)
