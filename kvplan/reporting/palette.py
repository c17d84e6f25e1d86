"""The colours of reports, by name and theme.

Lines use the palette of Okabe and Ito (2008), which stays distinct for the common kinds of colour blindness,
darkened on light paper and lightened on dark where a thin line or text needs the contrast; a violet stands
for its sky blue, which would be another blue where it is dark enough to be seen. ``c1`` to ``c6`` are lines,
``f1`` to ``f6`` the same as see-through areas, ``c7`` and ``c8`` for a bar that has more parts.
"""

from __future__ import annotations

Palette = dict[str, str]


def _with_fills(colours: Palette) -> Palette:
    return colours | {f"f{n}": f"{colours[f'c{n}']}38" for n in range(1, 7)}


LIGHT = _with_fills({
    "paper": "#fcfbf8", "raised": "#f4f2ec", "ink": "#17191c", "soft": "#5a6067", "grid": "#e7e4dc",
    "rule": "#c9c5ba", "rule-strong": "#6b6f73", "quiet": "#d9d5cb", "link": "#00598c",
    "good": "#00694a", "bad": "#a83a06", "warn": "#7d5a00",
    "c1": "#0072b2", "c2": "#d55e00", "c3": "#009e73", "c4": "#b4578f", "c5": "#b97f00", "c6": "#6f42d8",
    "c7": "#6b3e26", "c8": "#7d8b99",
})  # fmt: skip

DARK = _with_fills({
    "paper": "#14171a", "raised": "#1c2024", "ink": "#e8e5de", "soft": "#a2a8af", "grid": "#282d32",
    "rule": "#3d444b", "rule-strong": "#9aa1a9", "quiet": "#41484f", "link": "#7cc4f0",
    "good": "#35c796", "bad": "#f28f52", "warn": "#e6b422",
    "c1": "#56b4e9", "c2": "#ec8a45", "c3": "#2fb98d", "c4": "#d991b8", "c5": "#e6b422", "c6": "#a98bff",
    "c7": "#c49a7a", "c8": "#7d8b99",
})  # fmt: skip


def declarations(palette: Palette) -> str:
    """The palette as CSS custom properties."""
    return ";".join(f"--{name}:{value}" for name, value in palette.items())
