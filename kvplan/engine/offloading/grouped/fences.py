"""Blocks that are being copied to the host and that others may be given meanwhile.

vLLM waits for the copy before it launches a step in which one of them was given to somebody, whoever that is,
and also where it was only found in the prefix cache (``jobs_to_flush``).
"""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.engine.offloading.grouped.offloaded import ChunkStore


class Fences:
    """Stores by the blocks they read."""

    def __init__(self) -> None:
        self._stores: dict[int, dict[ChunkStore, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._stores)

    def add(self, store: ChunkStore, blocks: Iterable[int]) -> None:
        """Whoever is given one of these blocks waits for the store."""
        for block in blocks:
            self._stores.setdefault(block, {})[store] = None

    def lift(self, store: ChunkStore, blocks: Iterable[int]) -> None:
        """The store has ended."""
        for block in blocks:
            stores = self._stores[block]
            del stores[store]
            if not stores:
                del self._stores[block]

    def touched(self, given: set[int]) -> list[ChunkStore]:
        """Stores that read one of these blocks."""
        return [store for block in given & self._stores.keys() for store in self._stores[block]]
