"""Names and numbers as a reader wants them, and text from outside made harmless to show."""

from __future__ import annotations

import json
import math
import unicodedata

from kvplan.units import format_seconds

_WORDS = {
    "ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "kv": "KV", "gpu": "GPU", "queue": "queue wait",
    "slo": "SLO", "cuda": "CUDA", "nccl": "NCCL",
}  # fmt: skip

LATENCIES: dict[str, tuple[str, str]] = {
    "ttft_s": ("TTFT", "time to first token"),
    "tpot_s": ("TPOT", "time per output token"),
    "e2e_s": ("E2E", "arrival to last token"),
    "queue_s": ("Queue", "arrival to first scheduled"),
}
"""Short name and meaning of each latency of a result."""

_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn"))
"""Unicode categories: control, format (also bidirectional), surrogate, private use, unassigned."""

MAX_TEXT = 400
"""Longest text from outside that is shown in one place; the rest is cut, visibly."""


def plain(text: object, limit: int = MAX_TEXT) -> str:
    """Text from a file, on one line, without control, escape or direction-changing characters.

    They are replaced by U+FFFD rather than dropped, so that a forged name does not look like the real one.
    """
    shown = " ".join(str(text).split())
    shown = "".join("\ufffd" if unicodedata.category(ch) in _UNSAFE else ch for ch in shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def label(name: str) -> str:
    """``'kv_pool'`` -> ``'KV pool'``, ``'ttft_p99_s'`` -> ``'TTFT p99'``."""
    words = plain(name).removesuffix("_s").split("_")
    text = " ".join(_WORDS.get(word, word) for word in words if word)
    return text[:1].upper() + text[1:]


def count(value: int | float) -> str:
    """``12035118`` -> ``'12,035,118'``."""
    return f"{value:,.0f}"


def percent(ratio: float | None, digits: int = 1) -> str:
    """``0.3821`` -> ``'38.2%'``; ``None`` -> an en dash."""
    if ratio is None:
        return "–"
    shown = round(100 * ratio, digits)
    if shown in (0.0, 100.0) and ratio not in (0.0, 1.0):  # 99.98 % is not all, 0.02 % is not nothing
        return f"{'>' if shown else '<'} {100 - 10**-digits if shown else 10**-digits:.{digits}f}%"
    return f"{shown:.{digits}f}%"


def signed_percent(ratio: float) -> str:
    """``-0.3`` -> ``'−30%'`` with a true minus sign."""
    return f"{'−' if ratio < 0 else '+'}{abs(100 * ratio):.3g}%"


def seconds(value: float | None) -> str:
    """A duration with three significant digits; ``None`` -> an en dash."""
    return "–" if value is None else format_seconds(value)


def seconds_range(interval: tuple[float, float] | None) -> str:
    """``(0.0281, 0.041)`` -> ``'28.1–41.0 ms'``; the unit is said twice only where it differs."""
    if interval is None:
        return "–"
    low, high = (seconds(value) for value in interval)
    number, _, unit = low.rpartition(" ")
    return f"{number if unit == high.rpartition(' ')[2] else low}–{high}"


def decimal(value: float, digits: int = 3) -> str:
    """``digits`` significant digits grouped by thousands, no exponent: ``1234.5`` -> ``'1,234'``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def significant(value: float, digits: int = 4) -> float:
    """``value`` rounded to ``digits`` significant digits."""
    return float(f"{value:.{digits - 1}e}")


def value_text(value: object) -> str:
    """A scenario or assumption value: integers grouped, booleans as yes and no, text cleaned."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return plain(value)


def setting_text(value: object, limit: int = 80) -> str:
    """A value as a scenario file would hold it: ``lru``, ``1000``, ``[{tokens: 512}]``."""
    if isinstance(value, str):
        return plain(value, limit)
    return plain(json.dumps(value, ensure_ascii=False).replace('"', ""), limit)


def change_text(ratio: float) -> str:
    """``0.1`` -> ``'+10.0%'``; from ten times on as a factor: ``64.0`` -> ``'65 x'``."""
    if -1.0 < ratio <= -0.9995:  # what is left is not nothing
        return "< −99.9%"
    if 0 < abs(ratio) < 0.0005:
        return f"{'−' if ratio < 0 else '+'}< 0.1%"
    if ratio >= 9.0:
        return f"{decimal(1.0 + ratio, 2)} x"
    return f"{'−' if ratio < 0 else '+'}{abs(100 * ratio):,.1f}%"


def plural(number: int, noun: str) -> str:
    """``(1, 'request')`` -> ``'1 request'``; ``(2, 'request')`` -> ``'2 requests'``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sentence_list(parts: list[str]) -> str:
    """``['a', 'b', 'c']`` -> ``'a, b and c'``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def numbers_text(numbers: list[int]) -> str:
    """``[1, 2, 3, 5]`` -> ``'1 to 3 and 5'``; of two that follow each other both are said."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        text
        for run in runs
        for text in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))
    ]  # fmt: skip
    return sentence_list(parts)
