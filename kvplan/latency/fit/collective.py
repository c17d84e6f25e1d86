"""Collectives between the GPUs of one node: a latency, a ring, and a knee for small messages.

::

    t = t0 + hop * log2(n) + (((r (n - 1) / n) * bytes / BW)^p + (bytes / BW_small)^p)^(1/p)
r: rounds in which the tensor goes through the ring, two of an all-reduce, one where it is gathered, or summed
and scattered; ``bytes`` are those of the whole tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvplan.latency.fit.solve import Array, Parameter
from kvplan.latency.fit.structure import Columns


@dataclass(frozen=True, slots=True)
class Collective:
    """Columns: ranks, bytes. ``bandwidth_bytes_per_s`` is the link's, one direction."""

    bandwidth_bytes_per_s: float
    rounds: float
    name: str = "collective"
    columns: tuple[str, ...] = ("ranks", "bytes")

    def parameters(self) -> Sequence[Parameter]:
        """Starts are datasheet values."""
        rate = self.bandwidth_bytes_per_s
        return [
            Parameter("launch_s", 4e-6, 2e-7, 2e-4),
            Parameter("hop_s", 5e-7, 1e-9, 5e-5),
            Parameter("bandwidth", 0.7 * rate, 0.02 * rate, 1.2 * rate),
            Parameter("small_bandwidth", rate, 0.02 * rate, 50 * rate),
            Parameter("overlap", 3.0, 1.0, 10.0),
        ]

    def seconds(self, values: Array, shapes: Columns) -> Array:
        """See the module."""
        launch, hop, bandwidth, small, overlap = values
        ranks, size = shapes["ranks"], shapes["bytes"]
        ring = self.rounds * (ranks - 1.0) / ranks * size / bandwidth
        body = (ring**overlap + (size / small) ** overlap) ** (1.0 / overlap)
        return np.asarray(launch + hop * np.log2(ranks) + body)

    def streaming_share(self, values: Array, shapes: Columns) -> Array:
        """Square of the share of the time that the ring takes."""
        ring = self.rounds * (shapes["ranks"] - 1.0) / shapes["ranks"] * shapes["bytes"] / values[2]
        return np.asarray(np.minimum(ring / self.seconds(values, shapes), 1.0) ** 2)

    def coordinates(self, shapes: Columns) -> Array:
        """Ranks and bytes."""
        return np.column_stack([2.0 * np.log2(shapes["ranks"]), np.log2(shapes["bytes"])])

    def design_coordinates(self, shapes: Columns) -> Array:
        """Ranks and bytes."""
        return self.coordinates(shapes)
