"""A latency model with what is to be said about it, and what it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvplan.engine.protocols import LatencyModel
from kvplan.latency.assumption import Assumption
from kvplan.latency.client import NO_OVERHEAD, ClientOverhead
from kvplan.latency.normals import Draw
from kvplan.provenance import InputFile

if TYPE_CHECKING:
    from kvplan.latency.fitted import Seen
    from kvplan.latency.roofs import Roofs
    from kvplan.sizing.parallel import Parallel
    from kvplan.sizing.serving import Serving
    from kvplan.specs.formats import KvFormat
    from kvplan.specs.schema import GpuSpec, ModelSpec

Band = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Clock:
    """A latency model and what to say about it.

    Args:
        kind: ``linear``, ``roofline`` or ``profile``.
        name: which one, in words.
        model: what the engine calls.
        statement: one or two sentences on accuracy, for the report.
        bands: relative error bands (low, high) of ttft, tpot, e2e that nine results in ten should lie in;
            None where the model makes no claim.
        source: what the bands come from.
        assumptions: values nobody measured or gave.
        perturbed: members of the ensemble that spans the bands, by seed or by the standard normal numbers
            themselves; None without bands.
        warnings: what the user should know before trusting a result.
        client: what a client waits for beside the engine; part of reported times, not of the model.
        inputs: files named in the scenario that the clock was made from.
        seen: where the bands hold, if not everywhere, and those elsewhere.
        tail_s: seconds by which the 99th percentile of TTFT of a serving run was longer than simulated.
        unknowns: standard normal numbers that ``perturbed`` takes beyond ``DIMENSIONS``.
        profile: name or path of the measured profile it runs on, which may also know how fast bytes move
            (``kvplan.latency.transfer``); None without one.
        roofs: the datasheet's peaks for the same work; None where model or GPU are not known.
    """

    kind: str
    name: str
    model: LatencyModel
    statement: str
    bands: Mapping[str, Band] | None
    source: str
    assumptions: tuple[Assumption, ...] = ()
    perturbed: Callable[[Draw], LatencyModel] | None = None
    warnings: tuple[str, ...] = field(default=())
    client: ClientOverhead = field(default=NO_OVERHEAD)
    inputs: tuple[InputFile, ...] = ()
    seen: Seen | None = None
    tail_s: float = 0.0
    unknowns: int = 0
    profile: str | None = None
    roofs: Roofs | None = None

    def accuracy(self) -> dict[str, Any]:
        """The ``accuracy`` object of a result."""
        bands = None if self.bands is None else {name: list(band) for name, band in self.bands.items()}
        return {
            "model": self.kind, "name": self.name, "statement": self.statement, "bands": bands,
            "source": self.source,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """What the clock is for."""

    model: ModelSpec
    gpu: GpuSpec
    parallel: Parallel
    kv_format: KvFormat
    weights_format: str | None
    block_size: int
    serving: Serving | None = None
    expert_parallel: bool = False
    decode_tokens: int = 1
    projected: bool = False

    @property
    def engine(self) -> str:
        """Which engine's ranks."""
        return "vllm" if self.serving is None else self.serving.kind
