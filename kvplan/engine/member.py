"""An engine among others: behind a router, or one of ranks in step."""

from __future__ import annotations

from typing import Protocol

from kvplan.engine.arrivals import Stepped
from kvplan.engine.recorder import Recorder, SeriesPoint
from kvplan.engine.router import ReplicaView


class Member(Stepped, ReplicaView, Protocol):
    """One that is given requests, and counts for itself."""

    recorder: Recorder

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        ...

    def point(self, now: float) -> SeriesPoint:
        """The state as the series has it."""
        ...

    def close(self) -> None:
        """Bring its recorder's totals up to date."""
