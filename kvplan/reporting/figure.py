"""What one chart shows, before anyone decides how to draw it.

``charts.py`` turns a :class:`Figure` into an interactive chart, ``svg.py`` into a drawing; both show the same
thing because both read this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["seconds", "percent", "count", "tokens", "GiB", "time", "point", "whole"]
"""``whole``: things of which there is no half."""
Symbol = Literal["circle", "square", "diamond", "triangle-up", "cross"]
SYMBOLS: tuple[Symbol, ...] = ("circle", "square", "diamond", "triangle-up", "cross")

COLOURS = 6
"""Distinct line colours; the palette itself (Okabe and Ito 2008) is in the templates, a name a theme."""


@dataclass(frozen=True, slots=True)
class Axis:
    """``title`` in words with its unit; ``low``/``high`` are the ends, in the unit of the data.

    ``names``: what stands at 1, 2, ... of things that are no numbers.
    """

    title: str
    unit: Unit
    low: float
    high: float
    log: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``colour`` counts from 1; ``None`` in ``y`` is a gap; ``fill`` shades down to zero
    or to the line before this one; what is not ``joined`` is points only; what is ``faint`` is grey and
    thin, as it stands behind the others."""

    name: str
    x: list[float]
    y: list[float | None]
    colour: int
    symbol: Symbol | None = None
    dashed: bool = False
    heavy: bool = False
    faint: bool = False
    joined: bool = True
    fill: Literal["zero", "previous"] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line across the chart at ``value`` of the axis ``across``."""

    across: Literal["x", "y"]
    value: float
    name: str
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """One labelled point."""

    x: float
    y: float
    name: str
    colour: int
    symbol: Symbol


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a stacked bar, in the unit of the x axis; ``shown`` is the value in the key."""

    name: str
    value: float
    colour: int
    shown: str
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart: either lines with rules and marks, or one stacked bar of segments."""

    key: str
    title: str
    summary: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...] = ()
    rules: tuple[Rule, ...] = ()
    marks: tuple[Mark, ...] = ()
    segments: tuple[Segment, ...] = ()
