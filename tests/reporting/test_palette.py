"""The colours of charts can be seen: on either paper, and beside each other."""

from __future__ import annotations

import pytest

from kvplan.reporting.palette import DARK, LIGHT, Palette

LINE_CONTRAST = 3.0
"""WCAG 2.2, 1.4.11: of graphics against what is behind them."""


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2)."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", [f"c{number}" for number in range(1, 9)])
def test_lines_stand_out_from_the_paper(palette: Palette, name: str) -> None:
    assert contrast(palette[name], palette["paper"]) >= LINE_CONTRAST
    assert palette[name] not in [palette[f"c{number}"] for number in range(1, 9) if f"c{number}" != name]
