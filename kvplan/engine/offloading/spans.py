"""Places in a prompt, in spans."""

from __future__ import annotations

from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
"""Chunks ``start .. end`` of a prompt."""


class Spans:
    """A set of chunks of one prompt.

    Attributes:
        spans: rising, with gaps between them.
    """

    __slots__ = ("spans",)

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def __contains__(self, place: int) -> bool:
        return any(start <= place < end for start, end in self.spans)

    def add(self, start: int, end: int) -> None:
        """Take these chunks in."""
        before = [span for span in self.spans if span[1] < start]
        after = [span for span in self.spans if span[0] > end]
        met = self.spans[len(before) : len(self.spans) - len(after)]
        if met:
            start, end = min(start, met[0][0]), max(end, met[-1][1])
        self.spans = [*before, (start, end), *after]

    def lacking(self, start: int, end: int) -> list[Span]:
        """Which of these chunks are not in the set."""
        found = []
        for first, last in self.spans:
            if first >= end:
                break
            if start < first:
                found.append((start, first))
            if start < last:
                start = last
        if start < end:
            found.append((start, end))
        return found


def length(spans: list[Span]) -> int:
    """How many chunks."""
    return sum(end - start for start, end in spans)
