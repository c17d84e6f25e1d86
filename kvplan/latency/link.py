"""What ranks pay to exchange tensors: latency plus bytes over the links, by algorithm.

::

    all-reduce    2 (g - 1) / g * bytes / node link  +  2 (N - 1) / N * bytes / g / link between nodes
    at once       (g - 1) * bytes / node link  and half the latency, on one node with a fabric of its own
    gather        (n - 1) / n * bytes / node link  +  (N - 1) / N * bytes / g / link between nodes
    dispatch      the slower of the share that stays in the node and of the share that leaves it
    ring          (n - 1) / n * bytes at the pace of the slowest link

``n`` ranks on ``N`` nodes, ``g`` of them on each. Ranks of a tensor-parallel group sit side by side, those of
a context-parallel group a tensor-parallel group apart, pipeline stages behind each other. A collective that
spans nodes is hierarchical: every GPU has an adapter of its own and carries its ``1 / g`` of the tensor. A
small tensor is summed at once, as every GPU reads all others' (engines' own kernels over NVLink and xGMI):
one phase instead of two, in which ranks wait for each other once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvplan.errors import SpecError, UnknownName
from kvplan.latency.assumption import Assumption
from kvplan.latency.curve import SpecLink, spec_link
from kvplan.specs.schema import GpuSpec

NODE = 8
"""GPUs that reach each other over the same fabric, on most machines."""
NODE_LINK = "ib-ndr"
"""What connects nodes where the scenario does not say: one 400 Gb/s adapter a GPU."""
NODE_KEY, NODE_LINK_KEY = "node_gpus", "node_link"
KEYS = (NODE_KEY, NODE_LINK_KEY)
SPREAD = 1.5
"""Factor within which exchanges over links that were not measured take as long as stated, nine in ten times:
a datasheet's rate is never exceeded and seldom reached, and latencies differ by library."""
PCIE_STEP_S = 1e-6
"""Of each step of a ring over PCIe beyond the first two: NCCL reckons with 6.6 us and 1.0 us for each of
``2 (n - 1)`` (its ``tuning.cc``). Engines' own kernels sum over no more than two GPUs without a fabric."""
PER_BYTE = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Dispatching:
    """One direction of a dispatch kernel: its shortest call, and the share of a link's rate it reaches."""

    fixed_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """Links between GPUs, one direction.

    Each method gives ``(seconds per call, seconds per byte of the tensor)``; ``stride`` is how many GPUs
    apart neighbouring ranks sit.

    Args:
        bandwidth_bytes_per_s, latency_s, efficiency: inside a node.
        node: GPUs of a node.
        between: from node to node, for each GPU.
        meshed: every GPU of a node reads the others' memory over a fabric.
        slowness: times as long as usual, of calls whose latency is their own.
        bridge: GPUs that the fabric joins where that is not a whole node, and the rate at which more of them
            reach each other.
        step_s: of each step of a ring beyond two, where the fabric does not join its ranks.
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    efficiency: float
    node: int = NODE
    between: SpecLink | None = None
    meshed: bool = False
    slowness: float = 1.0
    bridge: tuple[int, float] | None = None
    step_s: float = 0.0

    def nodes(self, ranks: int, stride: int = 1) -> tuple[int, int]:
        """(ranks on one node, nodes) of a group."""
        if self.between is None:
            return ranks, 1
        inside = min(max(self.node // stride, 1), ranks)
        return inside, -(-ranks // inside)

    def reduce_ways(self, ranks: int) -> tuple[PER_BYTE, ...]:
        """Of all-reduces, the shortest of which is taken for a size."""
        phases, (_, nodes) = self.all_reduce(ranks), self.nodes(ranks)
        if not self.meshed or nodes > 1 or ranks <= 1 or not self._joined(ranks):
            return (phases,)
        return phases, (0.5 * self.latency_s, (ranks - 1) / self._rate(ranks))

    def all_reduce(self, ranks: int, stride: int = 1) -> PER_BYTE:
        """Every rank ends with the sum, in two phases. One rank exchanges nothing."""
        if ranks <= 1:
            return 0.0, 0.0
        inside, _ = self.nodes(ranks, stride)
        fixed, per_byte = self.across(ranks, stride)
        if inside > 1:
            fixed += self.latency_s + 2 * self._walk_s(inside, inside * stride)
            per_byte += 2.0 * (inside - 1) / inside / self._rate(inside * stride)
        return fixed, per_byte

    def across(self, ranks: int, stride: int = 1) -> PER_BYTE:
        """The part of an all-reduce that is between nodes."""
        inside, nodes = self.nodes(ranks, stride)
        if nodes <= 1 or self.between is None:
            return 0.0, 0.0
        return 2.0 * self.between.latency_s, 2.0 * (nodes - 1) / nodes / inside / self._far_rate

    def gather(self, ranks: int) -> PER_BYTE:
        """Every rank ends with the tensor of which each had a part, or with its part of the sum."""
        if ranks <= 1:
            return 0.0, 0.0
        inside, _ = self.nodes(ranks)
        fixed, per_byte = self.across(ranks)
        fixed = self.latency_s + self._walk_s(inside, inside) + 0.5 * fixed
        return fixed, (inside - 1) / inside / self._rate(inside) + 0.5 * per_byte

    def dispatch(self, ranks: int, kernel: Dispatching) -> PER_BYTE:
        """Every rank sends ``(n - 1) / n`` of its rows to the others."""
        if ranks <= 1:
            return 0.0, 0.0
        inside, nodes = self.nodes(ranks)
        near = (inside - 1) / ranks / (self._rate(inside) / self.efficiency * kernel.share)
        if nodes <= 1 or self.between is None:
            return kernel.fixed_s * self.slowness, near
        far = (ranks - inside) / ranks / self._far_rate
        return kernel.fixed_s * self.slowness + self.between.latency_s, max(near, far)

    def ring(self, ranks: int, stride: int = 1) -> PER_BYTE:
        """A tensor split over the ranks goes all the way round: every rank receives the others' parts."""
        if ranks <= 1:
            return 0.0, 0.0
        _, nodes = self.nodes(ranks, stride)
        share = (ranks - 1) / ranks
        if nodes <= 1 or self.between is None:
            return (ranks - 1) * self.latency_s, share / self._rate(ranks * stride)
        slowest = max(self.latency_s, self.between.latency_s)
        return (ranks - 1) * slowest, share / min(self._rate(min(ranks * stride, self.node)), self._far_rate)

    def hops(self, stages: int, width: int) -> PER_BYTE:
        """A tensor passes from each of ``stages`` groups of ``width`` GPUs to the next."""
        _, nodes = self.nodes(stages, width)
        far = nodes - 1
        near = stages - 1 - far
        fixed, per_byte = near * self.latency_s, near / self._rate(2 * width)
        if far and self.between is not None:
            fixed, per_byte = fixed + far * self.between.latency_s, per_byte + far / self._far_rate
        return fixed, per_byte

    def slower(self, factor: float) -> Exchange:
        """The same links at ``factor`` times the seconds."""
        far = self.between
        if far is not None:
            far = SpecLink(far.name, far.latency_s * factor, far.bandwidth_bytes_per_s / factor)
        return replace(
            self,
            latency_s=self.latency_s * factor,
            slowness=self.slowness * factor,
            step_s=self.step_s * factor,
            between=far,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s / factor,
            bridge=None if self.bridge is None else (self.bridge[0], self.bridge[1] / factor),
        )

    def assumptions(self, given: Mapping[str, Any]) -> tuple[Assumption, ...]:
        """How nodes are connected, where there is more than one, and cards that have bridges."""
        return (*self._about_fabric(given), *self._about_nodes(given))

    def _about_fabric(self, given: Mapping[str, Any]) -> Iterator[Assumption]:
        if self.node > NODE and NODE_KEY not in given:
            yield Assumption(f"latency.{NODE_KEY}", self.node, "GPUs of a rack that one fabric joins")
        if self.bridge is None:
            return
        cards, rate = self.bridge
        text = (
            f"cards that a bridge at {self.bandwidth_bytes_per_s / 1e9:.4g} GB/s is taken to join; groups of "
            f"more exchange over PCIe at {rate / 1e9:.4g} GB/s"
        )
        yield Assumption("latency.fabric_gpus", cards, text)

    def _about_nodes(self, given: Mapping[str, Any]) -> tuple[Assumption, ...]:
        if self.between is None:
            return ()
        link, why = self.between, "given in the scenario" if NODE_LINK_KEY in given else "assumed"
        text = (
            f"between nodes of {self.node} GPUs, {1e6 * link.latency_s:.3g} us + bytes / "
            f"{link.bandwidth_bytes_per_s / 1e9:.4g} GB/s for each GPU; {why}"
        )
        return (Assumption(f"latency.{NODE_LINK_KEY}", link.name, text),)

    def _walk_s(self, ranks: int, span: int) -> float:
        """The steps of one phase of a ring beyond its first."""
        return 0.0 if self.meshed and self._joined(span) else max(ranks - 2, 0) * self.step_s

    def _joined(self, span: int) -> bool:
        """Whether the fabric joins so many GPUs side by side."""
        return self.bridge is None or span <= self.bridge[0]

    def _rate(self, span: int) -> float:
        """Of exchanges among GPUs of a node that lie within ``span`` of each other."""
        if self.bridge is None or self._joined(span):
            return self.bandwidth_bytes_per_s * self.efficiency
        return self.bridge[1] * self.efficiency

    @property
    def _far_rate(self) -> float:
        """A link spec's rate is what is usable already."""
        assert self.between is not None
        return self.between.bandwidth_bytes_per_s


def beyond_a_node(exchange: Exchange | None, ranks: int, given: Mapping[str, Any]) -> tuple[str, ...]:
    """What to know about more ranks than a node has, unless the scenario says how nodes are connected."""
    if exchange is None or exchange.between is None or NODE_LINK_KEY in given:
        return ()
    text = (
        f"{ranks} GPUs of a replica span nodes of {exchange.node}, assumed to be connected by "
        f"{exchange.between.name}: say latency.{NODE_LINK_KEY} and latency.{NODE_KEY}"
    )
    return (text,)


def exchange_of(
    gpu: GpuSpec,
    *,
    latency_s: float,
    efficiency: float,
    ranks: int,
    given: Mapping[str, Any] | None = None,
) -> Exchange | None:
    """How ``ranks`` GPUs of this kind exchange tensors; None for a single one.

    Args:
        given: the ``latency`` section: ``node_gpus`` and ``node_link``, for more GPUs than a node has.

    Raises:
        SpecError: the GPU's spec says nothing about its links; ``node_gpus`` is no number of GPUs.
        UnknownName: no such link.
    """
    given = given or {}
    link = gpu.interconnect
    joined = link.fabric_gpus or NODE
    node, name = given.get(NODE_KEY, max(joined, NODE)), given.get(NODE_LINK_KEY, NODE_LINK)
    if isinstance(node, bool) or not isinstance(node, int) or not 1 <= node <= 1 << 16:
        raise SpecError(
            f"{NODE_KEY} must be a number of GPUs, not {node!r}", where=f"latency.{NODE_KEY}",
            hint="how many GPUs share a fabric: 8 on most machines, 72 in an NVL72 rack",
        )  # fmt: skip
    if ranks <= 1:
        return None
    rate = link.nvlink_bytes_per_s or link.pcie_bytes_per_s
    if rate is None:
        raise SpecError(
            f"the spec of {gpu.name} gives no link between GPUs, which {ranks} ranks need",
            where=f"gpus/{gpu.name}: interconnect",
            hint="add nvlink_bytes_per_s or pcie_bytes_per_s, or use one GPU",
        )
    meshed, bridge = link.nvlink_bytes_per_s is not None, None
    if meshed and joined < NODE and link.pcie_bytes_per_s is not None:
        bridge = joined, link.pcie_bytes_per_s
    between = _between(name) if ranks > node else None
    step_s = 0.0 if meshed and bridge is None else PCIE_STEP_S
    return Exchange(rate, latency_s, efficiency, node, between, meshed, bridge=bridge, step_s=step_s)


def _between(name: object) -> SpecLink:
    from kvplan.specs.catalog import load_link

    if not isinstance(name, str):
        raise SpecError(f"{NODE_LINK_KEY} must name a link, not {name!r}", where=f"latency.{NODE_LINK_KEY}")
    try:
        return spec_link(load_link(name))
    except UnknownName as exc:
        exc.where = f"latency.{NODE_LINK_KEY}"
        raise
