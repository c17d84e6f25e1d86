"""Of how many tokens a trace's blocks are, where its rows do not fit the size they were read with."""

from __future__ import annotations

from kvplan.traces.settings import setting

SIZES = tuple(1 << power for power in range(13))
"""Sizes that blocks have in published traces and engines: 1 to 4,096 tokens."""


class Granularity:
    """Looks at rows that do not fit and narrows down the sizes that would explain all of them."""

    def __init__(self) -> None:
        self._rows = 0
        self._sizes = SIZES

    def see(self, ids: int, tokens: int) -> None:
        """A row of ``ids`` block ids for ``tokens`` tokens, whose number is neither rounded up nor down."""
        self._rows += 1
        self._sizes = tuple(size for size in self._sizes if ids in (tokens // size, -(-tokens // size)))

    def advice(self) -> str | None:
        """A sentence when one size explains every row seen."""
        if len(self._sizes) != 1:
            return None
        (size,) = self._sizes
        return (
            f"the {self._rows:,} dropped rows have as many ids as blocks of {size} tokens would need: "
            f"read them so ({setting('block_size', size)})"
        )
