"""Token content as the prefix index compares it: exact, and in time that does not grow with the tokens.

Content is a sequence of maximal runs of consecutive token ids (``traces.request``). A run is kept as the
position where it ends and its *shift*, the difference between token id and position, which is constant
within a run. Two contents that are looked at from the same position agree as far as their shifts do.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TypeAlias

from kvplan.traces.request import TokenRuns

BlockKey: TypeAlias = int | tuple[tuple[int, int], ...]
"""Identity of one block's tokens at a known position: the shift of its run, or the pieces of several."""


class Content:
    """Prompt and answer of one request.

    Attributes:
        ends: token position after each run, rising.
        shifts: token id minus token position of each run; neighbours differ.
    """

    __slots__ = ("_prints", "ends", "shifts")

    def __init__(self, prompt: TokenRuns, output: TokenRuns) -> None:
        self._prints: list[int] | None = None
        if len(prompt) == 1 and len(output) == 1:  # most requests of synthetic workloads
            (start, length), (next_start, more) = prompt[0], output[0]
            if start + length != next_start:
                self.ends = [length, length + more]
                self.shifts = [start, next_start - length]
                return
        ends: list[int] = []
        shifts: list[int] = []
        position = 0
        last = None
        for start, length in (*prompt, *output):
            shift = start - position
            position += length
            if shift == last:
                ends[-1] = position
            else:
                ends.append(position)
                shifts.append(shift)
                last = shift
        self.ends = ends
        self.shifts = shifts

    @classmethod
    def of_runs(cls, ends: list[int], shifts: list[int]) -> Content:
        """Content of maximal runs that are given as they are kept."""
        content = cls((), ())
        content.ends, content.shifts = ends, shifts
        return content

    def block_key(self, position: int, block_size: int) -> BlockKey:
        """Identity of the tokens ``position .. position + block_size`` (which the content must have)."""
        ends = self.ends
        run = bisect_right(ends, position)
        stop = position + block_size
        if ends[run] >= stop:
            return self.shifts[run]
        pieces = []
        while ends[run] < stop:
            pieces.append((ends[run], self.shifts[run]))
            run += 1
        pieces.append((stop, self.shifts[run]))
        return tuple(pieces)

    def agrees_until(self, other: Content, position: int, stop: int) -> int:
        """First position in ``position .. stop`` at which the tokens differ, else ``stop``.

        Both contents must have tokens up to ``stop``.
        """
        mine, theirs = self.ends, other.ends
        i, j = bisect_right(mine, position), bisect_right(theirs, position)
        shifts, their_shifts = self.shifts, other.shifts
        while position < stop:
            if shifts[i] != their_shifts[j]:
                return position
            a, b = mine[i], theirs[j]
            if a < b:
                position = a
                i += 1
            elif b < a:
                position = b
                j += 1
            else:
                position = a
                i += 1
                j += 1
        return stop

    def agrees_on(self, other: Content, run: int, stop: int) -> int:
        """``agrees_until`` for contents that agree before their run ``run``, and on some of its tokens.

        Runs are maximal, so both have the same ones as far as they agree.
        """
        ends, theirs, shifts, their_shifts = self.ends, other.ends, self.shifts, other.shifts
        while True:
            mine, end = ends[run], theirs[run]
            if mine != end or mine >= stop:
                end = mine if mine < end else end
                return end if end < stop else stop
            run += 1
            if shifts[run] != their_shifts[run]:
                return mine

    def fingerprint(self, position: int) -> int:
        """64 bits that stand for all tokens before ``position`` (at least 1 of them), on every machine.

        Equal prefixes have equal fingerprints, because runs are maximal; different ones collide by chance.
        """
        run = bisect_left(self.ends, position)
        return _mixed(self._print(run), self.shifts[run], position)

    def line(self, run: int) -> int:
        """64 bits that stand for all tokens before a run and those it could go on with."""
        return _mixed(self._print(run), self.shifts[run], 0)

    def lines(self, start: int, stop: int, size: int) -> Iterator[tuple[int, int, int]]:
        """The lines on which blocks ``start .. stop`` of ``size`` tokens end, and which do so on each."""
        ends = self.ends
        run = bisect_left(ends, (start + 1) * size)
        while start < stop:
            end = min(ends[run] // size, stop)
            if start < end:
                yield self.line(run), start, end
                start = end
            run += 1

    def _print(self, run: int) -> int:
        """64 bits that stand for all tokens before a run."""
        prints = self._prints
        if prints is None:
            prints = [0]
            for end, shift in zip(self.ends, self.shifts, strict=True):
                prints.append(_mixed(prints[-1], shift, end))
            self._prints = prints
        return prints[run]


_BITS = (1 << 64) - 1


def _mixed(print_before: int, shift: int, end: int) -> int:
    """Multiply and fold twice: every input bit reaches the high and the low half."""
    value = ((print_before ^ (shift & _BITS)) * 0x9E3779B97F4A7C15 + end) & _BITS
    value = ((value ^ value >> 32) * 0xD6E8FEB86659FD93) & _BITS
    return value ^ value >> 32
