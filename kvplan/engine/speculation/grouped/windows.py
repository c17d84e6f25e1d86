"""Sliding windows of requests whose last tokens may be computed again."""

from __future__ import annotations

from kvplan.engine.config import CacheGroup
from kvplan.engine.reference.groups import Shared
from kvplan.engine.reference.windows import SlidingWindow


class KeptWindow(SlidingWindow):
    """The window before those tokens stays, too (``extra_retained_tokens``); a hit does not need it."""

    def __init__(self, index: int, group: CacheGroup, shared: Shared, kept: int) -> None:
        super().__init__(index, group, shared)
        self.kept = kept
        in_flight = self.config.max_in_flight_tokens + kept
        self._admission_cap = group.admission_cap(in_flight, self.config.max_model_len)

    def skipped_tokens(self, computed: int) -> int:
        """As the base class."""
        return super().skipped_tokens(computed - self.kept)

    def next_drop(self, processed: int) -> int:
        """As the base class."""
        return super().next_drop(processed - self.kept) + self.kept
