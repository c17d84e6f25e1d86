"""Kernel times of a GPU from its datasheet: each has a floor, computing and memory overlap in part.

::

    multiplication   floor + norm(tiled,  bytes / (em * BW)) + quantised
    tiled          = least, over tiles and splits of k, of
                     waves * (k / splits * tile / (ec * peak / SMs) + tile end) + merge of the splits
    waves          = ceil(tiles * splits / SMs)
    quantised      = floor + 3 m k / (eq * BW)               8- and 4-bit formats: activations, in bytes
    decode           floor + norm(KV and io bytes / (em * BW),  FLOPs / (ec * peak),
                                  waves * (ctx / splits * token + unit))
    prefill          floor + norm(FLOPs of whole tiles / (ec * peak),  bytes / (em * BW),
                                  tile + keys * token)
    norm(x, ...)   = (x^p + ...)^(1/p)

A matrix is multiplied in whole tiles, one a multiprocessor at a time, so that the last wave leaves some of
them idle; few tiles are split along k. A sequence and KV head is worked on by one program, or by ``splits``
of them until the multiprocessors are full; ``waves`` counts how often they are filled. A program walks
through elements, however narrow, which is why a cache of 8 bits is not read in half the time.
``kvplan.latency.efficiency`` has the constants, those of latencies in cycles of ``clock_hz``. Everything is
one layer of one rank, in seconds, and rises with every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from kvplan.errors import SpecError
from kvplan.latency.efficiency import Efficiency, GemmEfficiency, NarrowEfficiency
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
USUAL_CLOCK_HZ = 1.7e9
"""Clock of a GPU whose spec does not imply it."""
CLOCKS_HZ = (5e8, 4e9)
"""No multiprocessor has another clock."""
SPARSE_HEADS, FEW_SPARSE_HEADS = 64, 16
"""Query heads that sparse prefill attention over latents multiplies at least: rows of a tile are those of one
query, as each has chosen keys of its own, and FlashMLA's and FlashAttention's tiles have 64. vLLM has kernels
for 16 on Blackwell (``_get_backend_priorities``)."""
FEW_LANES = ("7.0", "7.2", "7.5", "8.0")
"""Compute capabilities (Volta, Turing, A100 and A30) whose multiprocessors have 64 lanes of 32-bit floats.

All others have 128, or as many as issue two operations at once."""
ROWS = 16
"""Rows that tensor cores multiply at least."""
TILES = ((ROWS, 64), (64, 64), (64, 128), (128, 128))
"""(rows, columns) of the tiles that libraries choose among."""
LOADED_BYTES = 47.0
"""Operands a multiprocessor loads in a cycle, which is what flat tiles wait for: an A100's L2 reads 5,120
bytes a cycle for 108 of them (NVIDIA's whitepaper). Larger tiles share what they load with neighbours."""
SPLITS = (1, 4, 16)
"""Parts of the inner dimension that may be multiplied by programs of their own."""
GLUE_S = 4e-6
"""Norms, rotary embedding, activation and cache write of a layer: launches under a CUDA graph (assumed)."""
GLUE_STREAMS = 14
"""Hidden-sized tensors a layer's small kernels read and write per token (assumed)."""
LATENT_S = 4.8e-5
"""Small kernels around attention over latents: two more norms, rotary embedding, two multiplications by heads
that absorb the up-projection, concatenation, cache write. What vLLM's modules take on an H100 beside their
matrices and the attention kernel: 45 us with block-scaled fp8, 50 us with 16-bit weights, 61 to 68 us over an
fp8 cache (NVIDIA aiconfigurator's tables)."""
LATENT_HEAD_BYTES = 5e3
"""What they read and write for each token and query head: 7 kB in decode, 2 to 4 kB in prefill there."""

DecodeLayer = Callable[[float, float], float]


class PrefillLayer(Protocol):
    """See ``Datasheet.prefill``."""

    def __call__(self, new: float, keys: float, span: float, chunks: float = 1.0) -> float:
        """Seconds."""
        ...


@lru_cache(maxsize=1 << 14)
def _waves(rows: int, outputs: int, sms: float) -> tuple[int, ...]:
    """Rounds of programs on so many multiprocessors, by ``TILES`` and ``SPLITS``, for all clocks."""
    return tuple(
        math.ceil(math.ceil(rows / height) * math.ceil(outputs / width) * splits / sms)
        for height, width in TILES
        for splits in SPLITS
    )


class Datasheet:
    """Kernels of one GPU.

    Args:
        gpu: peaks, bandwidth, multiprocessors.
        efficiency: what kernels reach of them.
    """

    __slots__ = ("_bandwidth", "_cycle_s", "_peak16", "_programs", "_sms", "_tiled", "efficiency", "gpu")

    def __init__(self, gpu: GpuSpec, efficiency: Efficiency) -> None:
        self.gpu, self.efficiency = gpu, efficiency
        self._sms = float(gpu.sm_count or USUAL_SMS)
        self._cycle_s = 1.0 / clock_hz(gpu)
        self._bandwidth = gpu.bandwidth_bytes_per_s
        self._peak16 = peak_flops(gpu, "bf16")
        self._tiled: dict[tuple[int, int, int, str], float] = {}
        self._programs: dict[tuple[int, float, float, float], list[tuple[int, float]]] = {}

    @property
    def decode_floor_s(self) -> float:
        """Of the shortest decode attention."""
        return self.efficiency.decode.floor_cycles * self._cycle_s

    def gemm(
        self, tokens: float, outputs: int, inputs: int, weight_bytes: float, form: WeightFormat
    ) -> float:
        """``tokens`` rows times ``inputs`` x ``outputs`` weights of ``weight_bytes`` in format ``form``."""
        peak, own = self.multiplication(form)
        # Whole tiles: what takes the longest to work out is the same for many numbers of rows.
        rows = math.ceil(tokens / ROWS) * ROWS
        key = (rows, outputs, inputs, form.name)
        compute = self._tiled.get(key)
        if compute is None:
            weight = weight_bytes / (outputs * inputs)
            compute = self._tiled[key] = self._best_tiles(rows, outputs, inputs, weight, peak, own)
        memory = (weight_bytes + 2.0 * tokens * (outputs + inputs)) / (self._bandwidth * own.memory)
        body = norm(own.sharpness, compute, memory)
        return own.floor_cycles * self._cycle_s + body + self._quantised(own, tokens * inputs)

    def _quantised(self, own: GemmEfficiency, elements: float) -> float:
        """Writing 16-bit activations with 8 bits, where multiplications need them so."""
        if not isinstance(own, NarrowEfficiency):
            return 0.0
        return own.floor_cycles * self._cycle_s + 3.0 * elements / (self._bandwidth * own.quantise)

    def _best_tiles(
        self, rows: int, outputs: int, inputs: int, weight: float, peak: float, own: GemmEfficiency
    ) -> float:
        """Multiplying ``rows`` rows by weights of ``weight`` bytes, in the tiles and splits that take least.

        Parts of a split tile are 32-bit sums, written once and read once.
        """
        key = (inputs, weight, peak, own.compute)
        programs = self._programs.get(key)
        if programs is None:
            programs = self._programs[key] = self._tile_programs(inputs, weight, peak, own)
        split, sums_s = (
            own.split_cycles * self._cycle_s,
            8.0 * rows * outputs / (self._bandwidth * own.memory),
        )
        best = math.inf
        for rounds, (splits, program) in zip(_waves(rows, outputs, self._sms), programs, strict=True):
            seconds = rounds * program
            if splits > 1:
                seconds += split + splits * sums_s
            if seconds < best:
                best = seconds
        return best

    def _tile_programs(
        self, inputs: int, weight: float, peak: float, own: GemmEfficiency
    ) -> list[tuple[int, float]]:
        """Of each tile and split, in order: into how many parts, and seconds of one program."""
        end, rate = own.tile_cycles * self._cycle_s, peak / self._sms
        found = []
        for height, width in TILES:
            products = 2.0 * height * width / rate
            if height == ROWS:
                products = max(products, (2.0 * height + weight * width) / LOADED_BYTES * self._cycle_s)
            found += [(splits, inputs / splits * products / own.compute + end) for splits in SPLITS]
        return found

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
        around += self._quantised(own, tokens * item.inner) + self._quantised(own, assignments * item.width)
        return 2.0 * own.floor_cycles * self._cycle_s + around + norm(own.sharpness, compute, memory)

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
        cycle_s, floor_s = self._cycle_s, self.decode_floor_s
        walk_s, unit_s = own.token_cycles * cycle_s * elements / 256.0, own.unit_cycles * cycle_s
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

    def prefill(
        self, pair_flops: float, token_bytes: float, query_bytes: float, *, split: bool = False
    ) -> PrefillLayer:
        """Seconds of one layer's prefill attention, without the floor that a kernel has once.

        As a function of new queries, keys that each of them sees on average, cached tokens that are read,
        and how many such chunks there are. Arguments as in ``decode``; ``split``: keys are dealt to programs,
        so that none walks through all of them.
        """
        own = self.efficiency.prefill
        rate, flops = self._bandwidth * own.memory, self._peak16 * own.compute
        token_s, query_s, pair_s = token_bytes / rate, query_bytes / rate, pair_flops / flops
        walk_s = 0.0 if split else own.token_s

        def seconds(new: float, keys: float, span: float, chunks: float = 1.0) -> float:
            compute = chunks * max(new, float(TILE)) * (keys + TILE / 2.0) * pair_s
            memory = chunks * (span * token_s + new * query_s)
            return norm(own.sharpness, compute, memory, own.tile_s + keys * walk_s)

        return seconds

    def latent_prefill(
        self, expanded: PrefillLayer, absorbed: PrefillLayer, outputs: int, inputs: int
    ) -> PrefillLayer:
        """Prefill attention over latents, which makes K and V of all heads again of what is cached.

        A short chunk behind a long context reads the latents as they are instead: engines choose by the
        length of the chunk, this by what takes less.

        Args:
            expanded, absorbed: attention over heads' own K and V, and over latents.
            outputs, inputs: of the up-projection.
        """
        own = self.efficiency.gemm
        token_s = 2.0 * outputs * inputs / (self._peak16 * own.compute) + self.streamed(4.0 * outputs)
        floor_s = own.floor_cycles * self._cycle_s

        def seconds(new: float, keys: float, span: float, chunks: float = 1.0) -> float:
            full = expanded(new, keys, span, chunks)
            if span <= new:
                return full
            full += floor_s + chunks * (span - new) * token_s
            return min(full, absorbed(new, keys, span, chunks))

        return seconds

    def sparse_prefill(self, expanded: PrefillLayer, absorbed: PrefillLayer, kept: int) -> PrefillLayer:
        """Prefill attention over the ``kept`` latents that each query chose, which are read as they are.

        Where there are no more than that, engines attend to all, as without an indexer: ``expanded``.
        """

        def seconds(new: float, keys: float, span: float, chunks: float = 1.0) -> float:
            return (expanded if span <= kept else absorbed)(new, keys, span, chunks)

        return seconds

    def sparse_heads(self, heads: int) -> int:
        """Query heads that sparse prefill multiplies where a rank has ``heads``."""
        few = self.gpu.architecture == "blackwell" and heads <= FEW_SPARSE_HEADS
        least = FEW_SPARSE_HEADS if few else SPARSE_HEADS
        return -(-heads // least) * least

    def score_share(self, *, narrow: bool) -> float:
        """Time that a product of queries and keys takes, of one in 16 bits: less where 8 bits are multiplied
        at a peak of their own."""
        return self._peak16 / peak_flops(self.gpu, "fp8") if narrow and "fp8" in self.gpu.peak_flops else 1.0

    def latent_glue(self, layers: int, tokens: float, heads: int) -> float:
        """Small kernels around attention over latents beside a layer's other ones, ``layers`` times."""
        return layers * (LATENT_S + self.streamed(tokens * heads * LATENT_HEAD_BYTES))

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


def clock_hz(gpu: GpuSpec) -> float:
    """The boost clock behind the datasheet's 32-bit peak: two operations a lane and cycle."""
    peak = gpu.peak_flops.get("fp32")
    if peak is None or gpu.sm_count is None:
        return USUAL_CLOCK_HZ
    lanes = 64 if gpu.compute_capability in FEW_LANES else 128
    clock = peak / (2.0 * lanes * gpu.sm_count)
    low, high = CLOCKS_HZ
    return clock if low <= clock <= high else USUAL_CLOCK_HZ


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
