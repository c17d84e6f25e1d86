"""What disaggregation costs and brings: the first token taken apart, bytes, stalls.

All times are the engines': what a client waits for beside them is not in here.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence

from kvplan.engine.disaggregation.fabric import Fabric
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.recorder import Metric

PARTS = {
    "queue": "from arrival until the prefill instance begins",
    "prefill": "computing the prompt, preemption included",
    "transfer": "until the cache is on the decode instance, waiting for its blocks included",
    "first_decode": "until the decode instance has sampled its first token",
}
"""Parts of the way to the first token, in order. They follow each other without a gap."""

WAITED = "of the transfer: waiting for blocks of the decode instance"
COMPUTED = "computed, then waited for decode blocks"


class Breakdown:
    """Collects finished journeys.

    Attributes:
        parts: seconds of each part, one entry a request that was handed over.
        room_s: seconds each of them waited for blocks of the decode instance.

    Args:
        first_token: which one the client sees.
        parts: the parts and what they are.
        pressed, waited: what is said of waiting for blocks: of whom, and of its seconds.
    """

    def __init__(
        self,
        first_token: FirstToken,
        parts: Mapping[str, str] = PARTS,
        pressed: str = COMPUTED,
        waited: str = WAITED,
    ) -> None:
        self.first_token = first_token
        self.meanings = parts
        self.parts = {name: array("d") for name in parts}
        self._pressed, self._waited = pressed, waited
        self.room_s = array("d")
        self.lost = 0
        self.alone = 0

    def add(self, marks: Sequence[float], room_s: float, lost: bool = False) -> None:
        """A request that the decode instance served.

        Args:
            marks: its arrival, and when each of the parts ended.
            room_s: how long it waited for blocks of the decode instance.
            lost: whether the decode instance computed the prompt.
        """
        for number, name in enumerate(self.parts):
            self.parts[name].append(marks[number + 1] - marks[number])
        self.room_s.append(room_s)
        self.lost += lost

    def metrics(self) -> Iterator[Metric]:
        """Mean, median and 99th percentile of every part, then what waiting for room cost."""
        inside = "part of TTFT"
        for name, meaning in self.meanings.items():
            if self.first_token is FirstToken.PREFILL and name == "transfer":
                inside = "after the first token, which comes from the prefill instance"
            yield from _spread(f"ttft_{name}", self.parts[name], f"{meaning}; {inside}")
        waited = [seconds for seconds in self.room_s if seconds > 0]
        yield Metric("back_pressured", len(waited), "requests", self._pressed)
        yield from _spread("back_pressure", self.room_s, self._waited)
        if self.meanings is PARTS:
            yield Metric(
                "recomputed", self.lost, "requests",
                "preempted by the prefill instance before they were sent; computed by the decode instance",
            )  # fmt: skip
        if self.alone:
            yield Metric(
                "finished_at_prefill", self.alone, "requests", "one token asked for: nothing to hand over"
            )


def link_metrics(fabric: Fabric, makespan_s: float, hit_bytes: int) -> Iterator[Metric]:
    """Bytes and how busy the link's adapters were."""
    sent, received = fabric.link_busy_s()
    yield Metric("moved_bytes", fabric.moved_bytes, "bytes", "over the link, as they travel")
    yield Metric("kept_bytes", hit_bytes, "bytes", "not sent: in the decode instance's prefix cache")
    for name, busy, ends in (
        ("prefill", sent, len(fabric.senders)), ("decode", received, len(fabric.receivers)),
    ):  # fmt: skip
        share = busy / (makespan_s * ends) if makespan_s > 0 else 0.0
        yield Metric(
            f"link_utilisation_{name}",
            share,
            "1",
            f"time the {name} instances' adapters carry, of the makespan",
        )


def _spread(name: str, values: array[float], meaning: str) -> Iterator[Metric]:
    data = sorted(values)
    mean = math.fsum(data) / len(data) if data else None
    yield Metric(f"{name}_mean", mean, "s", meaning)
    for percent, word in ((50, "median"), (99, "99th percentile")):
        yield Metric(f"{name}_p{percent}", _quantile(data, percent / 100), "s", f"{word} of the same")


def _quantile(data: list[float], share: float) -> float | None:
    """Linear interpolation between the closest ranks, as the latencies of a result are."""
    if not data:
        return None
    rank = share * (len(data) - 1)
    below = math.floor(rank)
    if below + 1 >= len(data):
        return data[-1]
    return min(data[below + 1], data[below] + (data[below + 1] - data[below]) * (rank - below))
