"""A layer's routed experts, one fused call on one rank: a physical model.

::

    P       = 3 h w e                              bytes of a gated expert: up twice as wide as down
    rows    = max(least * t, a + t * tile / 2)     multiplied: whole tiles of each expert's rows
    blocks  = rows / tile                          tile = a / t, between the least and the largest
    t_read  = t * n * k * e * (miss + (1 - miss) / l2_speedup) / BW
    t_flop  = 2 * rows * n * k / F
    t_walk  = max(blocks * ceil(n / 128) / SM, 1) * (k * t_depth + t_tile)
    t_i     = (t_read^p + t_flop^p + t_walk^p)^(1/p)      for (n, k) = (2 w, h) and (h, w)
    t       = t0 + t_1 + t_2 + a * io * elements * 2 / BW + held * t_expert + a * t_assign

h: hidden size, w: hidden row of an expert on this rank (its tensor-parallel share), a: assignments of tokens
to this rank's experts, t: how many of them these touch, held: experts on the rank, e: bytes of a weight.
miss = 1 / (1 + (L2 / (t P))^6): the share of weights that do not stay in L2 between two calls of a table; an
engine finds none there. ``t_walk``: a block walks through its expert's inputs however few its rows, so that a
few experts cannot fill the memory's bandwidth. ``elements`` and tiles are those of
``kvplan.latency.grouped``. Rows are sorted by expert (``t_expert``, ``t_assign``) in launches that t0 holds.

No measured table of experts was at hand: the structure was checked on times of invented kernels that count
their tiles and waves one by one (``tests/latency/fit/test_experts.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvplan.latency.fit.solve import Array, Parameter
from kvplan.latency.fit.structure import Columns, Hardware
from kvplan.latency.grouped import TILES, assignment_elements

COLUMNS_OF_A_BLOCK = 128.0


@dataclass(frozen=True, slots=True)
class Experts:
    """Columns: assignments, touched, held, hidden, inter. ``element_bytes``: of a weight."""

    hardware: Hardware
    element_bytes: float = 2.0
    name: str = "experts"
    columns: tuple[str, ...] = ("assignments", "touched", "held", "hidden", "inter")

    def parameters(self) -> Sequence[Parameter]:
        """Starts are datasheet values."""
        bandwidth, l2 = self.hardware.bandwidth_bytes_per_s, self.hardware.l2_bytes
        flops = self.hardware.tensor_flops
        return [
            Parameter("launch_s", 1.5e-5, 1e-6, 5e-4),
            Parameter("flops", 0.5 * flops, 0.01 * flops, 1.05 * flops),
            Parameter("bandwidth", 0.8 * bandwidth, 0.05 * bandwidth, 1.05 * bandwidth),
            Parameter("l2_speedup", 2.0, 1.0, 8.0),
            Parameter("l2_bytes", l2, 0.2 * l2, 2.5 * l2),
            Parameter("depth_s", 1e-9, 1e-12, 3e-8),
            Parameter("tile_s", 1e-6, 1e-9, 5e-5),
            Parameter("overlap", 3.0, 1.0, 10.0),
            Parameter("io_factor", 1.0, 0.05, 10.0),
            Parameter("expert_s", 1e-9, 1e-11, 1e-6),
            Parameter("assignment_s", 1e-11, 1e-13, 1e-8),
        ]

    def seconds(self, values: Array, shapes: Columns, *, cold: bool = False) -> Array:
        """See the module. ``cold``: no weight is in L2 beforehand, as in an engine, where all other layers'
        weights pass between two calls."""
        launch, flops, bandwidth, speedup, l2, depth, tile_s, overlap, io, expert, assign = values
        assignments, touched = shapes["assignments"], shapes["touched"]
        hidden, inter = shapes["hidden"], shapes["inter"]
        miss = 1.0 if cold else self._miss(l2, shapes)
        rate = bandwidth / (miss + (1.0 - miss) / speedup)
        least, most = TILES
        tile = np.clip(assignments / touched, least, most)
        rows = np.maximum(least * touched, assignments + touched * tile / 2.0)
        total = launch + shapes["held"] * expert + assignments * assign
        for n, k in ((2.0 * inter, hidden), (hidden, inter)):
            read = touched * n * k * self.element_bytes / rate
            compute = 2.0 * rows * n * k / flops
            blocks = rows / tile * np.ceil(n / COLUMNS_OF_A_BLOCK)
            walk = np.maximum(blocks / self.hardware.sm_count, 1.0) * (k * depth + tile_s)
            total = total + (read**overlap + compute**overlap + walk**overlap) ** (1.0 / overlap)
        moved = assignments * _elements(hidden, inter) * 2.0
        return np.asarray(total + io * moved / bandwidth)

    def streaming_share(self, values: Array, shapes: Columns) -> Array:
        """Square of the share of the time that weights from memory take."""
        read = self._weights(shapes) * self._miss(values[4], shapes) / values[2]
        return np.asarray(np.minimum(read / self.seconds(values, shapes), 1.0) ** 2)

    def coordinates(self, shapes: Columns) -> Array:
        """Sizes, rows of an expert, and the weights that are read."""
        assignments, touched = shapes["assignments"], shapes["touched"]
        return np.column_stack(
            [
                np.log2(assignments), np.log2(touched), np.log2(assignments / touched),
                np.log2(shapes["hidden"]), np.log2(shapes["inter"]), 0.7 * np.log2(self._weights(shapes)),
            ]
        )  # fmt: skip

    def design_coordinates(self, shapes: Columns) -> Array:
        """Sizes."""
        return np.column_stack([np.log2(shapes[name]) for name in self.columns])

    def _weights(self, shapes: Columns) -> Array:
        return np.asarray(3.0 * shapes["touched"] * shapes["hidden"] * shapes["inter"] * self.element_bytes)

    def _miss(self, l2: float, shapes: Columns) -> Array:
        return np.asarray(1.0 / (1.0 + (l2 / self._weights(shapes)) ** 6))


def _elements(hidden: Array, inter: Array) -> Array:
    """Elements that one assignment moves; linear in both sizes."""
    return np.asarray(
        assignment_elements(1, 0, gated=True) * hidden + assignment_elements(0, 1, gated=True) * inter
    )
