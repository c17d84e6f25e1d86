"""When requests arrive: renewal processes given by a rate and a shape.

``shape`` is what vLLM's ``bench serve`` calls burstiness: the shape of the gamma distribution of the gaps,
below 1 bursty, 1 Poisson, above 1 more regular (CV = 1/sqrt(shape)). For ``weibull`` it is the Weibull
shape, with the same reading.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvplan.errors import UnknownName, UsageError
from kvplan.traces.accounting import Accounting
from kvplan.traces.streams import stream

KINDS = ("poisson", "gamma", "weibull", "constant")

LEAST_RATE = 1e-9
"""Fewest arrivals a second: one in 32 years."""
MIN_SHAPE = 0.01
"""CV 10 for gamma; the burstiest clients published have a CV of 12."""


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    """``rate`` arrivals per second on average, with gaps of the given kind."""

    rate: float
    kind: str = "poisson"
    shape: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName("arrival process", self.kind, KINDS)
        if not LEAST_RATE <= self.rate <= 1e9:
            raise UsageError(f"the rate must be between 1e-9 and 1e9 per second, not {self.rate!r}")
        if not MIN_SHAPE <= self.shape <= 1e6:
            raise UsageError(
                f"the shape must be between {MIN_SHAPE} and 1e6, not {self.shape!r}",
                hint="1 is Poisson, less is burstier; for evenly spaced arrivals use constant",
            )

    def gap(self, rng: random.Random) -> Callable[[], float]:
        """A function that draws the next gap, in seconds."""
        rate, shape = self.rate, self.shape
        if self.kind == "poisson":
            uniform, log = rng.random, math.log
            return lambda: -log(1.0 - uniform()) / rate
        if self.kind == "gamma":
            scale = 1.0 / (rate * shape)
            return lambda: rng.gammavariate(shape, scale)
        if self.kind == "weibull":
            scale = 1.0 / (rate * math.gamma(1.0 + 1.0 / shape))
            return lambda: rng.weibullvariate(scale, shape)
        return lambda: 1.0 / rate

    def times(self, rng: random.Random, start_s: float = 0.0) -> Iterator[float]:
        """Arrival times without end, the first one gap after ``start_s``."""
        gap = self.gap(rng)
        now = start_s
        while True:
            now += gap()
            yield now


def drawn_arrivals(rate: float, seed: int, accounting: Accounting) -> Iterator[float]:
    """Times in place of those that a trace does not have; says so."""
    accounting.rate_used = True
    accounting.note(f"no arrival times in the trace: Poisson at {rate:g}/s, seed {seed}")
    return ArrivalProcess(rate).times(stream(seed, "arrivals"))
