"""The linear step-time model: three constants, no knowledge of the model or the GPU."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError

MAX_SECONDS = 1e6
"""More is no clock: the times of a run of such steps are beyond what a result can hold."""


@dataclass(frozen=True, slots=True)
class LinearLatency:
    """``t_step = a + b * scheduled_tokens + c * decode_context``, in seconds.

    IEEE doubles evaluated left to right, so that a run can be compared bit for bit with any other
    implementation of the same formula.

    Args:
        a: seconds of every step.
        b: seconds per scheduled token.
        c: seconds per token of decode context.

    Raises:
        SpecError: a constant is negative, infinite or not a number; a step could take no time.
    """

    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        for name in ("a", "b", "c"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise SpecError(
                    f"the linear latency constant must be a number of seconds, not {value!r}",
                    where=f"latency.{name}",
                    hint="for example {model: linear, a: 5e-3, b: 2e-5, c: 1e-8}",
                )
            if not 0 <= value <= MAX_SECONDS:
                raise SpecError(
                    f"the linear latency constant must be between 0 and {MAX_SECONDS:g} s, not {value!r}",
                    where=f"latency.{name}",
                    hint="a is seconds per step, b per scheduled token, c per token of decode context",
                )
            object.__setattr__(self, name, float(value))
        if not self.a and not self.b:
            raise SpecError(
                "a step would take no time: a and b are both 0",
                where="latency.a",
                hint="give the seconds of a step (a) or of a scheduled token (b), for example a: 5.0e-3; "
                "measure yours with kvplan calibrate, or use {model: roofline}",
            )

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds of the step (see the class)."""
        return self.a + self.b * batch.scheduled_tokens + self.c * batch.decode_context
