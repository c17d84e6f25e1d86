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

from kvplan.engine.disaggregation.pipeline import through
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
        return stored if self.ratio == 1.0 else math.ceil(stored * self.ratio)


class Adapter:
    """One end of a stage: free again at ``free_s``, at work for ``busy_s`` so far."""

    __slots__ = ("busy_s", "free_s")

    def __init__(self) -> None:
        self.free_s = self.busy_s = 0.0

    def take(self, until_s: float, busy_s: float) -> None:
        """It is at work for ``busy_s`` more seconds, the last of them before ``until_s``."""
        self.free_s = until_s
        self.busy_s += busy_s


class Fabric:
    """All adapters of all instances.

    Attributes:
        moved_bytes: bytes that passed the link.
    """

    def __init__(self, route: Sequence[Stage], prefills: int, decodes: int) -> None:
        if sum(stage.link for stage in route) != 1:
            raise UsageError("a route between instances has exactly one link")
        self.route = tuple(route)
        self.senders = [[Adapter() for _ in route] for _ in range(prefills)]
        self.receivers = [[Adapter() for _ in route] for _ in range(decodes)]
        self.moved_bytes = 0
        self._nobody = Adapter()
        self._link = next(number for number, stage in enumerate(route) if stage.link)

    def send(
        self, prefill: int, decode: int, stored: int, first_s: float, last_s: float, pieces: int = 1
    ) -> float:
        """Book a transfer of ``stored`` bytes of cache; returns when all of it has come.

        Args:
            first_s, last_s: when the first and the last of its equal pieces are there to be sent.
        """
        if stored <= 0:
            return last_s
        piece = -(-stored // pieces)
        senders, receivers = self.senders[prefill], self.receivers[decode]
        for number, stage in enumerate(self.route):
            size = stage.bytes(piece)
            seconds = stage.carrier.seconds(size)
            sender = senders[number] if stage.prefill else self._nobody
            receiver = receivers[number] if stage.decode else self._nobody
            free = sender.free_s if sender.free_s > receiver.free_s else receiver.free_s
            first_s, last_s, taken = through(first_s, last_s, pieces, free, seconds)
            if stage.prefill:
                sender.take(taken, pieces * seconds)
            if stage.decode:
                receiver.take(taken, pieces * seconds)
            if stage.link:
                self.moved_bytes += pieces * size
        return last_s

    def link_busy_s(self) -> tuple[float, float]:
        """Seconds the link's adapters were at work: all senders, all receivers."""
        number = self._link
        return (
            sum(ends[number].busy_s for ends in self.senders),
            sum(ends[number].busy_s for ends in self.receivers),
        )
