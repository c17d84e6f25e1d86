"""Planned steps of an engine that loads and has several cache groups."""

from __future__ import annotations

from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.remote.plan import BoardedPlan, FencedPlan


class GrantedPlan(BoardedPlan):
    """As ``hybrid.plan.HybridPlan``.

    Attributes:
        granted: tokens of requests that do not decode in step in it.
    """

    __slots__ = ("granted",)

    def __init__(self) -> None:
        super().__init__()
        self.granted: dict[HybridRequest, int] = {}


class FencedGrantedPlan(FencedPlan):
    """The same of a step that blocks may have to wait for."""

    __slots__ = ("granted",)

    def __init__(self) -> None:
        super().__init__()
        self.granted: dict[HybridRequest, int] = {}
