"""A step by cause, for whoever asks what its time is spent on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

from kvplan.engine.protocols import LatencyModel, StepBatch


@dataclass(frozen=True, slots=True)
class StepParts:
    """Seconds of one step by cause; ``seconds`` is their sum.

    Attributes:
        overhead_s: the engine: scheduling, sampling, detokenizing.
        linear_s: matrices, experts and small kernels of all layers.
        decode_s: attention of decode requests.
        prefill_s: attention of prompt chunks.
        state_s: recurrent layers.
        head_s: logits of the sampled tokens.
        collective_s: exchanges between ranks.
        waiting_s: how long the GPU waits for launches.
        drafting_s: making the drafts that the next step verifies.
    """

    overhead_s: float
    linear_s: float
    decode_s: float
    prefill_s: float
    state_s: float
    head_s: float
    collective_s: float
    waiting_s: float = 0.0
    drafting_s: float = 0.0

    @property
    def seconds(self) -> float:
        """The step."""
        return math.fsum(getattr(self, field.name) for field in fields(self))


@runtime_checkable
class Explained(LatencyModel, Protocol):
    """A latency model that knows what a step's time is made of."""

    def parts(self, batch: StepBatch) -> StepParts:
        """The step by cause; they add up to ``step_seconds``, but for rounding."""
        ...
