"""The cheapest sizes of one or two pools that meet: which to try next.

More instances are taken to do no worse. Sizes grow together until some meet; then every pool is halved
towards what is known to miss. Two pools may still be exchanged for one another: every size of the first has a
largest second that makes a cheaper whole. A range of these is left out when the largest of both in it misses,
which may be more than is allowed, and is halved otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Sizes = tuple[int, ...]
"""Instances of every pool."""

REPLICAS = "parallel.replicas"
PREFILL, DECODE = "disaggregation.prefill.instances", "disaggregation.decode.instances"
SIZES = (REPLICAS, PREFILL, DECODE)
"""Fields that say how many instances a pool has."""

MOST_INSTANCES = 1024
"""Of a pool, as scenarios have them."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What sizes are made of.

    Args:
        gpus, costs: of an instance of every pool.
        most_gpus: of all instances.
    """

    gpus: Sizes
    costs: tuple[float, ...]
    most_gpus: int

    def allowed(self, sizes: Sizes) -> bool:
        """Whether there are so many GPUs."""
        return self.total_gpus(sizes) <= self.most_gpus and max(sizes) <= MOST_INSTANCES

    def total_gpus(self, sizes: Sizes) -> int:
        """Of all instances."""
        return sum(size * one for size, one in zip(sizes, self.gpus, strict=True))

    def total_cost(self, sizes: Sizes) -> float:
        """Of all instances."""
        return sum(size * one for size, one in zip(sizes, self.costs, strict=True))

    def second(self, first: int, passed: Sizes | None) -> int:
        """The largest second pool beside so many of the first, in a whole that is cheaper than ``passed``."""
        size = min((self.most_gpus - first * self.gpus[0]) // self.gpus[1], MOST_INSTANCES)
        if passed is None:
            return size
        limit = self.total_cost(passed) * (1.0 - 1e-9)
        size = min(size, int((limit - first * self.costs[0]) / self.costs[1]) + 1)
        while size > 0 and self.total_cost((first, size)) >= limit:
            size -= 1
        return size


def next_sizes(met: Sequence[Sizes], missed: Sequence[Sizes], prices: Prices, start: Sizes) -> Sizes | None:
    """What to try next; None where the cheapest sizes that meet are known, or that none does.

    Args:
        met, missed: sizes that were tried, in the order of their tries.
        prices: by which sizes are compared.
        start: what to try first.
    """
    allowed = [sizes for sizes in met if prices.allowed(sizes)]
    passed = min(allowed, key=prices.total_cost, default=None)
    found = _grown(missed, prices, start) if passed is None else _halved(passed, missed, start)
    if found is None and len(start) == 2:
        most = min(prices.most_gpus // prices.gpus[0], MOST_INSTANCES)
        while most and prices.second(most, passed) < 1:
            most -= 1
        found = _exchanged((1, most), passed, met, missed, prices)
    return found


def _grown(missed: Sequence[Sizes], prices: Prices, start: Sizes) -> Sizes | None:
    """All pools larger, by twice as much each time, as far as allowed."""
    if not missed:
        return start
    step = min(1 << (len(missed) - 1), MOST_INSTANCES)
    larger = (tuple(size + more for size in missed[-1]) for more in range(step, 0, -1))
    return next((sizes for sizes in larger if prices.allowed(sizes)), None)


def _halved(passed: Sizes, missed: Sequence[Sizes], start: Sizes) -> Sizes | None:
    """One pool smaller, half way to where it misses."""
    for pool, size in enumerate(passed):
        others = [sizes[pool] for sizes in missed if _within(_without(passed, pool), _without(sizes, pool))]
        below = max((other for other in others if other < size), default=0)
        if size - below > 1:
            # What met before a workload was lengthened is likely the answer still.
            less = size - 1 if passed == start else (below + size) // 2
            return (*passed[:pool], less, *passed[pool + 1 :])
    return None


def _exchanged(
    firsts: tuple[int, int],
    passed: Sizes | None,
    met: Sequence[Sizes],
    missed: Sequence[Sizes],
    prices: Prices,
) -> Sizes | None:
    """A cheaper whole with a first pool in this range, or what rules them all out."""
    low, high = firsts
    if low > high:
        return None
    largest = (high, prices.second(low, passed))
    if any(_within(largest, sizes) for sizes in missed):
        return None
    if low == high:
        return largest
    if not any(_within(sizes, largest) for sizes in met):
        return largest
    middle = (low + high) // 2
    return _exchanged((low, middle), passed, met, missed, prices) or _exchanged(
        (middle + 1, high), passed, met, missed, prices
    )


def _within(sizes: Sizes, other: Sizes) -> bool:
    """Whether no pool is larger than in the other."""
    return all(size <= most for size, most in zip(sizes, other, strict=True))


def _without(sizes: Sizes, pool: int) -> Sizes:
    return sizes[:pool] + sizes[pool + 1 :]
