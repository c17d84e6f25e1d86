"""Adaptive replacement (Megiddo and Modha, 2003) as vLLM applies it to chunks.

What was stored once stands in ``recent``, what a later request loaded or would have stored again, in
``frequent``. How much of the cache ``recent`` may keep follows from what was evicted and is wanted again: a
miss on something that left ``recent`` lets it grow, on something that left ``frequent``, shrink. Frequency is
counted when a request ends, once a request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence, Set

from kvplan.engine.offloading.use import Use

_Line = OrderedDict[int, None]


class Arc:
    """See ``order.Order``.

    Args:
        capacity: chunks of the cache; so many are remembered after they left each of the two lists.
        idle: chunks that may go.

    Attributes:
        share: chunks that ``recent`` may keep, not rounded.
    """

    def __init__(self, capacity: int, idle: Set[int]) -> None:
        self.capacity = capacity
        self.idle = idle
        self.share = 0.0
        self.recent, self.frequent = _Line(), _Line()
        self.left_recent, self.left_frequent = _Line(), _Line()

    def missed(self, names: Sequence[int]) -> None:
        """See ``Order``; the end of the prompt first."""
        gone, gone_often = self.left_recent, self.left_frequent
        for name in reversed(names):
            if name in gone:
                self.share = min(self.share + max(1, len(gone_often) / len(gone)), self.capacity)
                gone.move_to_end(name)
            elif name in gone_often:
                self.share = max(self.share - max(1, len(gone) / len(gone_often)), 0)
                gone_often.move_to_end(name)

    def met(self, names: Sequence[int], use: Use) -> None:
        """It counts when the request ends."""

    def insert(self, names: Sequence[int], use: Use) -> None:
        """See ``Order``."""
        for name in names:
            self.recent[name] = None
            self.left_recent.pop(name, None)
            self.left_frequent.pop(name, None)

    def settled(self, names: Iterable[int]) -> None:
        """Whether a chunk is idle is asked when one has to go."""

    def ended(self, use: Use) -> None:
        """See ``Order``; what the request only stored keeps its list."""
        for name in reversed(use.in_order):
            reused = name in use.reused
            if not reused and name not in use.inserted:
                continue
            if name in self.frequent:
                self.frequent.move_to_end(name)
            elif name in self.recent:
                if reused:
                    del self.recent[name]
                    self.frequent[name] = None
                else:
                    self.recent.move_to_end(name)

    def evict(self, count: int, keep: Collection[int]) -> list[int] | None:
        """See ``Order``."""

        def may_go(line: _Line) -> Iterator[int]:
            return (name for name in line if name in self.idle and name not in keep)

        once, often = may_go(self.recent), may_go(self.frequent)
        going: list[tuple[int, bool]] = []
        left = len(self.recent)
        for _ in range(count):
            name = next(once, None) if left >= int(self.share) else None
            first = name is not None
            if name is None:
                name = next(often, None)
            if name is None:
                name = next(once, None)
                first = True
            if name is None:
                return None
            left -= first
            going.append((name, first))
        for name, first in going:
            line, gone = (self.recent, self.left_recent) if first else (self.frequent, self.left_frequent)
            del line[name]
            gone[name] = None
        for gone in (self.left_recent, self.left_frequent):
            while len(gone) > self.capacity:
                gone.popitem(last=False)
        return [name for name, _ in going]
