"""Distributions of token counts, each drawing by inversion from one uniform number.

One uniform per draw keeps streams aligned: changing a distribution moves no other draw of its stream.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvplan.errors import UsageError
from kvplan.units import parse_tokens

if TYPE_CHECKING:
    from statistics import NormalDist

Draw = Callable[[], int]
_TINY = 2.0**-60


class Lengths(Protocol):
    """A distribution of whole numbers of tokens."""

    def sampler(self, rng: random.Random) -> Draw:
        """A function that draws the next count (at least 0)."""
        ...

    def mean(self) -> float:
        """Expected count, ignoring the rounding to whole tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same count."""

    tokens: int

    def sampler(self, rng: random.Random) -> Draw:
        tokens = self.tokens
        return lambda: tokens

    def mean(self) -> float:
        return float(self.tokens)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every count from ``low`` to ``high`` inclusive alike."""

    low: int
    high: int

    def sampler(self, rng: random.Random) -> Draw:
        low, width, uniform = self.low, self.high - self.low + 1, rng.random
        return lambda: low + int(uniform() * width)

    def mean(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal distribution, cut to ``[low, high]`` by clamping."""

    centre: float
    deviation: float
    low: int
    high: int

    def sampler(self, rng: random.Random) -> Draw:
        uniform, inverse, low, high = rng.random, _standard().inv_cdf, self.low, self.high
        centre, deviation = self.centre, self.deviation
        return lambda: min(high, max(low, round(centre + deviation * inverse(uniform() or _TINY))))

    def mean(self) -> float:
        return self.centre


@dataclass(frozen=True, slots=True)
class Lognormal:
    """``median * exp(sigma * Z)``, cut to ``[low, high]`` by clamping."""

    median: float
    sigma: float
    low: int
    high: int

    def sampler(self, rng: random.Random) -> Draw:
        uniform, inverse, low, high = rng.random, _standard().inv_cdf, self.low, self.high
        mu, sigma, exp = math.log(self.median), self.sigma, math.exp
        return lambda: min(high, max(low, round(exp(mu + sigma * inverse(uniform() or _TINY)))))

    def mean(self) -> float:
        """Of the clamped distribution (closed form of the lognormal's partial expectation)."""
        mu, sigma, cdf = math.log(self.median), self.sigma, _standard().cdf
        a = (math.log(self.low) - mu) / sigma if self.low > 0 else -math.inf
        b = (math.log(self.high) - mu) / sigma
        inside = math.exp(mu + sigma * sigma / 2) * (cdf(b - sigma) - cdf(a - sigma))
        return self.low * cdf(a) + inside + self.high * (1 - cdf(b))


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Straight lines between given quantiles ``((0.0, low), ..., (1.0, high))``."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.points]
        counts = [count for _, count in self.points]
        if len(shares) < 2 or shares[0] != 0.0 or shares[-1] != 1.0:
            raise UsageError("quantiles must begin with share 0 and end with share 1")
        if sorted(set(shares)) != shares or sorted(counts) != counts or counts[0] < 0:
            raise UsageError("quantiles must rise, from a count of at least 0")

    def sampler(self, rng: random.Random) -> Draw:
        shares = [share for share, _ in self.points]
        counts = [count for _, count in self.points]
        uniform = rng.random

        def draw() -> int:
            u = uniform()
            i = bisect.bisect_right(shares, u) - 1
            part = (u - shares[i]) / (shares[i + 1] - shares[i])
            return round(counts[i] + part * (counts[i + 1] - counts[i]))

        return draw

    def mean(self) -> float:
        pairs = zip(self.points, self.points[1:], strict=False)
        return sum((p2 - p1) * (c1 + c2) / 2 for (p1, c1), (p2, c2) in pairs)


def _standard() -> NormalDist:
    from statistics import NormalDist  # slow to import, and most traces need no normal distribution

    return NormalDist()


def parse_lengths(text: str) -> Lengths:
    """A distribution as users write it.

    ``1024`` · ``uniform:100-200`` · ``normal:512,128`` (mean, deviation) · ``lognormal:400,1.1`` (median,
    sigma) · ``quantiles:0=10,0.5=200,0.99=4000,1=8000``.

    Raises:
        UsageError: anything else.
    """
    kind, _, rest = text.partition(":")
    try:
        if not rest:
            return Constant(parse_tokens(kind))
        if kind == "uniform":
            low, high = (parse_tokens(part) for part in rest.split("-"))
            if low <= high:
                return Uniform(low, high)
        if kind in ("normal", "lognormal"):
            centre, width = (float(part) for part in rest.split(","))
            if 1 <= centre <= 1e9 and 0 < width <= (1e9 if kind == "normal" else 5):
                made = Normal if kind == "normal" else Lognormal
                return made(centre, width, 1, max(1, round(centre * 100)))
        if kind == "quantiles":
            pairs = (part.split("=") for part in rest.split(","))
            return Quantiles(tuple((float(share), float(parse_tokens(count))) for share, count in pairs))
    except ValueError:
        pass
    raise UsageError(
        f"{text!r} is not a distribution of token counts",
        hint="write 1024, uniform:100-200, normal:512,128, lognormal:400,1.1 or quantiles:0=10,0.5=99,1=800",
    )
