"""Playing recorded runs with drafts: how many stood is written down with each."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.engine.protocols import StepBatch
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.latency.linear import LinearLatency


@dataclass(frozen=True, slots=True)
class Recorded(Acceptance):
    """What stood, by request and verification."""

    names: tuple[str, ...] = ()
    stood: tuple[tuple[int, ...], ...] = ()

    def key(self, name: str) -> int:
        return self.names.index(name) if name in self.names else -1

    def accepted(self, key: int, verification: int, drafts: int) -> int:
        return self.stood[key][verification]


class Heard:
    """Notes how many drafts are made after each step."""

    def __init__(self, a: float, b: float, c: float) -> None:
        self.linear = LinearLatency(a, b, c)
        self.drafting: list[int] = []

    def step_seconds(self, batch: StepBatch) -> float:
        self.drafting.append(batch.drafting)
        return self.linear.step_seconds(batch)


def recorded(drafts: int, accepted: dict[str, list[int]]) -> Recorded:
    return Recorded((1.0,) * drafts, 0, tuple(accepted), tuple(map(tuple, accepted.values())))
