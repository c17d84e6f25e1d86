"""Attended tokens of all requests in step, where they do not grow by one a request and step.

A request in step has computed ``base + tick`` tokens; it is known here by its ``base`` alone. Time only goes
forward: ``advance`` is called for every tick.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol


class Context(Protocol):
    """A sum over the requests in step; ``total`` is its value at the last tick."""

    total: int

    def join(self, base: int, tick: int) -> None:
        """One more request, at the current tick."""
        ...

    def leave(self, base: int, tick: int) -> None:
        """One fewer, at the current tick."""
        ...

    def advance(self, tick: int) -> None:
        """One tick later."""
        ...

    def gains(self, tick: int, steps: int) -> Iterator[int]:
        """What ``advance`` will add in each of the ``steps`` ticks after ``tick`` if nobody comes or goes."""
        ...


class CappedContext:
    """Sum of ``min(base + tick, cap)``: requests grow until they have ``cap`` tokens, then stay."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.total = 0
        self._growing = 0
        self._full_from: dict[int, int] = {}

    def join(self, base: int, tick: int) -> None:
        """One more request."""
        left = self.cap - base - tick
        self.total += self.cap if left <= 0 else base + tick
        if left > 0:
            self._growing += 1
            self._full_from[tick + left] = self._full_from.get(tick + left, 0) + 1

    def leave(self, base: int, tick: int) -> None:
        """One fewer."""
        left = self.cap - base - tick
        self.total -= self.cap if left <= 0 else base + tick
        if left > 0:
            self._growing -= 1
            self._full_from[tick + left] -= 1

    def advance(self, tick: int) -> None:
        """One tick later: those that were not full have one token more."""
        self.total += self._growing
        self._growing -= self._full_from.pop(tick, 0)

    def gains(self, tick: int, steps: int) -> Iterator[int]:
        """See ``Context``."""
        growing, full_from = self._growing, self._full_from
        for later in range(tick + 1, tick + steps + 1):
            yield growing
            growing -= full_from.get(later, 0)


class ShareContext:
    """Sum of ``ceil(share * (base + tick))``.

    Whether a request gains a token in a step depends on its tokens modulo the share's denominator only, so
    how many gain one is a table by the tick.
    """

    def __init__(self, share: Fraction) -> None:
        self.share = share
        self.total = 0
        period = share.denominator
        self._gains = [tick for tick in range(period) if self._kept(tick + 1) > self._kept(tick)]
        self._steps = [0] * period

    def _kept(self, tokens: int) -> int:
        kept = self.share * tokens
        return -(-kept.numerator // kept.denominator)

    def _count(self, base: int, sign: int) -> None:
        steps, period = self._steps, self.share.denominator
        for residue in self._gains:
            steps[(residue - base) % period] += sign

    def join(self, base: int, tick: int) -> None:
        """One more request."""
        self.total += self._kept(base + tick)
        self._count(base, 1)

    def leave(self, base: int, tick: int) -> None:
        """One fewer."""
        self.total -= self._kept(base + tick)
        self._count(base, -1)

    def advance(self, tick: int) -> None:
        """One tick later."""
        self.total += self._steps[(tick - 1) % self.share.denominator]

    def gains(self, tick: int, steps: int) -> Iterator[int]:
        """See ``Context``."""
        table, period = self._steps, self.share.denominator
        for before in range(tick, tick + steps):
            yield table[before % period]
