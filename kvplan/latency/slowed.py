"""A clock that is off by a factor at every step."""

from __future__ import annotations

from kvplan.engine.protocols import JointLatency, LatencyModel, StepBatch


class Slowed:
    """Every step takes ``factor`` times as long as ``model`` says."""

    def __init__(self, model: LatencyModel, factor: float) -> None:
        self._step, self._factor = model.step_seconds, factor

    def step_seconds(self, batch: StepBatch) -> float:
        """See ``LatencyModel``."""
        seconds = self._factor * self._step(batch)
        batch.drafting_s *= self._factor
        return seconds


class SlowedTogether(Slowed):
    """The same of ranks in step."""

    def __init__(self, model: JointLatency, factor: float) -> None:
        super().__init__(model, factor)
        self._joint = model.joint_seconds

    def joint_seconds(self, batch: StepBatch) -> float:
        """See ``JointLatency``."""
        seconds = self._factor * self._joint(batch)
        batch.drafting_s *= self._factor
        return seconds


def slowed(model: LatencyModel, factor: float) -> LatencyModel:
    """The model with every step ``factor`` times as long."""
    return SlowedTogether(model, factor) if isinstance(model, JointLatency) else Slowed(model, factor)
