"""Equal pieces that pass through a stage one after the other, each when it is there.

Layer-by-layer streaming is a line of such stages: the model computes layers, a link carries them. Piece l of
n leaves a stage that needs x seconds a piece at::

    c_l = max(r_l, c_(l-1)) + x                    r_l when it came, c_0 when the stage was free

If pieces come evenly, or ever more slowly (r convex in l), the first and the last one say it all::

    c_n = max(max(r_1, c_0) + n x, r_n + x)

and what leaves is convex again, so stages can be put behind each other. With layers computed in p seconds
each and a free link this is  max(n p, n x) + min(p, x):  the longer of prefill and transfer, and one layer.
"""

from __future__ import annotations


def through(
    first_s: float, last_s: float, pieces: int, free_s: float, piece_s: float
) -> tuple[float, float, float]:
    """When the first and the last piece leave a stage, and until when the stage was needed.

    The stage serves others in the gaps between pieces, so it is taken for as long as it works and not until
    the last piece has left.

    Args:
        first_s, last_s: when the first and the last piece come, evenly or ever more slowly.
        pieces: how many.
        free_s: when the stage is free.
        piece_s: seconds it needs for a piece.
    """
    begun = first_s if first_s > free_s else free_s
    taken = begun + pieces * piece_s
    last = last_s + piece_s
    return begun + piece_s, last if last > taken else taken, taken
