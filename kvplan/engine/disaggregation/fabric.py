"""What lies between prefill and decode instances: stages with a queue at either end.

Every instance has its own adapters, so two transfers wait for each other only where they share a sender or a
receiver. An adapter serves transfers in the order in which they become ready (first come, first served); a
transfer across a link takes the adapters of both ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvplan.engine.disaggregation.pipeline import Flow, through
from kvplan.errors import UsageError


class Carrier(Protocol):
    """A way for bytes."""

    def seconds(self, size: int, /) -> float:
        """Until ``size`` bytes have passed: 0 for none, never falling with the size."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the way.

    Args:
        name: for reports.
        carrier: its time.
        prefill, decode: whose adapters it takes: the sender's, the receiver's or both.
        ratio: bytes here per byte of cache as stored (below 1 behind a conversion).
        link: the way between the instances; exactly one stage of a route is.
    """

    name: str
    carrier: Carrier
    prefill: bool = False
    decode: bool = False
    ratio: float = 1.0
    link: bool = False

    def bytes(self, stored: int) -> int:
        """Bytes that pass for ``stored`` bytes of cache."""
        return math.ceil(stored * self.ratio)


class Adapter:
    """One end of a stage: free again at ``free_s``, at work for ``busy_s`` so far."""

    __slots__ = ("busy_s", "free_s")

    def __init__(self) -> None:
        self.free_s = self.busy_s = 0.0


class Fabric:
    """All adapters of all instances.

    Attributes:
        moved_bytes: bytes that passed the link; transfers: how many requests' worth of pieces they were in.
    """

    def __init__(self, route: Sequence[Stage], prefills: int, decodes: int) -> None:
        if sum(stage.link for stage in route) != 1:
            raise UsageError("a route between instances has exactly one link")
        self.route = tuple(route)
        self.senders = [[Adapter() for _ in route] for _ in range(prefills)]
        self.receivers = [[Adapter() for _ in route] for _ in range(decodes)]
        self.moved_bytes = 0
        self._link = next(number for number, stage in enumerate(route) if stage.link)

    def send(self, prefill: int, decode: int, stored: int, flow: Flow) -> float:
        """Book a transfer of ``stored`` bytes of cache in equal pieces; returns when the last has come."""
        if stored <= 0:
            return flow.last_s
        piece = -(-stored // flow.pieces)
        senders, receivers = self.senders[prefill], self.receivers[decode]
        for number, stage in enumerate(self.route):
            size = stage.bytes(piece)
            seconds = stage.carrier.seconds(size)
            ends = []
            if stage.prefill:
                ends.append(senders[number])
            if stage.decode:
                ends.append(receivers[number])
            free = max((end.free_s for end in ends), default=0.0)
            flow, taken = through(flow, free, seconds)
            for end in ends:
                end.free_s = taken
                end.busy_s += flow.pieces * seconds
            if number == self._link:
                self.moved_bytes += flow.pieces * size
        return flow.last_s

    def link_busy_s(self) -> tuple[float, float]:
        """Seconds the link's adapters were at work: all senders, all receivers."""
        number = self._link
        return (
            sum(ends[number].busy_s for ends in self.senders),
            sum(ends[number].busy_s for ends in self.receivers),
        )
