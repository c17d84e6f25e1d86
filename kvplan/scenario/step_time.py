"""What the time of a run's steps was spent on, and what bound it, from a sample of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvplan.engine.protocols import LatencyModel
from kvplan.latency.clock import Clock
from kvplan.latency.parts import Explained, StepParts
from kvplan.latency.step_sample import StepSample

if TYPE_CHECKING:
    from kvplan.latency.roofs import Roof, Roofs, StepRoofs

PARTS = {
    "weights": "linear_s", "decode_attention": "decode_s", "prefill_attention": "prefill_s",
    "state": "state_s", "logits": "head_s", "exchanges": "collective_s", "drafts": "drafting_s",
    "launches": "waiting_s", "engine": "overhead_s",
}  # fmt: skip
"""Parts of a step as a result calls them, and as ``StepParts`` does."""

BOUNDS = ("bandwidth", "compute", "kernels", "links", "host")
"""What a part can be bound by; ``kernels``: by how long small or padded ones take whatever the peaks."""

AT_PEAK = 3.0
"""Times as long as at a peak that a kernel takes at most which that peak binds: those of
``kvplan.latency.efficiency`` reach a third of theirs at least."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Listens to the clock of a run.

    Args:
        model: the clock's.
        sample: what listens to it, where it knows what a step is made of.
        roofs: what bounds the steps in the sample.
    """

    model: LatencyModel
    sample: StepSample | None = None
    roofs: Roofs | None = None

    @property
    def clock(self) -> LatencyModel:
        """What the engine is given as its latency model."""
        return self.model if self.sample is None else self.sample

    def to_dict(self, instances: int) -> dict[str, Any] | None:
        """The ``step_time`` object of a result; None where the clock does not know, or no step took time.

        Args:
            instances: engines that took turns with the clock, whose busy times are added up.
        """
        sample, model, roofs = self.sample, self.model, self.roofs
        if sample is None or roofs is None or not isinstance(model, Explained):
            return None
        from kvplan.latency.roofs import Roof

        parts, bound = dict.fromkeys(PARTS, 0.0), dict.fromkeys(BOUNDS, 0.0)
        whole, peak, steps = 0.0, Roof(), 0
        for batch, weight in sample:
            step, roof = model.parts(batch), roofs.step(batch)
            each = weight / step.seconds
            for name, field in PARTS.items():
                parts[name] += each * getattr(step, field)
            for name, seconds in _bound(step, roof):
                bound[name] += each * seconds
            peak += Roof(each * roof.whole.compute_s, each * roof.whole.memory_s)
            whole += weight
            steps += 1
        if not whole:
            return None
        stages = roofs.work.stage_hops + 1
        return {
            "busy_s": sample.busy_s,
            "instances": instances,
            "sampled_steps": steps,
            "parts": _shares(parts),
            "bound": _shares(bound),
            # The roofs are of all stages together, of which one works at a time.
            "peak_compute": peak.compute_s / (whole * stages),
            "peak_bandwidth": peak.memory_s / (whole * stages),
        }


def _shares(seconds: Mapping[str, float]) -> dict[str, float]:
    whole = math.fsum(seconds.values())
    return {name: value / whole for name, value in seconds.items()}


def listen(clock: Clock, *, once: bool) -> StepTime:
    """What to give to an engine in place of ``clock.model``.

    Args:
        once: the engine asks this clock once for every step that it takes, and for nothing else.
    """
    model = clock.model
    if not once or clock.roofs is None or not isinstance(model, Explained):
        return StepTime(model)
    return StepTime(model, StepSample(model), clock.roofs)


def _peak(roof: Roof) -> str:
    return "compute" if roof.computes else "bandwidth"


def _bound(step: StepParts, roof: StepRoofs) -> Iterator[tuple[str, float]]:
    """What binds each part, with the seconds it takes; drafts are taken to be bound as logits are."""
    for seconds, own in (
        (step.linear_s, roof.linear), (step.decode_s, roof.decode), (step.prefill_s, roof.prefill),
        (step.state_s, roof.state), (step.head_s, roof.head),
    ):  # fmt: skip
        bound = min(seconds, AT_PEAK * max(own.compute_s, own.memory_s))
        yield _peak(own), bound
        yield "kernels", seconds - bound
    yield _peak(roof.head), step.drafting_s
    yield "links", step.collective_s
    yield "host", step.overhead_s + step.waiting_s
