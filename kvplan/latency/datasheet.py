"""Kernel times of a GPU from its datasheet: each has a floor, computing and memory overlap in part.

::

    multiplication   floor + norm(2 m n k / (ec * peak) + k * depth,  bytes / (em * BW))
    decode           floor + norm(KV and io bytes / (em * BW),  FLOPs / (ec * peak),
                                  waves * (ctx / splits * token + unit))
    prefill          floor + norm(FLOPs of whole tiles / (ec * peak),  bytes / (em * BW),
                                  tile + keys * token)
    norm(x, ...)   = (x^p + ...)^(1/p)

A sequence and KV head is worked on by one program, or by ``splits`` of them until the multiprocessors are
full; ``waves`` counts how often they are filled. A program walks through elements, however narrow, which is
why a cache of 8 bits is not read in half the time. ``kvplan.latency.efficiency`` has the constants.
Everything is one layer of one rank, in seconds, and rises with every size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kvplan.errors import SpecError
from kvplan.latency.efficiency import Efficiency, GemmEfficiency
from kvplan.latency.grouped import MOE_EFFICIENCY, SORTING_S, tiled_rows
from kvplan.latency.work import Experts
from kvplan.sizing.weight_formats import WeightFormat
from kvplan.specs.schema import GpuSpec

SPLIT_TOKENS = 128
"""Least tokens of a split of a sequence."""
TILE = 128
"""Rows of queries, and half of them keys, that prefill attention works on as a whole."""
USUAL_SMS = 100
"""Multiprocessors of a GPU whose spec does not say."""
GLUE_S = 4e-6
"""Norms, rotary embedding, activation and cache write of a layer: launches under a CUDA graph (assumed)."""
GLUE_STREAMS = 14
"""Hidden-sized tensors a layer's small kernels read and write per token (assumed)."""


DecodeLayer = Callable[[float, float], float]


class PrefillLayer(Protocol):
    """See ``Datasheet.prefill``."""

    def __call__(self, new: float, keys: float, span: float, chunks: float = 1.0) -> float:
        """Seconds."""
        ...


class Datasheet:
    """Kernels of one GPU.

    Args:
        gpu: peaks, bandwidth, multiprocessors.
        efficiency: what kernels reach of them.
    """

    __slots__ = ("_bandwidth", "_peak16", "_sms", "efficiency", "gpu")

    def __init__(self, gpu: GpuSpec, efficiency: Efficiency) -> None:
        self.gpu, self.efficiency = gpu, efficiency
        self._sms = float(gpu.sm_count or USUAL_SMS)
        self._bandwidth = gpu.bandwidth_bytes_per_s
        self._peak16 = peak_flops(gpu, "bf16")

    def gemm(
        self, tokens: float, outputs: int, inputs: int, weight_bytes: float, form: WeightFormat
    ) -> float:
        """``tokens`` rows times ``inputs`` x ``outputs`` weights of ``weight_bytes`` in format ``form``."""
        peak, own = self.multiplication(form)
        compute = 2.0 * tokens * outputs * inputs / (peak * own.compute) + inputs * own.depth_s
        memory = (weight_bytes + 2.0 * tokens * (outputs + inputs)) / (self._bandwidth * own.memory)
        return own.floor_s + norm(own.sharpness, compute, memory)

    def experts(self, item: Experts, tokens: float) -> float:
        """One layer of routed experts for ``tokens`` tokens: two grouped multiplications, and what is around.

        The router's own matrix is a multiplication like others.
        """
        peak, own = self.multiplication(item.format)
        touched, assignments = item.routing.most_touched(tokens), item.routing.heaviest(tokens)
        rows = tiled_rows(assignments, touched)
        compute = rows * item.flops_per_assignment / (peak * own.compute * MOE_EFFICIENCY)
        memory = touched * item.expert_bytes / (self._bandwidth * own.memory)
        around = SORTING_S + self.streamed(assignments * item.assignment_bytes)
        return 2.0 * own.floor_s + around + norm(own.sharpness, compute, memory)

    def decode(
        self, heads: float, token_bytes: float, pair_flops: float, elements: float, query_bytes: float
    ) -> DecodeLayer:
        """Seconds of one layer's decode attention as a function of sequences and the keys each of them sees.

        Args:
            heads: KV heads, each with programs of its own.
            token_bytes: of K and V of one token, all heads.
            pair_flops: of one query and key, all query heads.
            elements: of K and V of one token and head.
            query_bytes: of one token's queries and outputs.
        """
        own, sms = self.efficiency.decode, self._sms
        rate, flops = self._bandwidth * own.memory, self._peak16 * own.compute
        token_s, query_s, pair_s = token_bytes / rate, query_bytes / rate, pair_flops / flops
        walk_s, unit_s, floor_s = own.token_s * elements / 256.0, own.unit_s, own.floor_s
        sharpness, root = own.sharpness, 1.0 / own.sharpness

        # Called once a step and class of layers: constants are bound, and calls avoided.
        def seconds(requests: float, context: float) -> float:
            units = requests * heads
            splits = sms / units
            if splits > context / SPLIT_TOKENS:
                splits = context / SPLIT_TOKENS
            if splits < 1.0:
                splits = 1.0
            waves = units * splits / sms
            walk = context / splits * walk_s + unit_s
            if waves > 1.0:
                walk *= waves
            memory = requests * (context * token_s + query_s)
            compute = requests * context * pair_s
            body: float = (memory**sharpness + compute**sharpness + walk**sharpness) ** root
            return floor_s + body

        return seconds

    def prefill(self, pair_flops: float, token_bytes: float, query_bytes: float) -> PrefillLayer:
        """Seconds of one layer's prefill attention, without the floor that a kernel has once.

        As a function of new queries, keys that each of them sees on average, cached tokens that are read,
        and how many such chunks there are. Arguments as in ``decode``.
        """
        own = self.efficiency.prefill
        rate, flops = self._bandwidth * own.memory, self._peak16 * own.compute
        token_s, query_s, pair_s = token_bytes / rate, query_bytes / rate, pair_flops / flops

        def seconds(new: float, keys: float, span: float, chunks: float = 1.0) -> float:
            compute = chunks * max(new, float(TILE)) * (keys + TILE / 2.0) * pair_s
            memory = chunks * (span * token_s + new * query_s)
            return norm(own.sharpness, compute, memory, own.tile_s + keys * own.token_s)

        return seconds

    def streamed(self, size: float) -> float:
        """Reading or writing ``size`` bytes of memory in order."""
        return size / (self._bandwidth * self.efficiency.gemm.memory)

    def glue(self, layers: int, tokens: float, row_bytes: float) -> float:
        """A layer's small kernels, ``layers`` times."""
        return layers * (GLUE_S + GLUE_STREAMS * self.streamed(tokens * row_bytes))

    def multiplication(self, form: WeightFormat) -> tuple[float, GemmEfficiency]:
        """(FLOP/s of the peak, what is reached) of a multiplication with weights in ``form``.

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
            wanted = "tf32" if "tf32" in self.gpu.peak_flops else "fp32"
        if wanted != "bf16" and wanted in self.gpu.peak_flops:
            wide = wanted in ("tf32", "fp32")
            return peak_flops(self.gpu, wanted), self.efficiency.gemm if wide else self.efficiency.narrow
        return self._peak16, self.efficiency.gemm


def norm(sharpness: float, *seconds: float) -> float:
    """``(x^p + y^p + ...)^(1/p)``: the largest where one is much larger, more where they are alike."""
    total = 0.0
    for value in seconds:
        total += value**sharpness
    return float(total ** (1.0 / sharpness))


def peak_flops(gpu: GpuSpec, dtype: str) -> float:
    """The dense peak of ``dtype``; GPUs older than Ampere have fp16 instead of bf16.

    Raises:
        SpecError: the spec has neither.
    """
    for name in (dtype, "fp16" if dtype == "bf16" else dtype):
        for known, value in gpu.peak_flops.items():
            if known == name:
                return value
    raise SpecError(
        f"{gpu.name} has no {dtype} peak, so a roofline cannot be drawn",
        where=f"gpus/{gpu.name}: peak_flops.{dtype}",
        hint="add the datasheet's dense peak to the GPU spec, or use the linear model",
    )
