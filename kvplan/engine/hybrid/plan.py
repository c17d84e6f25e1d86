"""What one ``schedule()`` call granted, to be settled when the step is delivered."""

from __future__ import annotations

from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.plan import StepPlan


class HybridPlan(StepPlan):
    """A step in which requests are also in flight one by one.

    Attributes:
        granted: tokens of requests that do not decode in step in it.
    """

    __slots__ = ("granted",)

    def __init__(self) -> None:
        super().__init__()
        self.granted: dict[HybridRequest, int] = {}
