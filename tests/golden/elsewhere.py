"""A stand-in for what a connector has and brings, as a recorded run says it."""

from __future__ import annotations

from itertools import count
from typing import Any

from kvplan.engine.live import LiveRequest


class Elsewhere:
    """Has the first tokens of each request, for each load or for the first one only."""

    def __init__(self, run: dict[str, Any]) -> None:
        names = (asked[0] for asked in run["requests"])
        self.held = dict(zip(names, run["held"], strict=True))
        self.again: bool = run["again"]
        self.seconds: list[float] = run["seconds"]
        self.loads = count()

    def lookup(self, request: LiveRequest, start: int) -> int:
        return max(0, self.held[request.request.id] - start)

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        if not self.again:
            self.held[request.request.id] = 0
        return now + self.seconds[next(self.loads) % len(self.seconds)]
