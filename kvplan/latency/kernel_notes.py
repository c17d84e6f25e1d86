"""What tabulating a step finds out about its kernels: how wide their bands are, and what was not measured."""

from __future__ import annotations

from dataclasses import dataclass, field

DEVIATIONS = 1.645
"""Standard deviations in half a 90 % band."""


@dataclass(frozen=True, slots=True)
class KernelNotes:
    """Of each part of a step the worst kernel counts.

    Attributes:
        spread: part to standard deviation of the logarithm of its time.
        errors: part to relative error on shapes held out.
        outside: what was not measured, in words.
    """

    spread: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)

    def used(self, part: str, half_width: float, error: float) -> None:
        """A kernel with a 90 % band of this half width in log time, and this error on shapes held out."""
        self.spreads(part, half_width / DEVIATIONS)
        self.errors[part] = max(self.errors.get(part, 0.0), error)

    def spreads(self, part: str, deviation: float) -> None:
        """Times of this part are known no better than this."""
        self.spread[part] = max(self.spread.get(part, 0.0), deviation)
