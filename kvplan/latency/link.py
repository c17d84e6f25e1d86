"""What ranks pay to exchange tensors: latency plus bytes over the link, by algorithm."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvplan.errors import SpecError
from kvplan.specs.schema import GpuSpec


@dataclass(frozen=True, slots=True)
class Exchange:
    """A link between GPUs, one direction.

    Each method gives ``(seconds per call, seconds per byte of the tensor)``.
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    efficiency: float

    def all_reduce(self, ranks: int) -> tuple[float, float]:
        """Ring: every rank sends ``2 (n - 1) / n`` of the tensor. One rank exchanges nothing."""
        if ranks <= 1:
            return 0.0, 0.0
        return self.latency_s, 2.0 * (ranks - 1) / ranks / self._rate

    def all_to_all(self, ranks: int) -> tuple[float, float]:
        """Every rank sends ``(n - 1) / n`` of its tensor to the others."""
        if ranks <= 1:
            return 0.0, 0.0
        return self.latency_s, (ranks - 1) / ranks / self._rate

    def ring(self, ranks: int) -> tuple[float, float]:
        """A tensor split over the ranks goes all the way round: every rank receives the others' parts."""
        if ranks <= 1:
            return 0.0, 0.0
        return (ranks - 1) * self.latency_s, (ranks - 1) / ranks / self._rate

    def send(self) -> tuple[float, float]:
        """One rank sends the tensor to one other."""
        return self.latency_s, 1.0 / self._rate

    def slower(self, factor: float) -> Exchange:
        """The same link at ``factor`` times the seconds."""
        return replace(self, latency_s=self.latency_s * factor, efficiency=self.efficiency / factor)

    @property
    def _rate(self) -> float:
        return self.bandwidth_bytes_per_s * self.efficiency


NODE = 8
"""GPUs that reach each other over the same fabric, on most machines."""


def beyond_a_node(ranks: int) -> tuple[str, ...]:
    """What to know about more ranks than a node has."""
    if ranks <= NODE:
        return ()
    return (f"{ranks} GPUs of a replica exchange as if all were in one node; links between nodes are slower",)


def exchange_of(gpu: GpuSpec, *, latency_s: float, efficiency: float, ranks: int) -> Exchange | None:
    """How ``ranks`` GPUs of this kind in one node exchange tensors; None for a single one.

    Raises:
        SpecError: the GPU's spec says nothing about its links.
    """
    if ranks <= 1:
        return None
    link = gpu.interconnect
    rate = link.nvlink_bytes_per_s or link.pcie_bytes_per_s
    if rate is None:
        raise SpecError(
            f"the spec of {gpu.name} gives no link between GPUs, which {ranks} ranks need",
            where=f"gpus/{gpu.name}: interconnect",
            hint="add nvlink_bytes_per_s or pcie_bytes_per_s, or use one GPU",
        )
    return Exchange(rate, latency_s, efficiency)
