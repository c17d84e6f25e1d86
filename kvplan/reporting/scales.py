"""Where a value lies on an axis, and which round values are worth a tick; shared by every drawing."""

from __future__ import annotations

import math
from typing import Literal

from kvplan.reporting.figure import Axis, Figure, Mark
from kvplan.reporting.wording import decimal

NEAR_AXIS = 0.15
"""Share of an axis below which a label under a point would run into the ticks."""

LABEL_CHARACTER = 0.0105
"""Width of a letter of a label, as a share of the axis along which it is written."""


def label_place(mark: Mark, figure: Figure) -> tuple[bool, Literal["below", "beside", "above"]]:
    """Whether a point's label stands left of it, and how high: on the side away from the line.

    Charts of two logarithmic axes have falling lines: below on the left, above on the right. The others
    rise.
    """
    along = position(mark.x, figure.x)
    if not figure.y.log:
        return (True, "beside") if along > RISING_LEFT else (False, "below")
    wide = LABEL_CHARACTER * len(mark.name)
    if position(mark.y, figure.y) < NEAR_AXIS:
        return along + wide > 1, "above"
    return (True, "below") if along > wide else (False, "above")


RISING_LEFT = 0.38
"""From where on a label of a rising line has room on the left."""

Ticks = list[tuple[float, str]]


def bounds(axis: Axis) -> tuple[float, float]:
    """The ends of the axis as drawn: never empty; padded where data would touch the frame."""
    low, high = axis.low, axis.high
    if axis.log:
        # A zero never reaches a logarithmic axis; the floor only keeps a forged result from breaking it.
        low = max(low, 1e-12)
        high = max(high, low * 1.01)
        pad = 1.0 if axis.unit == "seconds" else 1.25
        return low / pad, high * pad
    if high <= low:
        high = low + 1
    if axis.unit == "count" and axis.low == 0:
        high *= 1.08
    if axis.unit == "percent":
        high *= 1.05
    return low, high


def position(value: float, axis: Axis) -> float:
    """How far along the axis a value lies: 0 at its low end, 1 at its high end, clipped."""
    low, high = bounds(axis)
    if axis.log:
        share = math.log(max(value, low) / low) / math.log(high / low)
    else:
        share = (value - low) / (high - low)
    return min(1.0, max(0.0, share))


def ticks(axis: Axis, most: int = 6) -> Ticks:
    """Round values inside the axis with their text, about ``most`` of them."""
    low, high = bounds(axis)
    if axis.names:
        return [(float(place), name) for place, name in enumerate(axis.names, 1) if low <= place <= high]
    if not axis.log:
        whole = axis.unit in ("point", "whole")
        return [(value, text_of(value, axis)) for value in _linear(low, high, most, whole=whole)]
    if axis.unit == "tokens":
        powers = range(math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9) + 1)
        step = max(1, math.ceil(len(powers) / 10))
        return [(2.0**p, text_of(2.0**p, axis)) for p in powers if p % step == 0]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    digits = (1, 2, 5) if span < 1.3 else (1, 3) if span < 2.6 else (1,)
    values = [digit * 10.0**decade for decade in decades for digit in digits]
    inside = [value for value in values if low <= value <= high * (1 + 1e-9)]
    if len(inside) < 2:
        inside = _linear(low, high, 4)
    return [(value, text_of(value, axis)) for value in inside]


def _linear(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def text_of(value: float, axis: Axis) -> str:
    """A tick's text: ``50%``, ``200 ms``, ``128k``, ``25k``."""
    if axis.unit == "percent":
        return f"{value * 100:.4g}%"
    if axis.unit == "seconds":
        for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= factor * 0.9999 or unit == "µs":
                return f"{value / factor:.4g} {unit}" if value else "0"
    if axis.unit == "tokens":
        for factor, unit in ((1 << 20, "M"), (1 << 10, "k")):
            if value >= factor and value % factor == 0:
                return f"{value / factor:.0f}{unit}"
    if axis.unit == "time":
        return f"{value:.6g}"
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if axis.high >= 10 * factor and value:
            return f"{value / factor:.4g}{unit}"
    return decimal(value, 4)
