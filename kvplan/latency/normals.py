"""Standard normal numbers for the members of an ensemble: drawn one by one, or designed to span evenly.

Eight free draws have a spread that is off by a quarter on average, and an interval made of them with it. A
designed sample takes the same eight quantiles in every dimension, scaled to a mean square of one, in orders
that are as little correlated as a few hundred tries find.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

Draw = int | Sequence[float]
"""A seed, or the numbers themselves."""

DIMENSIONS = 5
"""Numbers a clock takes at most. The first is that of links: copies beside the clock take it too."""

_TRIES = 300


def normals(draw: Draw, stream: str) -> Callable[[], float]:
    """Standard normal numbers one at a time: from a generator of ``stream`` and the seed, or as given."""
    if isinstance(draw, int):
        rng = random.Random(f"{stream}/{draw}")
        return lambda: rng.gauss(0.0, 1.0)
    given: Iterator[float] = iter(draw)
    return lambda: next(given)


def design(members: int, dimensions: int, seed: str) -> list[tuple[float, ...]]:
    """A Latin hypercube of ``members`` points of ``dimensions`` standard normal numbers each.

    In each dimension the mean is 0 and the mean square 1.
    """
    rng = random.Random(seed)
    quantiles = [NormalDist().inv_cdf((index + 0.5) / members) for index in range(members)]
    size = math.sqrt(math.fsum(z * z for z in quantiles) / members)
    quantiles = [z / size for z in quantiles]
    columns: list[list[float]] = []
    for _ in range(dimensions):
        best, least = list(quantiles), math.inf
        for _ in range(_TRIES if columns else 1):
            order = rng.sample(quantiles, members)
            worst = max((abs(sum(map(_times, order, column))) for column in columns), default=0.0)
            if worst < least:
                best, least = order, worst
        columns.append(best)
    return list(zip(*columns, strict=True))


def _times(a: float, b: float) -> float:
    return a * b
