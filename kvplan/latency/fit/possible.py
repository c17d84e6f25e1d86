"""Whether a GPU can have computed what tables say: below its peak, and in the unit that they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kvplan.errors import DataError
from kvplan.latency.fit.solve import Array
from kvplan.latency.fit.tables import Family
from kvplan.latency.table_formats import canonical, multiplication

L2_MULTIPLE = 3.0
"""KV of this many times the L2 cannot come from it, so its rate must stay below the memory's."""
SLOWEST_RATE = 0.004
"""Share of it that any kernel reaches at large KV: the slowest of an engine's reach some per cent."""
MAX_RATE = 1.05
"""Share of the datasheet bandwidth above which no call can be, but for noise."""
FAR_RATE = 1.25
"""The same beyond what noise explains."""
MAX_FAST, MAX_FAR = 0.25, 0.02
"""Shares of a family's large calls above these rates from which it is refused; a few are noise."""
LARGE_S = 2e-4
"""Work that takes so long at the peak is bounded by arithmetic in every kernel."""


def believable(
    families: Sequence[Family],
    bandwidth_bytes_per_s: float,
    l2_bytes: float,
    peak_flops: Mapping[Any, float],
) -> tuple[list[Family], list[str]]:
    """The families of tables that a GPU can have measured, and notes about the others.

    A table of which at least half of what can be judged is impossible is left out whole, as nothing in it can
    then be trusted; else only what is impossible.

    Raises:
        DataError: no table is one; why the first is not.
    """
    notes: list[str] = []
    refused: list[tuple[Family, DataError]] = []
    judged: Counter[str] = Counter()
    for family in families:
        rates = memory_rates(family, bandwidth_bytes_per_s, l2_bytes), arithmetic_rates(family, peak_flops)
        judged[family.source] += any(rate.size for rate in rates)
        try:
            notes += check_rates([family], bandwidth_bytes_per_s, l2_bytes)
            check_arithmetic(family, peak_flops)
        except DataError as exc:
            refused.append((family, exc))
    wrong = Counter(family.source for family, _ in refused)
    whole = {source for source, count in wrong.items() if 2 * count >= judged[source]}
    impossible = [family for family, _ in refused]
    kept = [
        family for family in families
        if family.source not in whole and not any(family is other for other in impossible)
    ]  # fmt: skip
    if refused and not kept:
        raise refused[0][1]
    said = [
        f"left out: {family.source}: {exc.message}; {exc.hint}" for family, exc in refused
        if family.source not in whole
    ]  # fmt: skip
    first = {family.source: exc for family, exc in reversed(refused)}
    said += [f"left out: {source}: {first[source].message}; {first[source].hint}" for source in sorted(whole)]
    return kept, notes + said


def memory_rates(family: Family, bandwidth_bytes_per_s: float, l2_bytes: float) -> Array:
    """Shares of the memory bandwidth at which decode attention read large KV; none of other ops."""
    if family.op not in ("generation_attention", "mla_generation"):
        return np.empty(0)
    s = family.shapes
    seen = np.where(s["window"] > 0, np.minimum(s["ctx"], s["window"]), s["ctx"])
    kv = 2.0 * s["batch"] * s["kv_heads"] * seen * s["head_dim"] * s["kv_element_bytes"]
    return np.asarray((kv / family.seconds)[kv > L2_MULTIPLE * l2_bytes] / bandwidth_bytes_per_s)


def check_rates(families: Iterable[Family], bandwidth_bytes_per_s: float, l2_bytes: float) -> list[str]:
    """Refuse decode tables that read KV faster than memory delivers it, or so slowly that no kernel does.

    Returns:
        Notes about single calls that are faster.

    Raises:
        DataError: naming the table and the rate it implies.
    """
    notes = []
    for family in families:
        rate = memory_rates(family, bandwidth_bytes_per_s, l2_bytes)
        _refuse_slow(family, rate, "memory bandwidth")
        fast, far = _beyond(rate)
        if fast > MAX_FAST * rate.size or far > MAX_FAR * rate.size:
            raise DataError(
                f"{family.title} implies {rate.max():.0%} of the memory bandwidth of {family.device}",
                where=family.source,
                hint="these are no times of whole calls (known of some collector versions): leave it out",
            )
        if fast:
            notes.append(
                f"{family.title}: {fast:,} of {rate.size:,} large calls are faster than the memory of "
                f"{family.device} (up to {rate.max():.0%}): taken for noise"
            )
    return notes


def arithmetic_rates(family: Family, peak_flops: Mapping[Any, float]) -> Array:
    """Shares of the peak that large multiplications and prompt attention reached; none of other ops."""
    work, peak = _flops(family), peak_flops.get(computes_in(family, peak_flops))
    if work is None or peak is None:
        return np.empty(0)
    return np.asarray((work / family.seconds)[work > LARGE_S * peak] / peak)


def check_arithmetic(family: Family, peak_flops: Mapping[Any, float]) -> None:
    """Refuse multiplications and prompt attention above the peak, or far below what any kernel reaches.

    Args:
        peak_flops: of the GPU by number format; what needs one it does not say is not looked at.

    Raises:
        DataError: naming the table and what it implies.
    """
    rate = arithmetic_rates(family, peak_flops)
    _refuse_slow(family, rate, "peak arithmetic")
    fast, far = _beyond(rate)
    if fast > MAX_FAST * rate.size and far > MAX_FAR * rate.size:
        raise DataError(
            f"{family.title} implies {rate.max():.0%} of the peak arithmetic of {family.device}",
            where=family.source,
            hint="another GPU was measured, or latencies are in another unit than milliseconds",
        )


def _refuse_slow(family: Family, rates: Array, peak: str) -> None:
    if rates.size and rates.max() < SLOWEST_RATE:
        raise DataError(
            f"{family.title} reaches {rates.max():.2%} of the {peak} of {family.device} at best",
            where=family.source,
            hint="the column latency is in milliseconds; call it latency_us where it is not",
        )


def _beyond(rates: Array) -> tuple[int, int]:
    """How many are above a peak, and how many far above it."""
    return int((rates > MAX_RATE).sum()), int((rates > FAR_RATE).sum())


def computes_in(family: Family, peak_flops: Mapping[Any, float]) -> str:
    """The peak that bounds a kernel's arithmetic, by the format that its table says.

    Tables name the format of queries, which some kernels narrow to that of the cache before they multiply:
    times that the 16-bit peak does not allow, over a cache of fewer bits, are of those.
    """
    if family.op == "gemm":
        found = multiplication(family.labels.get("gemm_dtype", ""))
        return "" if found is None else found.peak
    computes = family.labels.get("attn_dtype", family.labels.get("mla_dtype", "bfloat16"))
    if canonical(computes) != "bfloat16":
        form = multiplication(computes)
        return form.peak if form is not None else "bf16"
    work, peak = _flops(family), peak_flops.get("bf16")
    if work is None or peak is None or canonical(family.labels.get("kv_cache_dtype", "auto")) != "fp8":
        return "bf16"
    rate = (work / family.seconds)[work > LARGE_S * peak] / peak
    return "fp8" if "fp8" in peak_flops and np.sum(rate > MAX_RATE) > MAX_FAR * rate.size else "bf16"


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
