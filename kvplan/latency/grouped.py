"""What a layer of routed experts does beside reading weights: whole tiles, activations, small kernels.

::

    t        = 2 * floor + sorting + assignments * bytes / BW + the slower of reading and computing
    reading  = experts touched * bytes of one / BW
    rows     = max(touched * least tile, assignments + touched * tile / 2)      are computed, with
    tile     = assignments / touched, between the least tile and the largest
    bytes    = (3 * row + 2 * up + 2 * hidden) * element

Grouped kernels multiply whole tiles of one expert's rows, so each touched expert wastes half of its last
tile; engines choose small tiles where experts have few rows. For each of its experts a token's row is read
once, and written and read again when results are summed; the expert's hidden rows are written and read before
and after the activation.
"""

from __future__ import annotations

TILES = (16.0, 128.0)
"""Rows of the smallest and the largest tile of grouped kernels (vLLM's and SGLang's tuned configurations)."""
MOE_EFFICIENCY = 0.8
"""Share of a plain multiplication's rate that grouped ones reach in whole tiles (assumed)."""
SORTING_S = 8e-6
"""Choosing experts, sorting rows by expert and summing results: launches of a layer in a graph (assumed)."""

CHOOSING_S = 2e-6
"""Choosing experts alone, which tables of experts leave out (assumed)."""


def tiled_rows(assignments: float, touched: float) -> float:
    """Rows that are multiplied for so many assignments of tokens to so many experts; rises with both."""
    if not assignments:
        return 0.0
    least, most = TILES
    tile = min(most, max(least, assignments / touched))
    return max(least * touched, assignments + touched * tile / 2.0)


def assignment_elements(inner: int, width: int, *, gated: bool) -> int:
    """Elements of activations that one assignment of a token to an expert moves.

    Args:
        inner: elements of a row that goes in and comes out.
        width: elements of the expert's hidden row, which comes out of ``up`` twice as wide where it is gated.
    """
    up = width * (2 if gated else 1)
    return 3 * inner + 2 * up + 2 * width
