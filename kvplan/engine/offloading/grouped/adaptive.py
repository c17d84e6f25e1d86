"""Adaptive replacement, chunk by chunk; the rules are those of ``offloading.arc``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from kvplan.engine.offloading.grouped.chunk import IDLE, Key, Use


class Arc:
    """See ``order.ChunkOrder``.

    Attributes:
        share: chunks that ``recent`` may keep, not rounded.
        recent, frequent: what is there, first to go first; left_recent, left_frequent: what was.
    """

    def __init__(self, capacity: int, readers: dict[Key, int]) -> None:
        self.capacity = capacity
        self.readers = readers
        self.share = 0.0
        self.recent: dict[Key, None] = {}
        self.frequent: dict[Key, None] = {}
        self.left_recent: dict[Key, None] = {}
        self.left_frequent: dict[Key, None] = {}

    def missed(self, keys: Sequence[Key]) -> None:
        """See ``ChunkOrder``; the last one first."""
        gone, gone_often = self.left_recent, self.left_frequent
        for key in reversed(keys):
            if key in gone:
                self.share = min(self.share + max(1, len(gone_often) / len(gone)), self.capacity)
                _to_the_end(gone, key)
            elif key in gone_often:
                self.share = max(self.share - max(1, len(gone) / len(gone_often)), 0)
                _to_the_end(gone_often, key)

    def met(self, use: Use, keys: Sequence[Key]) -> None:
        """It counts when the request ends."""

    def insert(self, use: Use, key: Key) -> None:
        """See ``ChunkOrder``."""
        self.recent[key] = None
        self.left_recent.pop(key, None)
        self.left_frequent.pop(key, None)

    def ended(self, use: Use) -> None:
        """See ``ChunkOrder``; what the request only stored keeps its row."""
        recent, frequent = self.recent, self.frequent
        for key in use.from_the_end():
            if key in use.reused:
                if key in recent:
                    del recent[key]
                    frequent[key] = None
                elif key in frequent:
                    _to_the_end(frequent, key)
            elif key in use.inserted:
                if key in recent:
                    _to_the_end(recent, key)
                elif key in frequent:
                    _to_the_end(frequent, key)

    def evict(self, chunks: int, keep: Collection[Key]) -> list[Key] | None:
        """See ``ChunkOrder``."""
        once, often = self._may_go(self.recent, keep), self._may_go(self.frequent, keep)
        left = len(self.recent)
        going: list[tuple[Key, bool]] = []
        for _ in range(chunks):
            # As long as its share is left, ``recent`` gives; then ``frequent``, as long as it can.
            key = next(once, None) if left >= int(self.share) else None
            from_recent = key is not None
            if key is None:
                key = next(often, None)
            if key is None:
                key = next(once, None)
                from_recent = True
            if key is None:
                return None
            left -= from_recent
            going.append((key, from_recent))
        for key, from_recent in going:
            row, gone = (
                (self.recent, self.left_recent) if from_recent else (self.frequent, self.left_frequent)
            )
            del row[key]
            gone[key] = None
        for gone in (self.left_recent, self.left_frequent):
            while len(gone) > self.capacity:
                del gone[next(iter(gone))]
        return [key for key, _ in going]

    def _may_go(self, row: dict[Key, None], keep: Collection[Key]) -> Iterator[Key]:
        return (key for key in row if self.readers[key] == IDLE and key not in keep)

    def rows(self) -> list[list[Key]]:
        """See ``ChunkOrder``."""
        return [list(row) for row in (self.recent, self.frequent, self.left_recent, self.left_frequent)]


def _to_the_end(row: dict[Key, None], key: Key) -> None:
    del row[key]
    row[key] = None
