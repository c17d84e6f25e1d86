"""Time series cut to what a chart can show, and ratios over windows of them."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.reporting.result import Result

MAX_POINTS = 2000
"""Most points one line of a chart may have; beyond it, each stretch keeps its extremes."""

Points = tuple[list[float], list[float]]


def thin(x: Sequence[float], y: Sequence[float], limit: int = MAX_POINTS) -> Points:
    """At most ``limit`` points of a line, its first, last and every stretch's extremes among them.

    The points are cut into equal stretches; of each its minimum and maximum are kept in their order, so a
    spike one sample wide survives. A line short enough is returned unchanged.
    """
    if limit < 4:
        raise ValueError(f"a line needs at least 4 points, not {limit}")
    if len(x) <= limit:
        return list(x), list(y)
    last = len(x) - 1
    stretches = (limit - 2) // 2
    keep = {0, last}
    for index in range(stretches):
        low, high = 1 + index * (last - 1) // stretches, 1 + (index + 1) * (last - 1) // stretches
        if low < high:
            keep.add(min(range(low, high), key=y.__getitem__))
            keep.add(max(range(low, high), key=y.__getitem__))
    order = sorted(keep)
    return [x[i] for i in order], [y[i] for i in order]


def mean_over_time(t: Sequence[float], y: Sequence[float]) -> float:
    """The mean of a line that holds each value until the next sample, by time rather than by sample.

    Samples lie close together where much happens, so that their plain mean is that of busy moments. The
    last value counts only where no time passes at all.
    """
    span = t[-1] - t[0]
    if span <= 0:
        return y[-1]
    held = sum(value * (later - now) for now, later, value in zip(t, t[1:], y, strict=False))
    return held / span


def windowed_ratio(
    t: Sequence[float], part: Sequence[int], whole: Sequence[int], windows: int = 60
) -> tuple[list[float], list[float | None]]:
    """``part``/``whole`` gained in each of ``windows`` equal windows; both counters are cumulative.

    Returns the middle of each window and its ratio, ``None`` where ``whole`` did not move.
    """
    if len(t) < 2 or t[-1] <= t[0]:
        return [], []
    width = (t[-1] - t[0]) / windows
    at, ratios = [], []
    row, part_before, whole_before = 0, 0, 0
    for window in range(windows):
        end = t[0] + (window + 1) * width
        while row + 1 < len(t) and (t[row + 1] <= end or window == windows - 1):
            row += 1
        gained = whole[row] - whole_before
        at.append(t[0] + (window + 0.5) * width)
        ratios.append((part[row] - part_before) / gained if gained else None)
        part_before, whole_before = part[row], whole[row]
    return at, ratios


def downsampled(result: Result) -> int:
    """Samples a series of the result has, when a chart shows fewer of them; else 0."""
    rows = len(result.series.t_s)
    return rows if rows > MAX_POINTS else 0
