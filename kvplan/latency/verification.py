"""Decode attention for several tokens of a request, drafts among them.

The fitted kernels decode one token of a request. What verifies a few reads the same cache for more rows, so
it is counted as that many more query heads, times what measurements of such calls took beyond that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from kvplan.latency.assumption import Assumption
from kvplan.latency.measured_set import interpolated

if TYPE_CHECKING:
    from kvplan.latency.fit.measured_part import VerifyPart

NAME = "latency.verification"


@dataclass(frozen=True, slots=True)
class Verification:
    """Of one kernel and a number of tokens.

    Attributes:
        factor: on the time of as many more query heads. deviation: of its logarithm, from shape to shape.
        measured: with this format. assumption: what stands in for a measurement; None where nothing does.
    """

    factor: float = 1.0
    deviation: float = 0.0
    measured: bool = False
    assumption: Assumption | None = None


def verification(tokens: int, own: VerifyPart | None, others: Iterable[VerifyPart]) -> Verification:
    """What is known of calls with ``tokens`` tokens of each request.

    Args:
        own: of this cache format. others: of other formats of the same kind of cache.
    """
    if tokens == 1:
        return Verification()
    if own is not None:
        beyond = tokens > max(map(int, own.factors))
        why = "not measured: as with the most tokens that were" if beyond else ""
        return _found(tokens, [own], measured=True, why=why)
    parts = list(others)
    if parts:
        return _found(tokens, parts, measured=False, why="measured with other cache formats")
    return Verification(
        assumption=Assumption(NAME, tokens, "not measured: tokens of a request counted as query heads")
    )


def _found(tokens: int, parts: list[VerifyPart], *, measured: bool, why: str) -> Verification:
    logs = [
        math.log(interpolated([(1, 1.0), *sorted((int(n), f) for n, f in part.factors.items())], tokens))
        for part in parts
    ]
    return Verification(
        math.exp(fmean(logs)), max(part.deviation for part in parts), measured,
        Assumption(NAME, tokens, why) if why else None,
    )  # fmt: skip
