"""A linear layer's matrix multiplication, ``(m, k) x (k, n)``: a physical model with tile quantisation.

::

    t_comp(tile) = ceil(tiles / SM) * (k * t_column + t_epilogue) - t_epilogue
    t_column     = tile_m * tile_n * 2 / (F / SM) + t_depth
    t_best       = least(fine tiles)^fineness * least(tiles of powers of two)^(1 - fineness)
    least        = the least of the tiles that a library could choose, and of splits of k
    t_rows       = t_comp of the tile that the number of rows alone decides
    t_comp       = t_best^choice * t_rows^(1 - choice)
    t_mem        = (weights + activations in and out) / BW, weights faster where they stay in L2
    t_gpu        = t0 + t_epilogue + (t_comp^p + t_mem^p)^(1/p) + m * max(k, k_row) * t_quantise
    t            = (t_host^8 + t_gpu^8)^(1/8)

``fineness`` is near 1 where tiles have any multiple of 16 rows (Hopper's instructions multiply so many), so
that one row more than a power of two costs little, and near 0 where they double (Ampere's).
``choice`` is 1 for a library that finds the best tile (cuBLAS) and less for one with a table by rows: tiles
of 64x64 up to 64 rows, pairs of 64x128 up to 128, then pairs of 128x128 (CUTLASS clusters), where one row too
many costs as much as a whole pair. Small outputs cannot fill the device with tiles; libraries then split k:
there are ``split`` times as many tiles of ``1 / split`` of the work, whose partial sums (4 bytes an output)
are written, read again and added. The last tile's epilogue is what no loading hides. ``t_quantise`` is the
cost of quantising the activations, which fp8 linear layers do in the same call with a block of threads for
each row: a row of fewer than ``k_row`` values costs as much as one of so many. ``t_host``: calls timed
without a CUDA graph take at least what the host needs to launch them, and nothing more where the GPU needs
longer. An engine's graphs have no such wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kvplan.latency.fit.solve import Array, Parameter
from kvplan.latency.fit.structure import Columns, Hardware

_TILES = ((64, 64), (64, 128), (64, 256), (128, 128), (128, 256), (256, 128))
"""Rows and columns of tiles of powers of two."""
_FINE = tuple(
    (rows, columns) for rows in range(64, 257, 16) for columns in (64, 128, 192, 256)
    if rows * columns <= 256 * 128
)  # fmt: skip
"""Those of instructions that multiply any 16 rows more."""
_DOUBLING = [_FINE.index(tile) for tile in _TILES]
_SPLITS = (1, 4, 16)
HOST = 12
"""Index of ``host_s`` among the parameters."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """Columns: m, n, k. ``element_bytes`` is that of weights, ``input_bytes`` of activations going in."""

    hardware: Hardware
    element_bytes: float = 2.0
    input_bytes: float = 2.0
    name: str = "gemm"
    columns: tuple[str, ...] = ("m", "n", "k")

    def parameters(self) -> Sequence[Parameter]:
        """Starts are datasheet values."""
        bandwidth, l2 = self.hardware.bandwidth_bytes_per_s, self.hardware.l2_bytes
        flops = self.hardware.tensor_flops
        return [
            Parameter("launch_s", 3e-6, 3e-7, 2e-5),
            Parameter("flops", 0.8 * flops, 0.05 * flops, 1.05 * flops),
            Parameter("bandwidth", 0.85 * bandwidth, 0.1 * bandwidth, 1.05 * bandwidth),
            Parameter("l2_speedup", 2.0, 1.0, 8.0),
            Parameter("l2_bytes", l2, 0.2 * l2, 2.5 * l2),
            Parameter("epilogue_s", 1e-6, 1e-8, 5e-5),
            Parameter("small_tile_penalty", 1.3, 1.0, 4.0),
            Parameter("split_s", 2e-6, 1e-8, 5e-5),
            Parameter("overlap", 4.0, 1.0, 10.0),
            Parameter("quantise_s", 1e-13, 1e-16, 1e-10),
            Parameter("depth_s", 5e-10, 1e-12, 1e-8),
            Parameter("choice", 0.5, 0.02, 1.0),
            Parameter("host_s", 2e-5, 1e-8, 1e-3),
            Parameter("quantise_row", 1024.0, 16.0, 16384.0),
            Parameter("fineness", 0.5, 0.01, 1.0),
        ]

    def seconds(self, values: Array, shapes: Columns) -> Array:
        """See the module."""
        return self.with_host(values, self.gpu_seconds(values, shapes))

    def with_host(self, values: Array, gpu: Array) -> Array:
        """Seconds as they are timed of what takes the GPU ``gpu``."""
        return np.asarray((values[HOST] ** 8 + gpu**8) ** 0.125)

    def gpu_seconds(self, values: Array, shapes: Columns) -> Array:
        """Without waiting for the host."""
        (
            launch, flops, bandwidth, l2_speedup, l2, epilogue, penalty, split_s, overlap, quantise, depth,
            choice, _, quantise_row, fineness,
        ) = values  # fmt: skip
        m, n, k = shapes["m"], shapes["n"], shapes["k"]
        sms = self.hardware.sm_count

        def column_s(outputs: Array, slow: Array) -> Array:
            return np.asarray(2.0 * outputs * sms / flops * slow + depth)

        # One by one: in numpy, powers of an array may differ from those of its numbers in the last bit.
        slow = np.array([penalty**octaves for octaves in _OCTAVES])
        each = column_s(_OUTPUTS, slow).reshape(-1, *[1] * np.broadcast(m, n, k).ndim)
        fine = doubling = np.asarray(np.inf)
        for split, waves in zip(_SPLITS, _waves(m, n, k, sms), strict=True):
            merge = split_s + 8.0 * split * m * n / (bandwidth * l2_speedup) if split > 1 else 0.0
            seconds = k / split * each
            seconds += epilogue
            seconds = seconds * waves
            seconds -= epilogue
            seconds += merge
            fine = np.minimum(fine, seconds.min(axis=0))
            doubling = np.minimum(doubling, seconds[_DOUBLING].min(axis=0))
        compute = fine**fineness * doubling ** (1.0 - fineness)
        whole, height, width = _by_rows(m)
        waves = np.ceil(whole / height * np.ceil(n / width) / sms)
        outputs = height * width
        fixed = waves * (k * column_s(outputs, penalty ** _octaves(outputs)) + epilogue) - epilogue
        compute = compute**choice * fixed ** (1.0 - choice)
        weights = n * k * self.element_bytes
        miss = 1.0 / (1.0 + (l2 / weights) ** 6)
        moved = weights * (miss + (1.0 - miss) / l2_speedup) + m * k * self.input_bytes + 2.0 * m * n
        body = (compute**overlap + (moved / bandwidth) ** overlap) ** (1.0 / overlap)
        rows_of = (k**8 + quantise_row**8) ** 0.125  # smooth where it changes over
        return np.asarray(launch + epilogue + body + m * rows_of * quantise)

    def streaming_share(self, values: Array, shapes: Columns) -> Array:
        """Square of the share of the time that weight bytes from DRAM take."""
        weights = shapes["n"] * shapes["k"] * self.element_bytes
        miss = 1.0 / (1.0 + (values[4] / weights) ** 6)
        return np.asarray(np.minimum(weights * miss / values[2] / self.seconds(values, shapes), 1.0) ** 2)

    def coordinates(self, shapes: Columns) -> Array:
        """Sizes, how far the output fills whole waves of tiles, and how far its rows fill whole tiles."""
        m, n, k = shapes["m"], shapes["n"], shapes["k"]
        tiles = np.ceil(m / 128.0) * np.ceil(n / 128.0)
        fill = tiles / self.hardware.sm_count
        return np.column_stack(
            [
                np.log2(m), np.log2(n), np.log2(k), np.log2(tiles), 2.0 * fill / np.ceil(fill),
                np.minimum(3.0 * np.log2(_by_rows(m)[0] / m), 3.0),
            ]
        )  # fmt: skip

    def design_coordinates(self, shapes: Columns) -> Array:
        """Sizes."""
        return np.column_stack([np.log2(shapes["m"]), np.log2(shapes["n"]), np.log2(shapes["k"])])


def _octaves(outputs: Array | float) -> Array:
    """A tile of fewer than 128x256 outputs reuses its operands less and runs below the peak rate: how far."""
    return np.asarray(np.log2(128 * 256 / outputs) / 3.0)


_OUTPUTS = np.array([float(rows * columns) for rows, columns in _FINE])
_OCTAVES = [float(_octaves(outputs)) for outputs in _OUTPUTS]


def _waves(m: Array, n: Array, k: Array, sms: int) -> list[Array]:
    """For each way to split k: waves of tiles by tile, in the order of ``_FINE``, and by shape."""
    m, n, _ = (np.asarray(side, dtype=float) for side in np.broadcast_arrays(m, n, k))
    return _waves_of(m.tobytes(), n.tobytes(), m.shape, sms)


@lru_cache(maxsize=16)
def _waves_of(m: bytes, n: bytes, shape: tuple[int, ...], sms: int) -> list[Array]:
    # A fit asks for the same shapes thousands of times, and they alone decide.
    rows, columns = np.frombuffer(m).reshape(shape), np.frombuffer(n).reshape(shape)
    tiles = np.array([np.ceil(rows / height) * np.ceil(columns / width) for height, width in _FINE])
    return [np.ceil(tiles * split / sms) for split in _SPLITS]


def _by_rows(m: Array) -> tuple[Array, Array, Array]:
    """(rows padded to whole tiles, rows and columns of a tile) where the number of rows alone decides."""
    step = np.where(m <= 64, 64.0, np.where(m <= 128, 128.0, 256.0))
    return np.ceil(m / step) * step, np.where(m <= 128, 64.0, 128.0), np.where(m <= 64, 64.0, 128.0)
