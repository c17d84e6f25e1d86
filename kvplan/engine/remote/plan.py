"""Planned steps of an engine that loads: what their workers tell, and who takes part in them."""

from __future__ import annotations

from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.remote.queue import Transfer


class RemotePlan(StepPlan):
    """A step whose workers looked, when it began, for loads that had come.

    Attributes:
        told: what they found; the scheduler hears of it when the step has ended.
    """

    __slots__ = ("told",)

    def __init__(self) -> None:
        super().__init__()
        self.told: tuple[Transfer, ...] = ()


class BoardedPlan(RemotePlan):
    """A step that knows whom it computes.

    Attributes:
        aboard: requests in it that do not decode in step with others.
    """

    __slots__ = ("aboard",)

    def __init__(self) -> None:
        super().__init__()
        self.aboard: set[LiveRequest] = set()

    def add(self, request: LiveRequest, before: int, tokens: int) -> None:
        """As the base class."""
        super().add(request, before, tokens)
        self.aboard.add(request)

    def drop(self, request: LiveRequest) -> None:
        """As the base class; the step computes it all the same."""
        if request in self.finish:
            self.aboard.add(request)
        super().drop(request)

    def carries(self, request: LiveRequest) -> bool:
        """Whether a running request takes part in it, where this is the newest step that it could be in.

        Who decodes in step with others is in every step; who did until now is in ``samples``, or in
        ``finish`` if this was the last one.
        """
        return bool(self.batch.scheduled_tokens) and (
            request.steady is not None
            or request in self.aboard
            or request in self.samples
            or request in self.finish
        )


class FencedPlan(BoardedPlan):
    """A step whose end blocks may have to wait for: those of the requests that it computes."""

    __slots__ = ()


def carries(plan: StepPlan | None, request: LiveRequest) -> bool:
    """Whether the blocks of a running request have to wait for the end of ``plan``."""
    return isinstance(plan, FencedPlan) and plan.carries(request)
