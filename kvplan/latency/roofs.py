"""What the datasheet alone says of a step: seconds at the peaks, and which peak binds each part.

::

    at the peak        sum over kernels of FLOPs / dense peak of their number format
    at the bandwidth   bytes of weights, cache and state that must be read / bandwidth

Only work that somebody asked for counts: no padding to captured sizes, no tile half empty, no activations.
Seconds at a peak over seconds of a clock are the share of that peak that is used. A part is bound by the peak
at which it takes longer (Williams et al. 2009, the roofline).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvplan.engine.protocols import StepBatch
from kvplan.latency.datasheet import Datasheet, peak_flops
from kvplan.latency.efficiency import efficiency_of
from kvplan.latency.pairs import chunk_pairs, chunk_span
from kvplan.latency.work import Linear, StepWork
from kvplan.specs.schema import GpuSpec


@dataclass(frozen=True, slots=True)
class Roof:
    """Seconds of a part at the peak of arithmetic, and at the memory's bandwidth."""

    compute_s: float = 0.0
    memory_s: float = 0.0

    @property
    def computes(self) -> bool:
        """Whether arithmetic binds it."""
        return self.compute_s > self.memory_s

    def __add__(self, other: Roof) -> Roof:
        return Roof(self.compute_s + other.compute_s, self.memory_s + other.memory_s)


@dataclass(frozen=True, slots=True)
class StepRoofs:
    """The roofs of one step by part, those of ``kvplan.latency.parts`` that move or multiply something."""

    linear: Roof
    decode: Roof
    prefill: Roof
    state: Roof
    head: Roof

    @property
    def whole(self) -> Roof:
        """All parts one after the other."""
        return self.linear + self.decode + self.prefill + self.state + self.head


class Roofs:
    """Peaks of one GPU, and the work of one model on one rank.

    Args:
        work: what a step does on a rank, over all pipeline stages.
        gpu: dense peaks in FLOP/s, bandwidth in bytes/s.
    """

    def __init__(self, work: StepWork, gpu: GpuSpec) -> None:
        self.work = work
        self._sheet = Datasheet(gpu, efficiency_of(gpu))
        self._bandwidth, self._peak16 = gpu.bandwidth_bytes_per_s, peak_flops(gpu, "bf16")

    def step(self, batch: StepBatch) -> StepRoofs:
        """The roofs of a step."""
        work, requests, chunks = self.work, batch.decode_requests, batch.prefill_chunks
        # Context-parallel ranks divide prompts among them; decode tokens are on all of them.
        tokens = requests + (batch.scheduled_tokens - requests) / work.context_ranks
        sequences = requests + len(chunks)
        return StepRoofs(
            linear=self._multiplied(work.linears, tokens) + self._experts(tokens),
            decode=self._decode(requests, batch.decode_kv_tokens / requests) if requests else Roof(),
            prefill=self._prefill(chunks),
            state=Roof(memory_s=2.0 * sequences * work.state_bytes_per_sequence / self._bandwidth),
            head=self._multiplied((work.head,), batch.sampled_requests),
        )

    def _multiplied(self, matrices: Iterable[Linear], tokens: float) -> Roof:
        if not tokens:
            return Roof()
        compute = size = 0.0
        for item in matrices:
            peak, _ = self._sheet.multiplication(item.format)
            compute += item.count * 2.0 * tokens / item.dealt * item.outputs * item.inputs / peak
            size += item.count * item.weight_bytes
        return Roof(compute, size / self._bandwidth)

    def _experts(self, tokens: float) -> Roof:
        found = Roof()
        for item in self.work.experts:
            peak, _ = self._sheet.multiplication(item.format)
            flops = item.routing.heaviest(tokens) * item.flops_per_assignment
            size = item.routing.touched(tokens) * item.expert_bytes
            found += Roof(item.layers * flops / peak, item.layers * size / self._bandwidth)
        return found

    def _decode(self, requests: int, context: float) -> Roof:
        compute = size = 0.0
        for item in self.work.attentions:
            seen = context if item.limit is None else min(context, float(item.limit))
            entries = item.layers * requests * seen / item.ratio
            flops = item.decode_flops * self._sheet.score_share(narrow=item.narrow)
            compute += entries * flops / self._peak16
            size += entries * item.kv_bytes_per_token
        return Roof(compute, size / self._bandwidth)

    def _prefill(self, chunks: Iterable[tuple[int, int]]) -> Roof:
        compute = size = 0.0
        for item in self.work.attentions:
            for before, new in chunks:
                pairs = item.layers * chunk_pairs(before, new, item.limit) / item.ratio
                entries = item.layers * chunk_span(before, new, item.limit) / item.ratio
                flops = item.prefill_flops * self._sheet.score_share(narrow=item.narrow)
                compute += pairs * flops / self._peak16
                size += entries * item.kv_bytes_per_token
        return Roof(compute, size / self._bandwidth)
