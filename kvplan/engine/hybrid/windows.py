"""Sliding windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.hybrid.group import Hit
from kvplan.engine.hybrid.sparse import SparseGroup

if TYPE_CHECKING:
    from kvplan.engine.hybrid.request import HybridRequest


class WindowGroup(SparseGroup):
    """Each token sees ``window`` tokens, itself included; blocks behind the window are given back."""

    def need(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """As many as the tokens fill; of a whole sequence no more than the window's cap."""
        required = -(-covered // self.block_size)
        if admission and self._cap is not None and required > self._cap:
            required = self._cap
        if hit is None:
            return max(required - request.sparse[self.place].length, 0) * self.width
        skipped = self.skipped_tokens(computed) // self.block_size
        length = hit.tokens // self.block_size
        missing = max(required - max(skipped, length), 0)
        return missing * self.width + hit.tails[self.place].unheld

    def lacks(self, request: HybridRequest, covered: int) -> int:
        """As many as the tokens fill."""
        missing = -(-covered // self.block_size) - request.sparse[self.place].length
        return missing * self.width if missing > 0 else 0

    def drop(self, request: HybridRequest, processed: int) -> None:
        """The blocks wholly in the skipped tokens."""
        holding = request.sparse[self.place]
        stop = min(self.skipped_tokens(processed) // self.block_size, holding.length)
        if stop > holding.dropped:
            self.give_back(holding, stop - holding.dropped, stop)
            holding.dropped = stop

    def grow(self, request: HybridRequest, covered: int) -> int:
        """As the base class."""
        holding = request.sparse[self.place]
        missing = -(-covered // self.block_size) - holding.length
        if missing <= 0:
            return 0
        holding.length += missing
        holding.own += missing
        return missing * self.width
