"""Static drawings of the figures: what a page shows before (or without) its script, on paper, and beside
Markdown. Text and lines take their colours from CSS variables; a standalone file brings its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kvplan.reporting.figure import Axis, Figure, Line, Mark, Rule, Segment
from kvplan.reporting.palette import DARK, LIGHT, declarations
from kvplan.reporting.scales import bounds, label_place, position, ticks
from kvplan.reporting.series import thin

LEFT, RIGHT, TOP, BOTTOM = 56, 16, 40, 44
TITLE_X = 12
"""Where the title of the y axis begins."""

CHARACTER = 6.3
"""Estimated width of a character at 12 px, for legends and for keeping labels inside."""

LEGEND_ROW = 18
"""Pixels from one row of a legend to the next."""

LINE_POINTS = 400
"""A drawing is a few hundred pixels wide: more points than this only cost bytes."""


def label_room(labels: int, width: int = 720) -> int:
    """Characters of each of so many labels along the x axis."""
    return int((width - LEFT - RIGHT) / labels / CHARACTER) - 1


def render(figure: Figure, *, width: int = 720, height: int = 300, standalone: bool = False) -> str:
    """The figure as one ``<svg>`` element, or as a file of its own when ``standalone``.

    The text is the title of the image and its summary the description, for screen readers.
    """
    height = (
        _bar_height(figure, width) if figure.segments else height + LEGEND_ROW * len(_rows(figure, width))
    )
    body = _bar(figure, width) if figure.segments else _plot(figure, width, height)
    name = figure.key if standalone else f"svg-{figure.key}"
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    style = f"<style>{_STYLE}</style>" if standalone else ""
    return (
        f'<svg{namespace} class="drawing" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(figure.title)}</title>'
        f'<desc id="{name}-desc">{escape(figure.summary)}</desc>{style}{body}</svg>\n'
    )


_STYLE = (
    f"svg{{{declarations(LIGHT)};background:var(--paper);font-family:system-ui,sans-serif}}"
    f"@media(prefers-color-scheme:dark){{svg{{{declarations(DARK)}}}}}"
)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "soft") -> str:
    return (
        f'<text x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}" '
        f'style="fill:var(--{fill});font-size:12px">{escape(text)}</text>'
    )


def _colour(number: int) -> str:
    return f"c{number}" if number else "ink"


class _Frame:
    """The rectangle data is drawn in, and the two axes' way into it."""

    def __init__(self, figure: Figure, width: int, height: int) -> None:
        self.figure = figure
        self.rows = _rows(figure, width)
        self.left, self.right = LEFT, width - RIGHT
        self.top, self.bottom = TOP + LEGEND_ROW * len(self.rows), height - BOTTOM

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * position(value, self.figure.x)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * position(value, self.figure.y)


def _plot(figure: Figure, width: int, height: int) -> str:
    frame = _Frame(figure, width, height)
    parts = [_axes(frame), _legend(frame)]
    drawn = [_points(line, frame) for line in figure.lines]
    for index, line in enumerate(figure.lines):
        if line.fill:
            parts.append(
                _area(line, drawn[index], drawn[index - 1] if line.fill == "previous" else [], frame)
            )
    parts += [_rule(rule, frame) for rule in figure.rules]
    parts += [_path(line, points) for line, points in zip(figure.lines, drawn, strict=True)]
    parts += [_mark(mark, frame) for mark in figure.marks]
    return "".join(parts)


def _axes(frame: _Frame) -> str:
    figure, parts = frame.figure, []
    for value, text in ticks(figure.y):
        y = _number(frame.y(value))
        parts.append(f'<path d="M{frame.left} {y}H{frame.right}" style="stroke:var(--grid)"/>')
        parts.append(_text(frame.left - 8, frame.y(value) + 4, text, anchor="end"))
    parts.append(f'<path d="M{frame.left} {frame.bottom}H{frame.right}" style="stroke:var(--rule)"/>')
    end = -1e9
    for value, text in ticks(figure.x):
        x, half = frame.x(value), len(text) * CHARACTER / 2
        parts.append(f'<path d="M{_number(x)} {frame.bottom}v4" style="stroke:var(--rule)"/>')
        if x - half > end + 4:  # leave a label out rather than print it over its neighbour
            parts.append(_text(x, frame.bottom + 18, text, anchor="middle"))
            end = x + half
    above = 26 if figure.x.unit == "seconds" else 16  # leave the row below to the labels of limits
    parts.append(_text(TITLE_X, frame.top - above, figure.y.title))
    parts.append(_text((frame.left + frame.right) / 2, frame.bottom + 38, figure.x.title, anchor="middle"))
    return "".join(parts)


def _entry(line: Line) -> float:
    """Pixels of a line's entry in the legend, with the gap behind it."""
    return len(line.name) * CHARACTER + 40


def _rows(figure: Figure, width: int) -> list[list[Line]]:
    """The legend's rows where it has no room beside the axis' title; none where it has."""
    lines, room = figure.lines, width - RIGHT - TITLE_X
    if len(lines) < 2 or len(figure.y.title) * CHARACTER + sum(map(_entry, lines)) <= room:
        return []
    rows: list[list[Line]] = [[]]
    for line in lines:
        if rows[-1] and sum(map(_entry, [*rows[-1], line])) > room:
            rows.append([])
        rows[-1].append(line)
    return rows


def _legend(frame: _Frame) -> str:
    lines, parts = frame.figure.lines, []
    if len(lines) < 2:
        return ""
    beside = frame.right - sum(map(_entry, lines)) + 12
    for row, members in enumerate(frame.rows or [lines]):
        x, y = (TITLE_X, 14 + LEGEND_ROW * row) if frame.rows else (beside, frame.top - 20)
        for line in members:
            parts.append(_path(line, [(x, y), (x + 20, y)], marker_at=(x + 10, y)))
            parts.append(_text(x + 25, y + 4, line.name, fill="ink"))
            x += _entry(line)
    return "".join(parts)


Point = tuple[float, float]


def _points(line: Line, frame: _Frame) -> list[Point | None]:
    x, y = line.x, line.y
    if None not in y:
        known = [value for value in y if value is not None]
        x, thinned = thin(x, known, LINE_POINTS)
        y = list(thinned)
    return [None if b is None else (frame.x(a), frame.y(b)) for a, b in zip(x, y, strict=True)]


def _trail(points: Sequence[Point | None]) -> str:
    """Path data; a gap lifts the pen."""
    parts, down = [], False
    for point in points:
        if point is None:
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{_number(point[0])} {_number(point[1])}")
        down = True
    return "".join(parts)


def _path(line: Line, points: Sequence[Point | None], marker_at: Point | None = None) -> str:
    dash = ";stroke-dasharray:5 4" if line.dashed else ""
    width = 2.5 if line.heavy else 1.0 if line.faint else 1.75
    colour = "c8" if line.faint else _colour(line.colour)
    text = (
        ""
        if not line.joined
        else (
            f'<path d="{_trail(points)}" style="fill:none;stroke:var(--{colour});stroke-width:{width};'
            f'stroke-linejoin:round{dash}"/>'
        )
    )
    if line.symbol:
        at = [marker_at] if marker_at else [point for point in points if point]
        text += "".join(_shape(line.symbol, x, y, 2.5 if line.faint else 3.5, colour) for x, y in at)
    return text


def _area(line: Line, top: Sequence[Point | None], below: Sequence[Point | None], frame: _Frame) -> str:
    over = [point for point in top if point]
    under = [point for point in below if point]
    if not over:
        return ""
    if not under:
        under = [(over[0][0], frame.bottom), (over[-1][0], frame.bottom)]
    return f'<path d="{_trail([*over, *reversed(under)])}Z" style="fill:var(--c{line.colour});opacity:.22"/>'


def _shape(symbol: str, x: float, y: float, size: float, colour: str, outline: bool = False) -> str:
    style = f'style="fill:var(--{colour})' + (';stroke:var(--paper);stroke-width:1.5"' if outline else '"')
    if symbol == "circle":
        return f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(size)}" {style}/>'
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "triangle-up": ((0, -1.2), (1.2, 0.9), (-1.2, 0.9)),
        "cross": (
            (-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2),
            (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4),
        ),
    }[symbol]  # fmt: skip
    data = _trail([(x + dx * size, y + dy * size) for dx, dy in corners])
    return f'<path d="{data}Z" {style}/>'


def _rule(rule: Rule, frame: _Frame) -> str:
    colour = "rule-strong" if rule.passed is None else "good" if rule.passed else "bad"
    style = f'style="stroke:var(--{colour});stroke-width:1.5;stroke-dasharray:2 3"'
    if rule.across == "x":
        x = frame.x(rule.value)
        share = position(rule.value, frame.figure.x)
        anchor = "start" if share < 0.25 else "end" if share > 0.75 else "middle"
        at = _text(x, frame.top - 6, rule.name, anchor=anchor, fill=colour)
        return f'<path d="M{_number(x)} {frame.top}V{frame.bottom}" {style}/>{at}'
    y = frame.y(rule.value)
    at = _text(frame.right, y - 5, rule.name, anchor="end", fill=colour)
    return f'<path d="M{frame.left} {_number(y)}H{frame.right}" {style}/>{at}'


def _mark(mark: Mark, frame: _Frame) -> str:
    x, y = frame.x(mark.x), frame.y(mark.y)
    size, colour = (6, 0) if frame.figure.y.log else (4.5, mark.colour)
    shape = _shape(mark.symbol, x, y, size, _colour(colour), outline=True)
    left, height = label_place(mark, frame.figure)
    drop = {"below": 18, "beside": 0, "above": -10}[height]
    side, anchor = (-8, "end") if left else (8, "start")
    return shape + _text(x + side, y + drop, mark.name, anchor=anchor, fill="ink")


BAR_TOP, BAR_HEIGHT = 4, 44


def _keys(figure: Figure, width: int) -> list[tuple[float, float, Segment]]:
    """Where each key of a bar goes: left to right, wrapped."""
    placed, x, y = [], 8.0, float(BAR_TOP + BAR_HEIGHT + 46)
    for segment in figure.segments:
        wide = len(_key_text(segment)) * CHARACTER + 34
        if x > 8 and x + wide > width:
            x, y = 8.0, y + 20
        placed.append((x, y, segment))
        x += wide
    return placed


def _key_text(segment: Segment) -> str:
    return f"{segment.name} {segment.shown}"


def _bar_height(figure: Figure, width: int) -> int:
    return int(_keys(figure, width)[-1][1]) + 12


def _bar(figure: Figure, width: int) -> str:
    axis = Axis(figure.x.title, figure.x.unit, figure.x.low, figure.x.high)
    low, high = bounds(axis)
    left, right = 8, width - 24
    parts, x = [], float(left)
    for segment in figure.segments:
        wide = segment.value / (high - low) * (right - left)
        fill = "quiet" if segment.quiet else _colour(segment.colour)
        parts.append(
            f'<rect x="{_number(x)}" y="{BAR_TOP}" width="{_number(wide)}" height="{BAR_HEIGHT}" '
            f'style="fill:var(--{fill});stroke:var(--paper);stroke-width:1.5"/>'
        )
        x += wide
    base = BAR_TOP + BAR_HEIGHT
    for value, text in ticks(axis, 8):
        at = left + position(value, axis) * (right - left)
        parts.append(f'<path d="M{_number(at)} {base + 2}v4" style="stroke:var(--rule)"/>')
        text = f"{text} {figure.x.title}" if value == 0 else text
        parts.append(_text(at, base + 19, text, anchor="start" if value == 0 else "middle"))
    for at, y, segment in _keys(figure, width):
        fill = "quiet" if segment.quiet else _colour(segment.colour)
        parts.append(
            f'<rect x="{_number(at)}" y="{_number(y - 10)}" width="11" height="11" '
            f'style="fill:var(--{fill})"/>'
        )
        parts.append(_text(at + 16, y, _key_text(segment), fill="ink"))
    return "".join(parts)
