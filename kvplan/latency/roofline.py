"""The datasheet roofline of one engine step: what a step takes when nothing was measured.

::

    t = step + request * sampled + head
        + max(linear + attention + collectives, launching)
    linear, attention, head = max(FLOPs / (ec * peak), bytes / (em * BW))

Each phase is bound by the tensor cores at ``ec`` of the datasheet's dense peak or by memory at ``em`` of its
bandwidth; phases follow each other. Attention over the KV of decode requests and over prefill chunks is one
phase. Experts read the weights of those a batch touches: with balanced routing of k out of n experts, T
tokens touch ``n * (1 - (1 - k/n)^T)`` in expectation. Launching is what the host needs to launch the step's
kernels (``kvplan.latency.graphs``), and batches that replay a CUDA graph are padded to its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError
from kvplan.latency.assumption import Assumption
from kvplan.latency.graphs import ALWAYS_GRAPHS, UNCERTAINTY, Launching
from kvplan.latency.graphs import KEY as LAUNCH
from kvplan.latency.link import Exchange
from kvplan.latency.normals import Draw, normals
from kvplan.latency.pairs import chunk_pairs, chunk_span
from kvplan.latency.ring import ring_of
from kvplan.latency.routing import Routing
from kvplan.latency.work import StepWork
from kvplan.sizing.weight_formats import WeightFormat
from kvplan.specs.schema import GpuSpec

TPOT_BAND = (-0.20, 0.20)
TTFT_BAND = (-0.30, 0.30)
E2E_BAND = (-0.20, 0.20)
"""Where a datasheet roofline's errors lie on models it was never fitted to, nine times in ten."""


@dataclass(frozen=True, slots=True)
class RooflineConstants:
    """The constants of the formula; the defaults need no measurement.

    Args:
        compute_efficiency: ``ec``, share of the tensor cores' dense peak that kernels reach.
        memory_efficiency: ``em``, share of the memory bandwidth that kernels reach.
        step_s: every step: scheduling, launching, sampling, detokenizing.
        request_s: every sampled request.
        reduce_s: latency of one all-reduce.
        link_efficiency: share of the links' bandwidth that collectives reach.
    """

    compute_efficiency: float = 0.6
    memory_efficiency: float = 0.8
    step_s: float = 2e-3
    request_s: float = 0.0
    reduce_s: float = 8e-6
    link_efficiency: float = 0.8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            share = field.name.endswith("efficiency")
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not good or value < 0 or (share and not 0 < value <= 1):
                raise SpecError(
                    f"{field.name} must be {'in (0, 1]' if share else 'seconds >= 0'}, not {value!r}",
                    where=f"latency.{field.name}",
                )
            object.__setattr__(self, field.name, float(value))


@dataclass(frozen=True, slots=True)
class StepParts:
    """Seconds of one step by cause; ``seconds`` is their sum.

    ``waiting_s``: how long the GPU waits for launches.
    """

    overhead_s: float
    linear_s: float
    attention_s: float
    head_s: float
    collective_s: float
    waiting_s: float = 0.0

    @property
    def seconds(self) -> float:
        """The step."""
        return math.fsum(getattr(self, field.name) for field in fields(self))


class Roofline:
    """The roofline of one model on one GPU; see the module for the formula.

    Args:
        work: what a step does on one rank.
        gpu: datasheet peaks and bandwidth.
        exchange: how ranks exchange tensors (None for one GPU).
        constants: efficiencies and overheads.
        launching: how the host launches kernels.
    """

    __slots__ = (
        "_attention", "_dense_bytes", "_dense_s", "_experts", "_full_limit", "_full_s", "_head_bytes_s",
        "_head_s", "_merge", "_padding", "_pieces_limit", "_pieces_s", "_plain_s", "_reduce_fixed",
        "_reduce_token", "_request", "_ring", "_sent", "_sequence_s", "_simple", "_step", "constants",
        "exchange", "gpu", "launching", "work",
    )  # fmt: skip

    def __init__(
        self,
        work: StepWork,
        gpu: GpuSpec,
        exchange: Exchange | None,
        constants: RooflineConstants,
        launching: Launching = ALWAYS_GRAPHS,
    ) -> None:
        self.work, self.gpu, self.exchange, self.constants = work, gpu, exchange, constants
        self.launching = launching
        self._full_limit, self._pieces_limit = launching.full_limit, launching.piecewise_limit
        self._full_s, self._pieces_s, self._plain_s = launching.full_s, launching.pieces_s, launching.plain_s
        self._padding = launching.padding()
        memory = gpu.bandwidth_bytes_per_s * constants.memory_efficiency
        self._step, self._request = constants.step_s, constants.request_s
        # Per token: FLOPs of each linear at its own peak; all weights are read once.
        self._dense_s = sum(
            2.0 * item.count * item.outputs * item.inputs / self._rate(item.format) for item in work.linears
        )
        self._dense_bytes = sum(item.count * item.weight_bytes for item in work.linears) / memory
        # Per expert touched and per assignment, over all layers that route alike.
        merged: dict[Routing, tuple[float, float]] = {}
        for experts in work.experts:
            size = experts.layers * experts.expert_bytes / memory
            one = experts.layers * experts.flops_per_assignment / self._rate(experts.format)
            had = merged.get(experts.routing, (0.0, 0.0))
            merged[experts.routing] = (had[0] + size, had[1] + one)
        self._experts = [(routing, size, one) for routing, (size, one) in merged.items()]
        bf16 = self._peak("bf16") * constants.compute_efficiency
        # Layers that read the cache alike are one entry: (limit, ratio) -> bytes and FLOPs per pair.
        classes: dict[tuple[int | None, int], list[float]] = {}
        for item in work.attentions:
            entry = classes.setdefault((item.limit, item.ratio), [0.0, 0.0, 0.0])
            entry[0] += item.layers * item.kv_bytes_per_token / memory / item.ratio
            entry[1] += item.layers * item.decode_flops / bf16 / item.ratio
            entry[2] += item.layers * item.prefill_flops / bf16 / item.ratio
        self._attention: list[tuple[int | None, float, float, float]] = [
            (limit, kv, decode, prefill) for (limit, _), (kv, decode, prefill) in classes.items()
        ]
        self._simple = (
            len(self._attention) == 1
            and self._attention[0][0] is None
            and not self._experts
            and work.context_ranks == 1
        )
        self._sequence_s = 2.0 * work.state_bytes_per_sequence / memory
        head = work.head
        self._head_s = 2.0 * head.outputs * head.inputs / self._rate(head.format)
        self._head_bytes_s = head.weight_bytes / memory
        self._reduce_fixed = self._reduce_token = self._sent = 0.0
        self._ring = ring_of(work, exchange)
        self._merge = (0.0, 0.0) if self._ring is None else self._ring.merge
        if exchange is not None:
            row = work.hidden_size * work.activation_bytes
            fixed, per_byte = exchange.all_reduce(work.ranks)
            self._reduce_fixed = work.all_reduces * fixed
            self._reduce_token = work.all_reduces * per_byte * row
            if work.expert_layers:
                fixed, per_byte = exchange.all_to_all(work.expert_ranks)
                self._reduce_fixed += 2 * work.expert_layers * fixed
                self._sent = 2 * work.expert_layers * per_byte * row
            fixed, per_byte = exchange.send()
            self._reduce_fixed += work.stage_hops * fixed
            self._reduce_token += work.stage_hops * per_byte * row

    def _peak(self, dtype: str) -> float:
        alike = "fp16" if dtype == "bf16" else dtype  # GPUs older than Ampere have no bf16 peak
        for name in (dtype, alike):
            for known, value in self.gpu.peak_flops.items():
                if known == name:
                    return value
        raise SpecError(
            f"{self.gpu.name} has no {dtype} peak, so a roofline cannot be drawn",
            where=f"gpus/{self.gpu.name}: peak_flops.{dtype}",
            hint="add the datasheet's dense peak to the GPU spec, or use the linear model",
        )

    def _rate(self, form: WeightFormat) -> float:
        """FLOP/s of a matrix multiplication with weights in ``form``.

        8- and 4-bit floats run at their own peak where the GPU has one; weight-only formats (and fp8 on GPUs
        without it) are expanded and run at the 16-bit peak.
        """
        wanted = "bf16"
        if form.name.startswith("fp8") or form.name == "mxfp8":
            wanted = "fp8"
        elif form.name == "int8":
            wanted = "int8"
        elif form.name == "nvfp4":
            wanted = "fp4"
        elif form.name == "fp32":
            wanted = "tf32"
        if wanted not in self.gpu.peak_flops:
            wanted = "bf16" if form.name != "fp32" else "fp32"
        return self._peak(wanted) * self.constants.compute_efficiency

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds of the step; constant time in the number of decode requests."""
        tokens, launch = self._launched(batch)
        compute, memory = tokens * self._dense_s, self._dense_bytes
        if self._simple:
            _, kv, decode, prefill = self._attention[0]
            context = batch.decode_kv_tokens
            read, pairs = context * kv, context * decode
            for before, new in batch.prefill_chunks:
                read += (before + new) * kv
                pairs += new * (before + (new + 1) / 2) * prefill
        else:
            for routing, size, one in self._experts:
                compute += one * routing.heaviest(float(tokens))
                memory += size * routing.touched(float(tokens))
            read, pairs = self._mixed_attention(batch)
            if self._ring is not None:
                read = max(read, self._passed(batch))
        sampled = batch.sampled_requests
        body = (
            self._exchanged(tokens, batch.decode_requests)
            + (compute if compute > memory else memory) + (pairs if pairs > read else read)
        )  # fmt: skip
        seconds = self._step + self._request * sampled + (body if body > launch else launch)
        if sampled:
            head = sampled * self._head_s
            seconds += head if head > self._head_bytes_s else self._head_bytes_s
        return seconds

    def _passed(self, batch: StepBatch) -> float:
        """Passing prefill chunks round a context-parallel ring, which overlaps with attention."""
        if self._ring is None:
            return 0.0
        return sum(self._ring.chunk_seconds(before, new) for before, new in batch.prefill_chunks)

    def _exchanged(self, tokens: int, decode: int) -> float:
        """Collectives of a step."""
        seconds = self._reduce_fixed + self._reduce_token * tokens
        if decode and self._ring is not None:
            seconds += self._merge[0] + self._merge[1] * decode
        if self._sent:
            seconds += self._sent * self._experts[0][0].sent(float(tokens))
        return seconds

    def _launched(self, batch: StepBatch) -> tuple[int, float]:
        """(tokens computed, seconds of launching): see ``Launching.padded`` and ``Launching.seconds``."""
        tokens = batch.scheduled_tokens
        if self._ring is not None:
            tokens = self._ring.rank_tokens(tokens, batch.decode_requests)
        computed = self._padding[tokens] if tokens < len(self._padding) else tokens
        if not batch.prefill_chunks and tokens <= self._full_limit:
            return computed, self._full_s
        return computed, self._pieces_s if tokens <= self._pieces_limit else self._plain_s

    def _mixed_attention(self, batch: StepBatch) -> tuple[float, float]:
        """(seconds of memory, seconds of FLOPs) where layers differ in window, ratio or state."""
        requests, context = batch.decode_requests, batch.decode_kv_tokens
        read, pairs = (requests + len(batch.prefill_chunks)) * self._sequence_s, 0.0
        for limit, kv, decode, prefill in self._attention:
            seen = context if limit is None else min(context, requests * limit)
            read += seen * kv
            pairs += seen * decode
            for before, new in batch.prefill_chunks:
                read += chunk_span(before, new, limit) * kv
                pairs += chunk_pairs(before, new, limit) * prefill
        return read, pairs

    def parts(self, batch: StepBatch) -> StepParts:
        """The same step, by cause (slower; for explanations and tests)."""
        (tokens, launch), sampled = self._launched(batch), batch.sampled_requests
        compute, memory = tokens * self._dense_s, self._dense_bytes
        for routing, size, one in self._experts:
            compute += one * routing.heaviest(float(tokens))
            memory += size * routing.touched(float(tokens))
        linear, attention = max(compute, memory), max(*self._mixed_attention(batch), self._passed(batch))
        collective = self._exchanged(tokens, batch.decode_requests)
        return StepParts(
            overhead_s=self._step + self._request * sampled,
            linear_s=linear,
            attention_s=attention,
            head_s=max(sampled * self._head_s, self._head_bytes_s) if sampled else 0.0,
            collective_s=collective,
            waiting_s=max(launch - linear - attention - collective, 0.0),
        )

    def perturbed(self, draw: Draw) -> Roofline:
        """A member of the ensemble that spans the stated bands: efficiencies and overheads drawn anew.

        The factors are log-normal: memory and overhead so that 90 % lie within the TPOT band, compute within
        the TTFT band.
        """
        normal = normals(draw, "roofline")
        # One draw for everything that decides TPOT: independent draws would average out and span less.
        slow = math.exp(normal() * math.log1p(TPOT_BAND[1]) / 1.645)
        compute = math.exp(normal() * math.log1p(TTFT_BAND[1]) / 1.645)
        base = self.constants
        memory = min(base.memory_efficiency / slow, 1.0)
        compute = min(base.compute_efficiency / compute, 1.0)
        link = min(base.link_efficiency / slow, 1.0)
        overhead = slow
        host = math.exp(math.log(slow) * math.log(UNCERTAINTY) / math.log1p(TPOT_BAND[1]))
        constants = replace(
            base, memory_efficiency=memory, compute_efficiency=compute, step_s=base.step_s * overhead,
            request_s=base.request_s * overhead, reduce_s=base.reduce_s * overhead, link_efficiency=link,
        )  # fmt: skip
        exchange = self.exchange
        if exchange is not None:
            exchange = replace(exchange, latency_s=constants.reduce_s, efficiency=constants.link_efficiency)
        return Roofline(self.work, self.gpu, exchange, constants, self.launching.scaled(host))

    def with_constants(self, values: Mapping[str, float]) -> Roofline:
        """The same deployment with other constants, ``launch_s`` among them."""
        engine = {name: value for name, value in values.items() if name != LAUNCH}
        launching = self.launching.with_op(values[LAUNCH]) if LAUNCH in values else self.launching
        return Roofline(self.work, self.gpu, self.exchange, replace(self.constants, **engine), launching)

    def assumptions(self) -> tuple[Assumption, ...]:
        """Every constant that was assumed, for the report."""
        default = RooflineConstants()
        found = []
        for field in fields(RooflineConstants):
            value = getattr(self.constants, field.name)
            why = "no measurement" if value == getattr(default, field.name) else "given in the scenario"
            if field.name in ("reduce_s", "link_efficiency") and self.exchange is None:
                continue
            found.append(Assumption(f"latency.{field.name}", value, f"roofline constant, {why}"))
        found += self.launching.assumptions()
        if self._ring is not None:
            found += self._ring.assumptions()
        found += [Assumption("latency.not_timed", note, "the model's shape") for note in self.work.notes]
        if self.work.stage_hops:
            found.append(
                Assumption(
                    "latency.pipeline", "one batch in flight",
                    "a step passes through all stages; overlap of several batches is not simulated",
                )
            )  # fmt: skip
        return tuple(found)
