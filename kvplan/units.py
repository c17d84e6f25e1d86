"""Bytes, tokens, durations and rates: the only place that knows what ``128k`` means.

Conventions (see ``design.md`` of the project's documentation and CONTRIBUTING.md):

* token counts: ``k``/``K``/``Ki`` = 1024, ``m``/``M``/``Mi`` = 1024**2, so ``128k`` is 131,072;
* bytes: SI and IEC prefixes differ, ``80GB`` is 80e9 and ``80GiB`` is 80 * 2**30;
* durations are float seconds; rates are per second.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation
from numbers import Integral

from kvplan.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

MAX_TOKENS = 1 << 40
"""Upper bound on a token count from outside: a petabyte-scale typo is refused, not computed."""

_NUMBER = re.compile(r"^\s*([0-9][0-9_,]*\.?[0-9]*|\.[0-9]+)\s*([a-zA-Zµ/%]*)\s*$")

_TOKEN_UNITS = {"": 1, "k": KIB, "ki": KIB, "m": MIB, "mi": MIB}

_BYTE_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB, "pib": 1 << 50,
}  # fmt: skip

_SECOND_UNITS = {
    "": Decimal(1), "s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"), "µs": Decimal("1e-6"),
    "ns": Decimal("1e-9"), "m": Decimal(60), "min": Decimal(60), "h": Decimal(3600), "d": Decimal(86400),
}  # fmt: skip

_RATE_UNITS = {
    "": 1.0, "/s": 1.0, "req/s": 1.0, "rps": 1.0, "/min": 1 / 60, "req/min": 1 / 60, "/h": 1 / 3600,
}  # fmt: skip


MAX_GPUS = 1 << 16
"""More than any deployment; a bound, so that arithmetic and searches stay small."""


def check_count(name: str, value: int, most: int = MAX_TOKENS, *, least: int = 1) -> int:
    """``value``, if it is a possible number of things.

    Raises:
        UsageError: no whole number, below ``least`` or above ``most``.
    """
    if not isinstance(value, Integral):  # numpy's are whole, too
        raise UsageError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise UsageError(f"{name} must be at least {least}, got {value}")
    if value > most:
        raise UsageError(f"{name} must be at most {most:,}, got {value}")
    return value


def _split(text: str, what: str, example: str) -> tuple[Decimal, str]:
    match = _NUMBER.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not {what}", hint=f"write it like {example}")
    try:
        return Decimal(match.group(1).replace("_", "").replace(",", "")), match.group(2)
    except InvalidOperation as exc:  # pragma: no cover - the pattern admits only numbers
        raise UsageError(f"{text!r} is not {what}", hint=f"write it like {example}") from exc


def parse_tokens(text: str | int) -> int:
    """A positive token count: ``131072``, ``128k``, ``1m`` (k = 1024).

    Raises:
        UsageError: not a number, an unknown suffix, not whole, below 1 or above ``MAX_TOKENS``.
    """
    example = "131072, 128k or 1m (k = 1024)"
    if isinstance(text, bool):
        raise UsageError(f"{text!r} is not a token count", hint=f"write it like {example}")
    if isinstance(text, int):
        count = Decimal(text)
    else:
        number, unit = _split(text, "a token count", example)
        factor = _TOKEN_UNITS.get(unit.lower())
        if factor is None:
            raise UsageError(f"unknown token suffix {unit!r} in {text!r}", hint=f"write it like {example}")
        count = number * factor
    if count != count.to_integral_value():
        raise UsageError(f"{text!r} is not a whole number of tokens", hint=f"write it like {example}")
    if not 1 <= count <= MAX_TOKENS:
        raise UsageError(f"token count {text!r} must be between 1 and {MAX_TOKENS:,}")
    return int(count)


def parse_bytes(text: str | int) -> int:
    """A byte count: ``80GiB`` (2**30), ``80GB`` (1e9), ``1024``.

    Raises:
        UsageError: not a number, an unknown or ambiguous suffix, or negative.
    """
    example = "80GiB, 80GB or 1073741824"
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise UsageError(f"{text} bytes is negative")
        return text
    number, unit = _split(str(text), "a size in bytes", example)
    factor = _BYTE_UNITS.get(unit.lower())
    if factor is None:
        hint = f"write it like {example}"
        if unit.lower() in {"k", "m", "g", "t"}:
            hint = f"say {unit.upper()}B (powers of ten) or {unit.upper()}iB (powers of two)"
        raise UsageError(f"unknown size unit {unit!r} in {text!r}", hint=hint)
    return int(number * factor)


def parse_seconds(text: str | float) -> float:
    """A duration in seconds: ``1.5``, ``200ms``, ``2min``."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        value = float(text)
        if not math.isfinite(value) or value < 0:
            raise UsageError(f"{text!r} is not a duration", hint="write it like 2.0, 200ms or 5min")
        return value
    number, unit = _split(str(text), "a duration", "2.0, 200ms or 5min")
    factor = _SECOND_UNITS.get(unit.lower())
    if factor is None:
        raise UsageError(f"unknown time unit {unit!r} in {text!r}", hint="write it like 2.0, 200ms or 5min")
    return float(number * factor)


def parse_rate(text: str | float) -> float:
    """A rate per second: ``20``, ``20req/s``, ``300/min``."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        value = float(text)
    else:
        number, unit = _split(str(text), "a rate", "20, 20req/s or 300/min")
        if unit.lower() not in _RATE_UNITS:
            raise UsageError(f"unknown rate unit {unit!r} in {text!r}", hint="write it like 20req/s")
        value = float(number) * _RATE_UNITS[unit.lower()]
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"rate {text!r} must be positive")
    return value


def format_bytes(count: int | float) -> str:
    """``42949672960`` -> ``'40.00 GiB'``; whole bytes below 1 KiB."""
    sign, size = ("-", -count) if count < 0 else ("", count)
    if size < KIB:
        return f"{sign}{int(size)} B"
    for factor, unit in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= factor:
            return f"{sign}{size / factor:,.2f} {unit}"
    raise AssertionError("unreachable")


def format_tokens(count: int) -> str:
    """``131072`` -> ``'131,072'``."""
    return f"{count:,}"


def format_seconds(seconds: float) -> str:
    """Three significant digits with a fitting unit: ``0.0123`` -> ``'12.3 ms'``."""
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds == 0:
        return "0 s"
    # Rounded first: 0.9996 s is 1.00 s, and not 1000 ms.
    rounded = [(float(f"{seconds / each:.2e}"), below, unit) for below, each, unit in _TIMES]
    value, _, unit = next(item for item in rounded if abs(item[0]) < item[1])
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f} {unit}"


_TIMES = (
    (1000, 1e-9, "ns"), (1000, 1e-6, "µs"), (1000, 1e-3, "ms"), (120, 1, "s"), (120, 60, "min"),
    (math.inf, 3600, "h"),
)  # fmt: skip
"""Numbers of a unit below which it is used, its seconds and its name."""


def currency_name(text: str) -> str:
    """A currency as prices name it, which is none of ours to know.

    Raises:
        ValueError: not one word of at most 8 letters.
    """
    if not text.isalpha() or len(text) > 8:
        raise ValueError("a currency is one word of at most 8 letters: USD")
    return text
