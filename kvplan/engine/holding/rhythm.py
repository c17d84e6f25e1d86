"""When a decoding request keeps one token more and when that takes a block: the same pattern over and over.

A request is at *position* p when it has computed p tokens, those not counted that it lost with its prompt.
Under every law of retention what the step from p to p + 1 adds depends on p modulo a period only, up to the
position from which nothing is added any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What steps add to one request.

    Attributes:
        period: of ``needs``.
        needs: (position modulo ``period``, blocks): the step from there takes so many blocks.
        beat: period of ``gains``.
        gains: positions modulo ``beat`` from which a step keeps one token more.
        until: the position at which the request is full; ``None``: never.
    """

    period: int
    needs: tuple[tuple[int, int], ...]
    beat: int = 1
    gains: tuple[int, ...] = (0,)
    until: int | None = None


def paged(size: int, until: int | None = None) -> Rhythm:
    """A token a step, and a block for every ``size`` tokens."""
    return Rhythm(size, ((0, 1),), until=until)


def counted(kept: Callable[[int], int], blocks: Callable[[int], int], period: int, beat: int) -> Rhythm:
    """The rhythm of a law without end, counted over one period: kept tokens by position, blocks by those."""
    held = [blocks(kept(position)) for position in range(period + 1)]
    needs = tuple(
        (position, held[position + 1] - held[position])
        for position in range(period)
        if held[position + 1] > held[position]
    )
    gains = tuple(position for position in range(beat) if kept(position + 1) > kept(position))
    return Rhythm(period, needs, beat, gains)
