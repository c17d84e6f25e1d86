"""Which blocks of a sliding-window or state group are kept findable (``prefix_cache_retention_interval``).

Such a group serves a hit of n tokens from the last few blocks before n alone, so it need not publish all
of them. Kept are the blocks a hit needs at the end of every interval, and, as these are known to be asked
for, before two boundaries of the request itself: where replaying its prompt would resume, and where the
prefix it shares with others was found to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def retained_blocks(
    start: int,
    stop: int,
    *,
    needed: int,
    block_size: int,
    alignment: int,
    interval: int | None,
    boundaries: Iterable[int],
    behind: int = 0,
) -> Sequence[int]:
    """Indexes of the blocks to publish among ``start .. stop``, rising.

    Args:
        needed: blocks before a boundary that a hit ending there needs.
        alignment: hits end on multiples of so many tokens.
        interval: tokens from one kept hit to the next; 0 keeps none but ``boundaries``; ``None`` all.
        boundaries: tokens of the request after which a hit is expected; floored to ``alignment``.
        behind: blocks behind a boundary that a hit ending there needs, counted in ``needed``.
    """
    every = alignment if interval is None else interval
    blocks_per_interval = every // block_size
    if every and needed >= blocks_per_interval:
        return range(start, stop)
    kept: set[int] = set()
    if every:
        first = max(start - behind, 0) // blocks_per_interval
        for segment in range(first, stop // blocks_per_interval + 1):
            end = (segment + 1) * blocks_per_interval + behind
            kept.update(range(max(start, end - needed), min(stop, end)))
    if interval is not None:
        for boundary in boundaries:
            end = boundary // alignment * alignment // block_size + behind
            if end > start and end - needed < stop:
                kept.update(range(max(start, end - needed), min(stop, end)))
    return sorted(kept)
