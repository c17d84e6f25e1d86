"""Tables of seconds over sizes, monotone by construction, cheap to read: what a profile runs on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log2


class DenseTable:
    """Seconds by a whole number: a list up to ``len - 1``, a straight line beyond it.

    Args:
        values: seconds for 0, 1, 2, ...; must not fall.
    """

    __slots__ = ("_last", "_slope", "_values")

    def __init__(self, values: Sequence[float]) -> None:
        self._values = list(values)
        # Sorting what is in order looks at neighbours only, and fast: every clock makes such tables.
        if len(self._values) < 2 or sorted(self._values) != self._values:
            raise ValueError("a table needs two values at least, and they must not fall")
        self._last = len(self._values) - 1
        half = self._last // 2
        self._slope = (self._values[-1] - self._values[half]) / (self._last - half)

    def scaled(self, factor: float, offset: float = 0.0, per_unit: float = 0.0) -> DenseTable:
        """The table of ``factor * value + offset + per_unit * size``."""
        return DenseTable(
            [factor * value + offset + per_unit * size for size, value in enumerate(self._values)]
        )

    def split(self, first: float, more: float) -> DenseTable:
        """The table of ``first`` times what size 1 takes and ``more`` times what larger ones add to it."""
        one = self._values[1]
        base = first * one
        return DenseTable(
            [first * self._values[0], *[base + more * (value - one) for value in self._values[1:]]]
        )

    def plus(self, other: DenseTable) -> DenseTable:
        """The table of the sum; ``other`` is of the same length."""
        return DenseTable([a + b for a, b in zip(self._values, other._values, strict=True)])

    def rounded(self, sizes: Sequence[int]) -> DenseTable:
        """The table of the value at ``sizes[size]``, for the first ones; ``sizes`` must not fall."""
        return DenseTable([*(self._values[size] for size in sizes), *self._values[len(sizes) :]])

    def at(self, size: int) -> float:
        """Seconds at ``size``."""
        if size <= self._last:
            return self._values[size]
        return self._values[self._last] + (size - self._last) * self._slope


class LogTable:
    """Seconds over (row size, column size), both on grids even in log2; bilinear between.

    Row and column 0 of ``values`` are the smallest sizes (``2**0``); ``steps`` grid lines an octave. The
    result does not fall in either size because ``values`` does not. Beyond the last line of a direction the
    last value grows in proportion to the size.
    """

    __slots__ = ("_columns", "_rows", "_steps", "_values")

    def __init__(self, values: Sequence[Sequence[float]], steps: int) -> None:
        self._values = [list(row) for row in values]
        self._steps = steps
        self._rows, self._columns = len(self._values) - 1, len(self._values[0]) - 1
        for row in self._values:
            if any(b < a for a, b in pairwise(row)):
                raise ValueError("the values of a table must not fall along a row")
        for row, following in pairwise(self._values):
            if any(b < a for a, b in zip(row, following, strict=True)):
                raise ValueError("the values of a table must not fall along a column")

    def scaled(self, factor: float) -> LogTable:
        """The table of ``factor * value``."""
        return LogTable([[factor * value for value in row] for row in self._values], self._steps)

    def at(self, row: float, column: float) -> float:
        """Seconds at sizes ``row`` and ``column``, at least 1 each."""
        y = log2(row) * self._steps
        x = log2(column) * self._steps if column > 1.0 else 0.0
        i, j = int(y), int(x)
        if i >= self._rows or j >= self._columns:
            return self._beyond(y, x)
        y -= i
        x -= j
        low, high = self._values[i], self._values[i + 1]
        a, b = low[j], high[j]
        a += (low[j + 1] - a) * x
        return a + (b + (high[j + 1] - b) * x - a) * y

    def _beyond(self, y: float, x: float) -> float:
        """At or past the last line of a direction."""
        over = max(y - self._rows, 0.0) + max(x - self._columns, 0.0)
        y, x = min(y, self._rows), min(x, self._columns)
        i, j = min(int(y), self._rows - 1), min(int(x), self._columns - 1)
        y -= i
        x -= j
        low, high = self._values[i], self._values[i + 1]
        a = low[j] + (low[j + 1] - low[j]) * x
        b = high[j] + (high[j + 1] - high[j]) * x
        return float((a + (b - a) * y) * 2.0 ** (over / self._steps))
