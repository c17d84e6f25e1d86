"""Shared beginnings of prompts: groups that share one, and documents picked by popularity."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from kvplan.traces.lengths import Lengths
from kvplan.traces.request import TokenRun
from kvplan.traces.streams import stream

_ROOM = 1 << 22
"""Token ids set aside for each text."""

MAX_TEXTS = 10_000


@dataclass(frozen=True, slots=True)
class SharedTexts:
    """``count`` texts of drawn lengths, of which the k-th most popular has weight ``1 / k**zipf``.

    ``zipf`` 0 makes all alike.
    """

    count: int
    tokens: Lengths
    zipf: float = 0.0


class TextPool:
    """The texts of a ``SharedTexts`` under a seed, as token runs in a range of ids of their own.

    Args:
        name: names the pool's random streams.
        shelf: 0 to 25; pools of different shelves have no token in common.
    """

    def __init__(self, texts: SharedTexts, seed: int, name: str, shelf: int) -> None:
        if not 1 <= texts.count <= MAX_TEXTS:
            raise ValueError(f"a pool holds 1 to {MAX_TEXTS} texts")
        draw = texts.tokens.sampler(stream(seed, f"{name}/lengths"))
        base = shelf * MAX_TEXTS
        self.runs: list[TokenRun] = [
            ((base + k) * _ROOM, min(max(1, draw()), _ROOM)) for k in range(texts.count)
        ]
        weights = (1.0 / (k + 1) ** texts.zipf for k in range(texts.count))
        self._cumulative = list(itertools.accumulate(weights))

    def picker(self, rng: random.Random) -> Callable[[], TokenRun]:
        """A function that picks a text by its popularity."""
        runs, cumulative, uniform = self.runs, self._cumulative, rng.random
        total, bisect_right, last = cumulative[-1], bisect.bisect_right, len(runs) - 1
        return lambda: runs[min(last, bisect_right(cumulative, uniform() * total))]
