"""A source of KV that has none."""

from __future__ import annotations

from kvplan.engine.live import LiveRequest


class NoSource:
    """Nothing is elsewhere."""

    def lookup(self, request: LiveRequest, start: int) -> int:
        """See ``KvSource``."""
        return 0

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        """Never called: there is nothing to fetch."""
        raise AssertionError("a fetch of nothing")
