"""What a profile of kvplan's own kernels knows beside its kernels: names, rates, page sizes, cache writers.

Whatever stands in for something that was not measured is remembered as an assumption, so that a result says
so; what nothing measured can stand in for is refused by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from kvplan.latency.assumption import Assumption
from kvplan.sizing.weight_formats import WeightFormat

if TYPE_CHECKING:
    from kvplan.latency.fit.kernel import FittedKernel
    from kvplan.latency.fit.measured_part import Measured

KERNEL_FORMATS = {"int4_per_token_head": "int4"}
"""Cache formats that the kernels call by another name."""
MLA_FORMATS = {"bf16": "mla_bf16", "fp16": "mla_bf16", "fp8_ds_mla": "mla_fp8"}
MATMUL_SPREAD = 0.15
"""Deviation (log) of a matrix product whose weight format was not measured (assumed)."""
MATMUL_LAUNCH_S = 3e-6
"""Launch of a matrix product under a CUDA graph where none was measured (assumed)."""


_LARGE = 8192.0
"""Rows, columns and depth of a multiplication that is large."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What multiplications reach: bytes/s of weights, FLOP/s, seconds of a launch."""

    bandwidth_bytes_per_s: float
    flops: float
    launch_s: float


def kernel_format(kv_format: str, *, mla: bool) -> str:
    """The kernels' name of a cache format."""
    return MLA_FORMATS.get(kv_format, kv_format) if mla else KERNEL_FORMATS.get(kv_format, kv_format)


def rates_of(kernel: FittedKernel) -> Rates:
    """The rates a fitted multiplication reaches, and its floor: a launch and one tile's end.

    Its arithmetic is that of a large one: what its formula fits is the rate of a tile by itself.
    """
    import numpy as np

    fitted = dict(zip((p.name for p in kernel.structure.parameters()), kernel.values, strict=True))
    size = {name: np.array([min(_LARGE, kernel.high[name])]) for name in ("m", "n", "k")}
    flops = 2.0 * float(size["m"][0] * size["n"][0] * size["k"][0] / kernel.seconds(size)[0])
    return Rates(float(fitted["bandwidth"]), flops, float(fitted["launch_s"] + fitted["epilogue_s"]))


class MeasuredSet:
    """The second half of a measured profile, and the assumptions made while it was used."""

    def __init__(self, measured: Measured, pages: Mapping[str, Mapping[str, float]], block_size: int) -> None:
        self.measured, self._pages, self._block_size = measured, pages, block_size
        self._assumed: dict[str, Assumption] = {}

    def assume(self, name: str, value: str | float, why: str) -> None:
        """Remember what stands in for a measurement."""
        self._assumed[f"{name}/{value}"] = Assumption(f"latency.{name}", value, why)

    def assumptions(self) -> tuple[Assumption, ...]:
        """Everything assumed so far."""
        return tuple(self._assumed.values())

    def machine_rates(self) -> Rates | None:
        """Rates of a roofline under the measured ceilings; None where they were not measured."""
        ceilings = self.measured.ceilings
        bandwidth = ceilings.read_bytes_per_s or ceilings.copy_bytes_per_s
        flops = ceilings.matmul_flops.get("bf16")
        if bandwidth is None or flops is None:
            return None
        launch = ceilings.launch_s.get("graph", MATMUL_LAUNCH_S)
        return Rates(bandwidth, flops, launch)

    def stand_in(self, form: WeightFormat, plain: Rates | None) -> Rates | None:
        """Rates for weights in a format whose multiplication was not measured.

        Weights are read as stored and multiplied at the 16-bit rate, as weight-only kernels do.
        """
        found = plain or self.machine_rates()
        if found is not None:
            origin = (
                "the measured 16-bit multiplication" if plain else "the measured read and matmul ceilings"
            )
            self.assume("matmul", form.name, f"not measured: bytes as stored over the rates of {origin}")
        return found

    def page_factor(self, name: str) -> float:
        """Time of this page size relative to the usual one, interpolated in log size."""
        own = self._pages.get(name) or {}
        table = own or self._typical()
        if not table:
            if self._block_size != 64:
                self.assume("page_size", self._block_size, "pages other than 64 tokens were not measured")
            return 1.0
        sizes = sorted((int(size), ratio) for size, ratio in table.items())
        if self._block_size not in dict(sizes):
            self.assume("page_size", self._block_size, "not measured: between or beyond measured page sizes")
        elif not own and self._block_size != 64:
            self.assume("page_size", self._block_size, f"measured with other formats than {name}")
        return interpolated(sizes, self._block_size)

    def _typical(self) -> dict[str, float]:
        """Geometric mean over the formats whose page sizes were measured."""
        tables = [table for table in self._pages.values() if table]
        common = set.intersection(*(set(table) for table in tables)) if tables else set()
        return {
            size: math.exp(sum(math.log(table[size]) for table in tables) / len(tables)) for size in common
        }

    def write_seconds(self, name: str, plain: str, bytes_per_token: float, input_bytes: float) -> tuple[
        float, float
    ]:  # fmt: skip
        """(seconds of a call, seconds per token) of writing the cache beyond what a 16-bit writer takes.

        The 16-bit writer's own cost is part of a layer's small kernels.
        """
        writer, base = self.measured.writers.get(name), self.measured.writers.get(plain)
        if writer is None or base is None:
            if name != plain:
                self.assume("cache_write", name, "not measured: as fast as writing 16 bits")
            return 0.0, 0.0
        token = (bytes_per_token + input_bytes) / writer.bytes_per_s - 2.0 * input_bytes / base.bytes_per_s
        return max(writer.launch_s - base.launch_s, 0.0), max(token, 0.0)


def interpolated(sizes: list[tuple[int, float]], size: int) -> float:
    """The ratio at a size among sorted (size, ratio): on a line over log size; beyond them the nearest."""
    if size <= sizes[0][0]:
        return sizes[0][1]
    for (low, left), (high, right) in pairwise(sizes):
        if size <= high:
            share = math.log(size / low) / math.log(high / low)
            return left + share * (right - left)
    return sizes[-1][1]
