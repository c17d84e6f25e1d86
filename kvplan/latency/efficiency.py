"""What kernels reach of a datasheet, by GPU generation: few numbers, learned from measured kernel tables.

``AMPERE`` and ``HOPPER`` are fits of ``kvplan.latency.datasheet`` to the tables of an A100 and of an H100
(NVIDIA aiconfigurator, Apache-2.0; ``kvplan.latency.fit.unseen`` fits them again). Shares of peaks and
bandwidth carry over to another GPU; times of launches and of a program's steps are kept in seconds, because
clocks hardly differ. Why generations differ: Hopper feeds its tensor cores asynchronously (TMA, wgmma), so
attention streams memory nearer to its limit there, while its power limit keeps long multiplications further
from the peak. Every other generation gets the geometric mean of the two, and is as unseen as each of them is
to the other: ``BANDS`` are the errors of that experiment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from kvplan.specs.schema import GpuSpec


@dataclass(frozen=True, slots=True)
class GemmEfficiency:
    """Of a matrix multiplication.

    Args:
        floor_s: the shortest one.
        compute, memory: shares of the dense peak and of the memory bandwidth.
        depth_s: seconds for each element of the inner dimension, however few the rows: a tile's own loop.
        sharpness: how sharply the slower of computing and reading decides (the exponent of their norm).
    """

    floor_s: float
    compute: float
    memory: float
    depth_s: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class DecodeEfficiency:
    """Of decode attention, one layer; ``token_s``: of a program, for 256 elements of K and V.

    ``unit_s``: what a program takes beside its tokens, each time the multiprocessors are filled.
    """

    floor_s: float
    memory: float
    compute: float
    token_s: float
    unit_s: float
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
    """A generation. ``narrow``: multiplications at the peak of 8- and 4-bit formats."""

    name: str
    gemm: GemmEfficiency
    narrow: GemmEfficiency
    decode: DecodeEfficiency
    prefill: PrefillEfficiency

    def times(self, compute: float = 1.0, memory: float = 1.0, seconds: float = 1.0) -> Efficiency:
        """The same with shares of peaks, shares of bandwidth and seconds so much larger, in all kernels."""
        factors = {"compute": compute, "memory": memory, "sharpness": 1.0}
        return Efficiency(
            self.name,
            _scaled(self.gemm, factors, seconds),
            _scaled(self.narrow, factors, seconds),
            _scaled(self.decode, factors, seconds),
            _scaled(self.prefill, factors, seconds),
        )


Part = TypeVar("Part", GemmEfficiency, DecodeEfficiency, PrefillEfficiency)


def _scaled(part: Part, factors: Mapping[str, float], seconds: float) -> Part:
    return replace(
        part, **{f.name: getattr(part, f.name) * factors.get(f.name, seconds) for f in fields(part)}
    )


AMPERE = Efficiency(
    "ampere",
    gemm=GemmEfficiency(4.25e-6, 0.858, 0.751, 2.9e-10, 1.49),
    # Nothing narrower was timed: as 16-bit multiplications.
    narrow=GemmEfficiency(4.25e-6, 0.858, 0.751, 2.9e-10, 1.49),
    decode=DecodeEfficiency(1.4e-5, 0.714, 0.325, 7.19e-10, 3.69e-6, 1.38),
    prefill=PrefillEfficiency(5e-7, 0.588, 0.473, 9.77e-6, 4.21e-8, 1.1),
)
HOPPER = Efficiency(
    "hopper",
    gemm=GemmEfficiency(2.82e-6, 0.825, 0.85, 4.27e-10, 2.81),
    narrow=GemmEfficiency(6.36e-6, 0.544, 0.874, 5.4e-10, 1.03),
    decode=DecodeEfficiency(8.72e-6, 1.0, 1.0, 3.9e-9, 3.73e-6, 1.13),
    prefill=PrefillEfficiency(1.86e-6, 0.77, 0.353, 1.11e-5, 2.26e-8, 1.22),
)
GENERATIONS = {"ampere": AMPERE, "hopper": HOPPER}

BANDS: Mapping[str, float] = {"gemm": 0.47, "narrow": 1.1, "decode": 0.48, "prefill": 0.5, "mla": 1.0}
"""Half widths in log time that nine in ten kernels of an unseen GPU lie within, by kind of kernel.

``narrow``: formats that the constants' own GPU has no peak for. ``mla``: prefill over latents, another kernel
than any that the constants come from.
"""


UNMEASURED_WIDER = 1.25
"""How much wider bands of steps are on a generation of which no GPU was measured: with the constants of the
other generation, steps of an A100 or H100 are off by up to a quarter nine times in ten."""

OTHER_VENDOR_WIDER = 1.6
"""The same for GPUs of other vendors, whose kernels and compilers are others, too (assumed)."""
UNTIMED_WIDER = 1.5
"""How much wider bands are of models with parts of which no kernel was timed by itself (assumed): as far as
the roofline and the measured clock differ there, which take these parts from different kernels."""


def efficiency_of(gpu: GpuSpec) -> Efficiency:
    """What kernels reach on a GPU: its generation's, or the geometric mean of those that were measured."""
    return GENERATIONS.get(gpu.architecture or "") or blended(AMPERE, HOPPER)


def band_wider(gpu: GpuSpec, untimed: bool) -> float:
    """How much wider bands of steps are than on a GPU of a measured generation, of a model of timed parts."""
    if gpu.vendor != "nvidia":
        wider = OTHER_VENDOR_WIDER
    else:
        wider = 1.0 if gpu.architecture in GENERATIONS else UNMEASURED_WIDER
    return wider * (UNTIMED_WIDER if untimed else 1.0)


def blended(a: Efficiency, b: Efficiency) -> Efficiency:
    """Half way between two generations, in ratio."""
    return Efficiency(
        f"mean of {a.name} and {b.name}",
        _mean(a.gemm, b.gemm),
        b.narrow,
        _mean(a.decode, b.decode),
        _mean(a.prefill, b.prefill),
    )


def _mean(a: Part, b: Part) -> Part:
    return replace(a, **{f.name: math.sqrt(getattr(a, f.name) * getattr(b, f.name)) for f in fields(a)})
