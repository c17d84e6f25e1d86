"""A clock that is off by a factor at every step."""

from __future__ import annotations

from kvplan.engine.protocols import LatencyModel, StepBatch


class Slowed:
    """Every step takes ``factor`` times as long as ``model`` says."""

    def __init__(self, model: LatencyModel, factor: float) -> None:
        self._step, self._factor = model.step_seconds, factor

    def step_seconds(self, batch: StepBatch) -> float:
        """See ``LatencyModel``."""
        seconds = self._factor * self._step(batch)
        batch.drafting_s *= self._factor
        return seconds
