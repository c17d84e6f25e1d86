"""Whether a GPU can have computed what tables say: below its peak, and in the unit that they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvplan.errors import DataError
from kvplan.latency.fit.solve import Array
from kvplan.latency.fit.tables import FAR_RATE, MAX_FAR, MAX_FAST, MAX_RATE, SLOWEST_RATE, Family, check_rates
from kvplan.latency.table_formats import canonical, multiplication

LARGE_S = 2e-4
"""Work that takes so long at the peak is bounded by arithmetic in every kernel."""


def believable(
    families: Sequence[Family],
    bandwidth_bytes_per_s: float,
    l2_bytes: float,
    peak_flops: Mapping[Any, float],
) -> tuple[list[Family], list[str]]:
    """The families of tables that a GPU can have measured, and notes about the others.

    Raises:
        DataError: no table is one; why the first is not.
    """
    notes: list[str] = []
    refused: dict[str, DataError] = {}
    for family in families:
        try:
            notes += check_rates([family], bandwidth_bytes_per_s, l2_bytes)
            check_arithmetic(family, peak_flops)
        except DataError as exc:
            refused.setdefault(family.source, exc)
    kept = [family for family in families if family.source not in refused]
    if refused and not kept:
        raise next(iter(refused.values()))
    return kept, notes + [f"left out: {path}: {exc.message}; {exc.hint}" for path, exc in refused.items()]


def check_arithmetic(family: Family, peak_flops: Mapping[Any, float]) -> None:
    """Refuse multiplications and prompt attention above the peak, or far below what any kernel reaches.

    Args:
        peak_flops: of the GPU by number format; what needs one it does not say is not looked at.

    Raises:
        DataError: naming the table and what it implies.
    """
    work, peak = _flops(family), peak_flops.get(_format(family))
    if work is None or peak is None:
        return
    large = work > LARGE_S * peak
    rate = (work / family.seconds)[large] / peak
    if not rate.size:
        return
    if rate.max() < SLOWEST_RATE:
        raise DataError(
            f"{family.title} reaches {rate.max():.2%} of the peak arithmetic of {family.device} at best",
            where=family.source,
            hint="the column latency is in milliseconds; call it latency_us where it is not",
        )
    fast, far = int((rate > MAX_RATE).sum()), int((rate > FAR_RATE).sum())
    if fast > MAX_FAST * rate.size and far > MAX_FAR * rate.size:
        raise DataError(
            f"{family.title} implies {rate.max():.0%} of the peak arithmetic of {family.device}",
            where=family.source,
            hint="another GPU was measured, or latencies are in another unit than milliseconds",
        )


def _flops(family: Family) -> Array | None:
    """Of every call; None for kernels that are not bounded by it."""
    shapes = family.shapes
    if family.op == "gemm":
        return np.asarray(2.0 * shapes["m"] * shapes["n"] * shapes["k"])
    if family.op in ("context_attention", "mla_context"):
        before, window = shapes["before"], shapes["window"]
        window = np.where(window > 0, window, np.inf)
        pairs = _pairs_until(before + shapes["new"], window) - _pairs_until(before, window)
        return np.asarray(4.0 * shapes["batch"] * shapes["q_heads"] * shapes["head_dim"] * pairs)
    return None


def _pairs_until(tokens: Array, window: Array) -> Array:
    """Pairs of queries and keys of a sequence's first ``tokens``, each of which sees up to ``window``."""
    seen = np.minimum(tokens, window)
    return np.asarray(seen * (tokens - seen / 2.0))


def _format(family: Family) -> str:
    """The number format whose peak bounds it."""
    if family.op == "gemm":
        found = multiplication(family.labels.get("gemm_dtype", ""))
        return "" if found is None else found.peak
    computes = family.labels.get("attn_dtype", family.labels.get("mla_dtype", "bfloat16"))
    return "fp8" if canonical(computes) == "fp8" else "bf16"
