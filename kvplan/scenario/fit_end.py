"""Where a fit of engine-level constants ends: a search around, once more from afar where that misses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kvplan.scenario.fit_constants import Constant
from kvplan.scenario.foothold import foothold
from kvplan.scenario.search import SPREADS, Found, search

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

CORRELATED = 3.0
"""Percentiles of one run move together, so what they tell is this much less certain than they suggest."""
LOSS_SCALE = 0.1
LEAST_NOISE = 0.02
WEIGHED = 2
"""Rounds after which features are weighed anew, where the constants have come by then."""
FAR = 0.12
"""Percentiles that stay so far off say that the replay is not the run: what is usual then counts for more."""
MISSED = 0.04
"""Percentiles that stay so far off say that the search may have begun too far from where it should end."""
Z90 = 1.645
STRAYS = 0.5
"""A constant whose usual values differ by less is not looked for far away."""


@dataclass(frozen=True, slots=True)
class End:
    """Of a search: all constants, and for each that was free the standard deviation of its logarithm: with
    what is usual for all of them, and from the run alone."""

    values: dict[str, float]
    deviations: dict[str, float]
    alone: dict[str, float]
    noise: float = 0.0
    factor: tuple[tuple[float, ...], ...] = ()
    """``L`` with ``L L^T`` the covariance of the logarithms, in the order of ``deviations``."""
    slopes: tuple[tuple[float, ...], ...] = ()
    """Of the residual by the logarithms, in that order."""


def at_bounds(end: End, constants: Iterable[Constant]) -> bool:
    """Whether one of them would go on if it could."""
    return any(not c.low * 1.01 < end.values[c.name] < c.high / 1.01 for c in constants)


def end_of(
    free: Sequence[Constant],
    start: Mapping[str, float],
    residual: Callable[[Mapping[str, float]], Array],
    weigh: Callable[[Mapping[str, float]], None],
    tell: Callable[[str], None],
) -> End:
    """Where the constants in ``free`` come to when moved from ``start``; the others stay.

    Args:
        residual: how far simulated percentiles are off at all constants, as weighed last.
        weigh: weighs them anew for the noise that simulations with these constants have.
        tell: told of every round.
    """
    import numpy as np

    if not free:
        return End(dict(start), {}, {})
    begin = np.log([start[c.name] for c in free])
    low, high = np.log([c.low for c in free]), np.log([c.high for c in free])

    def values_at(x: Array) -> dict[str, float]:
        return {**start, **{c.name: float(math.exp(v)) for c, v in zip(free, x, strict=True)}}

    def tell_round(before: int, round_: int, misfit: float) -> None:
        tell(f"round {before + round_} of {len(SPREADS)}: percentiles are {misfit:.1%} off")

    prior = np.array([c.spread for c in free])

    def searched(noise: float, point: Array) -> Found:
        found = None
        for number, spreads in enumerate((SPREADS[:WEIGHED], SPREADS[WEIGHED:])):
            weigh(values_at(point))
            found = search(
                lambda x: residual(values_at(x)), point, np.array([c.width for c in free]), low,
                high, scale=LOSS_SCALE, pull=(noise * CORRELATED / prior) ** 2, home=begin,
                spreads=spreads, tell=partial(tell_round, number * WEIGHED),
            )  # fmt: skip
            point = found.point
        assert found is not None
        return found

    start_at, found = begin, searched(LEAST_NOISE, begin)
    if found.noise > MISSED:
        tell("percentiles stay off: once more, from where no constant is far off")
        weigh(values_at(begin))
        foot = foothold(
            lambda x: residual(values_at(x)), begin, np.where(prior >= STRAYS, prior, 0.0), low,
            high, scale=LOSS_SCALE, pull=(LEAST_NOISE * CORRELATED / prior) ** 2,
        )  # fmt: skip
        if np.any(foot != begin) and (other := searched(LEAST_NOISE, foot)).noise < found.noise:
            start_at, found = foot, other
    if found.noise > FAR:
        tell("percentiles stay far off: once more, nearer to what is usual")
        found = searched(found.noise, start_at)
    covariance = found.covariance * (max(found.noise, LEAST_NOISE) * CORRELATED) ** 2
    posterior = np.linalg.inv(np.linalg.inv(covariance) + np.diag(prior**-2.0))
    alone, known = (np.sqrt(np.diag(matrix)) for matrix in (covariance, posterior))
    return End(
        values_at(found.point),
        {c.name: float(size) for c, size in zip(free, known, strict=True)},
        {c.name: float(size) for c, size in zip(free, alone, strict=True)},
        found.noise,
        tuple(tuple(float(f"{x:.4g}") for x in row) for row in np.linalg.cholesky(posterior)),
        tuple(tuple(map(float, row)) for row in found.slopes),
    )


def between(value: float, deviation: float | None) -> tuple[float, float] | None:
    """The 90 % interval of something whose logarithm has this deviation."""
    if deviation is None:
        return None
    factor = math.exp(Z90 * deviation)
    return float(f"{value / factor:.6g}"), float(f"{value * factor:.6g}")


def share_of(deviation: float) -> float:
    """Half width of a 90 % interval, as a share, of something whose logarithm has this deviation."""
    return float(f"{math.expm1(Z90 * min(deviation, 4.0)):.3g}")
