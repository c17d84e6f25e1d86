"""Contents in which a token counts as another one wherever the token behind it differs.

A block that is known by its tokens and the next one is equal to another just where, of such contents, both
blocks are equal: prefix indexes need not know. The last token of all has none behind it and is left out.
"""

from __future__ import annotations

from kvplan.engine.content import Content
from kvplan.traces.request import Request

_SPREAD, _BITS = 0x9E3779B97F4A7C15, (1 << 64) - 1


class Pairs:
    """Names for what two runs meet in, the same for all requests of an engine."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], int] = {}

    def content(self, request: Request) -> Content:
        """Prompt and answer, token by token with the next one."""
        plain = Content(request.prompt, request.output)
        ends: list[int] = []
        shifts: list[int] = []
        start = 0
        followers = [*plain.shifts[1:], None]
        for end, shift, follower in zip(plain.ends, plain.shifts, followers, strict=True):
            if end - 1 > start:
                ends.append(end - 1)
                shifts.append(shift)
            if follower is not None:
                ends.append(end)
                shifts.append(self._name(shift, follower))
            start = end
        return Content.of_runs(ends, shifts)

    def _name(self, shift: int, follower: int) -> int:
        """No run's own shift, with lower bits that fingerprints can be made of."""
        pair = (shift, follower)
        name = self._names.get(pair)
        if name is None:
            number = len(self._names) + 1
            name = self._names[pair] = -(1 << 80) - (number * _SPREAD & _BITS)
        return name
