"""Sending tokens to the ranks of their experts, and back: a latency, the copies' bytes, work for each token.

::

    t = ((t0)^p + (tokens * copies * bytes / BW)^p)^(1/p) + t_token * tokens

Tokens of one rank; ``copies``: how often a token leaves its rank on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvplan.latency.fit.solve import Array, Parameter
from kvplan.latency.fit.structure import Columns


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Columns: ranks, tokens (of a rank), copies, row_bytes. ``bandwidth_bytes_per_s``: a link's, one way."""

    bandwidth_bytes_per_s: float
    name: str = "dispatch"
    columns: tuple[str, ...] = ("ranks", "tokens", "copies", "row_bytes")

    def parameters(self) -> Sequence[Parameter]:
        """Starts are datasheet values."""
        rate = self.bandwidth_bytes_per_s
        return [
            Parameter("launch_s", 5e-5, 1e-6, 5e-3),
            Parameter("bandwidth", 0.4 * rate, 0.01 * rate, 1.2 * rate),
            Parameter("token_s", 1e-9, 1e-12, 1e-6),
            Parameter("overlap", 2.0, 1.0, 10.0),
        ]

    def seconds(self, values: Array, shapes: Columns) -> Array:
        """See the module."""
        launch, bandwidth, token, overlap = values
        body = (launch**overlap + (_moved(shapes) / bandwidth) ** overlap) ** (1.0 / overlap)
        return np.asarray(body + token * shapes["tokens"])

    def streaming_share(self, values: Array, shapes: Columns) -> Array:
        """Square of the share of the time that the links need."""
        share = _moved(shapes) / values[1] / self.seconds(values, shapes)
        return np.asarray(np.minimum(share, 1.0) ** 2)

    def coordinates(self, shapes: Columns) -> Array:
        """Tokens, the bytes of a row, and how many copies of it there are."""
        return np.column_stack(
            [
                np.log2(shapes["tokens"]), np.log2(shapes["row_bytes"]), 2.0 * np.log2(shapes["copies"]),
                2.0 * np.log2(shapes["ranks"]),
            ]
        )  # fmt: skip

    def design_coordinates(self, shapes: Columns) -> Array:
        """The same, models farther apart: tables hold a few of them, and kernels are tuned for each."""
        return np.asarray(self.coordinates(shapes) * np.array([1.0, 8.0, 8.0, 8.0]))


def _moved(shapes: Columns) -> Array:
    return np.asarray(shapes["tokens"] * shapes["copies"] * shapes["row_bytes"])
