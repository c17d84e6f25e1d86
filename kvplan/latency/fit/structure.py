"""What a kernel's time model must offer to be fitted: named unknowns, a formula, and where it is smooth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kvplan.latency.fit.solve import Array, Parameter

Columns = Mapping[str, Array]
"""One array per measured quantity, all of one length (or broadcastable): the shapes that were timed."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The datasheet facts a structure starts from; a fit corrects all but the counts.

    ``tensor_flops`` is FLOP/s of the matrix units in the kernel's compute format.
    """

    name: str
    sm_count: int
    bandwidth_bytes_per_s: float
    l2_bytes: float
    tensor_flops: float


class Structure(Protocol):
    """A physical model of one kernel: positive parameters, seconds, and the space of its shapes."""

    @property
    def name(self) -> str:
        """What the kernel is."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it reads."""
        ...

    def parameters(self) -> Sequence[Parameter]:
        """The unknowns, in the order ``seconds`` takes them."""
        ...

    def seconds(self, values: Array, shapes: Columns) -> Array:
        """Predicted seconds of one call."""
        ...

    def streaming_share(self, values: Array, shapes: Columns) -> Array:
        """In [0, 1]: how much of the time is plain streaming of memory, where the formula needs no help."""
        ...

    def coordinates(self, shapes: Columns) -> Array:
        """Shapes as points, one row each, in which the formula's error is smooth (log2 sizes)."""
        ...

    def design_coordinates(self, shapes: Columns) -> Array:
        """Shapes as points in which a designed set of measurements should be spread evenly."""
        ...
