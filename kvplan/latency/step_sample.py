"""Steps of a run, chosen so that each stands for as much time as any other.

Remembering a step costs more than timing it, and a long run has millions. Of a short run all are kept, of a
longer one those in which busy time passes a multiple of ``every_s``; one that passes several stands for as
many. So shares of time come out right however different the steps are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import floor, inf

from kvplan.engine.protocols import LatencyModel, StepBatch

MOST = 512
"""Steps kept at most; from then on every other multiple is left out."""


class StepSample:
    """A latency model that answers as ``model`` does, and remembers some of what it was asked.

    Args:
        most: steps kept at most, 2 or more.

    Attributes:
        unheard: ``model``, for whoever asks what a step would take that is not taken.
        every_s: busy time that a kept step stands for; 0 while all are kept, each for itself.
    """

    def __init__(self, model: LatencyModel, most: int = MOST) -> None:
        self.unheard = model
        self.every_s = 0.0
        self._most = most
        self._kept: list[tuple[float, float, StepBatch]] = []
        self.step_seconds, self._busy_s = _listening(model, self._keep)

    @property
    def busy_s(self) -> float:
        """Sum of the seconds answered."""
        return self._busy_s()

    def __iter__(self) -> Iterator[tuple[StepBatch, float]]:
        """The kept steps, each with the busy time it stands for."""
        for ended, seconds, batch in self._kept:
            yield batch, self.every_s * self._passed(ended, seconds) if self.every_s else seconds

    def _passed(self, ended: float, seconds: float) -> int:
        """Multiples of ``every_s`` within the step."""
        return floor(ended / self.every_s) - floor((ended - seconds) / self.every_s)

    def _keep(self, ended: float, seconds: float, batch: StepBatch) -> float:
        """Remember a step; returns the busy time at which the next one counts."""
        if not 0.0 < seconds < inf:
            return ended  # a step without length has no share, and the engine refuses one without end
        same = StepBatch(
            batch.scheduled_tokens, batch.decode_context, batch.decode_requests, batch.decode_kv_tokens,
            list(batch.prefill_chunks), batch.sampled_requests, batch.drafting,
        )  # fmt: skip
        self._kept.append((ended, seconds, same))
        while len(self._kept) > self._most:
            self.every_s = 2.0 * self.every_s if self.every_s else 2.0 * ended / self._most
            self._kept = [kept for kept in self._kept if self._passed(kept[0], kept[1])]
        return (floor(ended / self.every_s) + 1) * self.every_s if self.every_s else ended


def _listening(
    model: LatencyModel, keep: Callable[[float, float, StepBatch], float]
) -> tuple[Callable[[StepBatch], float], Callable[[], float]]:
    """``step_seconds``, and the sum of its answers. Called once a step, so it reads no attribute."""
    answer, total, due = model.step_seconds, 0.0, 0.0

    def step_seconds(batch: StepBatch) -> float:
        nonlocal total, due
        seconds = answer(batch)
        total += seconds
        if total >= due:
            due = keep(total, seconds, batch)
        return seconds

    return step_seconds, lambda: total
