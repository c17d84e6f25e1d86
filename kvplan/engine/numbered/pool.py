"""Numbered blocks, and who wants to know when a content comes or goes."""

from __future__ import annotations

from typing import Any

from kvplan.engine.numbered.memo import Memos
from kvplan.engine.reference.pool import BlockPool, Key


class WatchedPool(BlockPool):
    """Tells ``memos`` of every content that is published or evicted."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__(num_blocks)
        self.memos: Memos[Any] = Memos()

    def publish(self, block: int, key: Key) -> None:
        """As the base class."""
        super().publish(block, key)
        self.memos.changed(key)

    def unpublish(self, block: int) -> None:
        """As the base class."""
        self.memos.changed(self.key_of[block])
        super().unpublish(block)
