"""Standard normal numbers for the members of an ensemble: drawn one by one, or designed to span evenly.

Eight free draws have a spread that is off by a quarter on average, and an interval made of them with it. A
designed sample takes the same eight quantiles in every dimension, scaled to a mean square of one, in orders
that are as little correlated as a few hundred tries find.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import mul
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


@lru_cache(maxsize=64)
def design(members: int, dimensions: int, seed: str) -> tuple[tuple[float, ...], ...]:
    """A Latin hypercube of ``members`` points of ``dimensions`` standard normal numbers each.

    In each dimension the mean is 0 and the mean square 1. Kept, as it takes longer than a short run: every
    point of a sweep asks for the same, and every round of a fit for that of the round before it began anew.
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
            worst = max((abs(sum(map(mul, order, column))) for column in columns), default=0.0)
            if worst < least:
                best, least = order, worst
        columns.append(best)
    return tuple(zip(*columns, strict=True))
