"""How collectors deal tokens to experts: what the timed rank has of each distribution they name.

====================  ==================================================================================
``balanced``          every expert as many tokens as any other, as far as whole tokens go
``uniform``           every expert equally likely, drawn token by token
``power_law_A``       popularities drawn from ``p(x) ~ x^-A``, rounded to whole tokens; the rank with the
                      most is timed
====================  ==================================================================================

Popularities of a power law lie between 1 and 0.8 of the tokens where experts outnumber no assignments, else
between 0.01 and 2. Their coefficient of variation is the skew that ``kvplan.latency.routing`` says the
heaviest rank's assignments with. Tokens are not drawn from them but rounded, so the experts touched are those
whose share is half a token at least, and idle ones that the rounding's remainder is given to.
"""

from __future__ import annotations

import math

import numpy as np

from kvplan.latency.fit.solve import Array
from kvplan.latency.routing import Routing

BALANCED, UNIFORM, POWER_LAW = "balanced", "uniform", "power_law_"
_QUANTILES = (np.arange(512) + 0.5) / 512.0


def known(distribution: str) -> bool:
    """Whether ``dealt`` can say what this name means."""
    if distribution in (BALANCED, UNIFORM):
        return True
    try:
        return distribution.startswith(POWER_LAW) and 0.0 < float(distribution.removeprefix(POWER_LAW)) < 5.0
    except ValueError:
        return False


def dealt(distribution: str, tokens: float, experts: int, chosen: int, ranks: int) -> tuple[float, float]:
    """(experts touched, assignments of tokens to experts) of the rank that is timed.

    Args:
        tokens: of all ranks together.
        chosen: experts of a token.
    """
    even = Routing(experts, chosen, ranks, 0.0)
    mean = even.mean(tokens)
    if distribution == BALANCED:
        return min(float(even.held), max(mean, 1.0)), mean
    if distribution == UNIFORM:
        return even.touched(tokens), mean
    low, high = (1.0, 0.8 * tokens) if tokens * chosen > experts else (0.01, 2.0)
    if high <= low:
        return min(float(even.held), mean), mean
    popularity = _popularity(float(distribution.removeprefix(POWER_LAW)), low, high)
    skew = float(popularity.std() / popularity.mean())
    most = tokens * min(chosen, even.held)
    assignments = min(Routing(experts, chosen, ranks, skew).heaviest(tokens), most)
    shares = assignments / even.held * popularity / popularity.mean()
    whole = np.minimum(np.round(shares), tokens)
    touched = float(np.mean(whole > 0) + max(np.mean(shares - whole), 0.0))
    return min(even.held * min(touched, 1.0), assignments), assignments


def _popularity(exponent: float, low: float, high: float) -> Array:
    """Quantiles of the power law between ``low`` and ``high``."""
    power = 1.0 - exponent
    if abs(power) < 1e-6:
        return np.asarray(low * np.exp(_QUANTILES * math.log(high / low)))
    ends = low**power, high**power
    return np.asarray((ends[0] + (ends[1] - ends[0]) * _QUANTILES) ** (1.0 / power))
