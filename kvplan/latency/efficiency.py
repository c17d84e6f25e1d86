"""What kernels reach of a datasheet, by GPU generation: few numbers, learned from measured kernel tables.

``AMPERE`` and ``HOPPER`` are fits of ``kvplan.latency.datasheet`` to the tables of an A100 and of an H100
(NVIDIA aiconfigurator, Apache-2.0; ``kvplan.latency.fit.unseen`` fits them again), ``COMMON`` is one to both.
Shares of peaks and bandwidth carry over to another GPU, and so do cycles: what a multiplication or decode
attention takes beside its work is latency of pipelines, which the clock drives (1.41 GHz there, 1.98 here:
in seconds, either GPU's floors are four tenths off on the other). Prefill attention's were as long in
seconds on both, and stay so. What is left of a difference: Hopper feeds its tensor cores asynchronously (TMA,
wgmma), so attention streams memory nearer to its limit and the end of a tile is hidden.
Every other generation gets ``COMMON``, and is as unseen as each of the two is to the other: ``BANDS`` are the
errors of that experiment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from kvplan.specs.schema import GpuSpec


@dataclass(frozen=True, slots=True)
class GemmEfficiency:
    """Of a matrix multiplication.

    Args:
        floor_cycles: the shortest one.
        compute, memory: shares of the dense peak and of the memory bandwidth.
        tile_cycles: of a tile beside its products: filling the pipeline, writing its outputs.
        split_cycles: of adding up what several programs have of one tile.
        sharpness: how sharply the slower of computing and reading decides (the exponent of their norm).
    """

    floor_cycles: float
    compute: float
    memory: float
    tile_cycles: float
    split_cycles: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class NarrowEfficiency(GemmEfficiency):
    """Of a multiplication at the peak of 8- and 4-bit formats; a launch of its own quantises the activations.

    ``quantise``: share of the memory bandwidth at which it reads 16 and writes 8 bits.
    """

    quantise: float


@dataclass(frozen=True, slots=True)
class DecodeEfficiency:
    """Of decode attention, one layer; ``token_cycles``: of a program, for 256 elements of K and V.

    ``unit_cycles``: what a program takes beside its tokens, each time the multiprocessors are filled.
    """

    floor_cycles: float
    memory: float
    compute: float
    token_cycles: float
    unit_cycles: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class PrefillEfficiency:
    """Of prefill attention, one layer; ``tile_s`` and ``token_s``: of the longest tile, and for each key."""

    floor_s: float
    compute: float
    memory: float
    tile_s: float
    token_s: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class Efficiency:
    """A generation."""

    name: str
    gemm: GemmEfficiency
    narrow: NarrowEfficiency
    decode: DecodeEfficiency
    prefill: PrefillEfficiency

    def times(self, compute: float = 1.0, memory: float = 1.0, seconds: float = 1.0) -> Efficiency:
        """The same with shares of peaks, shares of bandwidth and times so much larger, in all kernels."""
        factors = {"compute": compute, "memory": memory, "quantise": memory, "sharpness": 1.0}
        return Efficiency(
            self.name,
            _scaled(self.gemm, factors, seconds),
            _scaled(self.narrow, factors, seconds),
            _scaled(self.decode, factors, seconds),
            _scaled(self.prefill, factors, seconds),
        )


Part = TypeVar("Part", GemmEfficiency, NarrowEfficiency, DecodeEfficiency, PrefillEfficiency)


def _scaled(part: Part, factors: Mapping[str, float], seconds: float) -> Part:
    return replace(
        part, **{f.name: getattr(part, f.name) * factors.get(f.name, seconds) for f in fields(part)}
    )


AMPERE = Efficiency(
    "ampere",
    gemm=GemmEfficiency(2840.0, 0.913, 0.835, 2530.0, 2190.0, 1.72),
    # Nothing narrower was timed: as 16-bit multiplications, behind what quantises for Hopper's.
    narrow=NarrowEfficiency(2840.0, 0.913, 0.835, 2530.0, 2190.0, 1.72, 0.288),
    decode=DecodeEfficiency(19_700.0, 0.714, 0.325, 1.0, 5210.0, 1.38),
    prefill=PrefillEfficiency(5e-7, 0.585, 0.498, 9.99e-6, 3.85e-8, 1.11),
)
HOPPER = Efficiency(
    "hopper",
    gemm=GemmEfficiency(4570.0, 0.874, 0.84, 941.0, 5030.0, 3.14),
    narrow=NarrowEfficiency(4180.0, 0.838, 0.93, 3940.0, 78_500.0, 1.42, 0.288),
    decode=DecodeEfficiency(17_400.0, 0.93, 1.0, 5.32, 7430.0, 1.16),
    prefill=PrefillEfficiency(1.86e-6, 0.77, 0.353, 1.11e-5, 2.26e-8, 1.22),
)
COMMON = Efficiency(
    "the measured",
    gemm=GemmEfficiency(4020.0, 0.893, 0.843, 1410.0, 3430.0, 2.1),
    narrow=NarrowEfficiency(4180.0, 0.838, 0.93, 3940.0, 78_500.0, 1.42, 0.288),
    decode=DecodeEfficiency(18_600.0, 0.93, 0.389, 9.26, 5810.0, 1.16),
    prefill=PrefillEfficiency(3.44e-6, 0.584, 0.372, 8.8e-6, 3.02e-8, 1.33),
)
GENERATIONS = {"ampere": AMPERE, "hopper": HOPPER}

BANDS: Mapping[str, float] = {"gemm": 0.28, "narrow": 0.65, "decode": 0.41, "prefill": 0.5, "mla": 1.0}
"""Half widths in log time that nine in ten kernels of an unseen GPU lie within, by kind of kernel.

``narrow``: formats that the constants' own GPU has no peak for. ``mla``: prefill over latents, another kernel
than any that the constants come from.
"""


UNMEASURED_WIDER = 1.25
"""How much wider bands of steps are on a generation of which no GPU was measured: with the constants of the
other generation, steps of an A100 or H100 are off by up to a sixth nine times in ten, and others may be
farther away than these two are from each other."""

OTHER_VENDOR_WIDER = 1.6
"""The same for GPUs of other vendors, whose kernels and compilers are others, too (assumed)."""
UNTIMED_WIDER = 1.5
"""How much wider bands are of models with parts of which no kernel was timed by itself (assumed): as far as
the roofline and the measured clock differ there, which take these parts from different kernels."""


def efficiency_of(gpu: GpuSpec) -> Efficiency:
    """What kernels reach on a GPU: its generation's, or what those that were measured have in common."""
    return GENERATIONS.get(gpu.architecture or "") or COMMON


def band_wider(gpu: GpuSpec, untimed: bool) -> float:
    """How much wider bands of steps are than on a GPU of a measured generation, of a model of timed parts."""
    if gpu.vendor != "nvidia":
        wider = OTHER_VENDOR_WIDER
    else:
        wider = 1.0 if gpu.architecture in GENERATIONS else UNMEASURED_WIDER
    return wider * (UNTIMED_WIDER if untimed else 1.0)
