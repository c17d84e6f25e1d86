"""Prefill (and chunked append) attention, causal, flash style: a physical model.

::

    pairs  = query-key pairs of one head: the query at position q sees min(q, window) keys
    tiles  = B * Hq * a^(1-c) * b^c            row tiles; a = max(new / m, 1) where heads have tiles of their
                                               own, b = max(new * g / m, 1) / g where g heads share them
    waves  = max(tiles / SM, 1)
    t_flop = 4 * B * Hq * pairs' * D / F       pairs' counts whole tiles: m rows each, n columns
    t_row  = waves * (t_tile + pairs / new * t_token)                   the longest row of tiles
    t_mem  = (queries, outputs and KV bytes) / BW
    t      = t0 + (t_flop^p + t_row^p + t_mem^p)^(1/p) + written / BW_write

m: rows of a tile; g = Hq / H: query heads of a KV head; c: how far a kernel packs their queries into the same
tiles; written: bytes of KV that go into the cache, in a call of its own before the attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvplan.latency.fit.solve import Array, Parameter, held
from kvplan.latency.fit.structure import Columns, Hardware


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Columns: batch, new, before, window (0 = none), q_heads, kv_heads, head_dim, kv_element_bytes.

    ``writes``: whether the timed calls put KV into the cache, too.
    """

    hardware: Hardware
    writes: bool = True
    name: str = "prefill_attention"
    columns: tuple[str, ...] = (
        "batch", "new", "before", "window", "q_heads", "kv_heads", "head_dim", "kv_element_bytes",
    )  # fmt: skip

    def parameters(self) -> Sequence[Parameter]:
        """Starts are datasheet values."""
        bandwidth, flops = self.hardware.bandwidth_bytes_per_s, self.hardware.tensor_flops
        fastest = 100.0 * bandwidth
        found = [
            Parameter("launch_s", 8e-6, 5e-7, 1e-4),
            Parameter("flops", 0.6 * flops, 0.02 * flops, 1.05 * flops),
            Parameter("tile_rows", 128.0, 16.0, 256.0),
            Parameter("tile_columns", 128.0, 16.0, 512.0),
            Parameter("tile_s", 1e-6, 1e-8, 1e-4),
            Parameter("token_s", 1e-8, 1e-11, 1e-6),
            Parameter("bandwidth", 0.7 * bandwidth, 0.02 * bandwidth, 1.05 * bandwidth),
            Parameter("overlap", 3.0, 1.0, 10.0),
            Parameter("packing", 0.5, 0.01, 1.0),
            Parameter("write_bandwidth", 0.5 * bandwidth, 0.01 * bandwidth, fastest),
        ]
        return found if self.writes else held(found, (("write_bandwidth", fastest),))

    def seconds(self, values: Array, shapes: Columns) -> Array:
        """See the module."""
        launch, flops, rows, columns, tile, token, bandwidth, overlap, packing, write = values
        batch, new, dim = shapes["batch"], shapes["new"], shapes["head_dim"]
        queries, heads = shapes["q_heads"], shapes["kv_heads"]
        keys = _keys_per_query(shapes)
        group = queries / heads
        own, shared = np.maximum(new / rows, 1.0), np.maximum(new * group / rows, 1.0) / group
        row_tiles = own ** (1.0 - packing) * shared**packing
        waves = np.maximum(batch * queries * row_tiles / self.hardware.sm_count, 1.0)
        work = 4.0 * batch * queries * row_tiles * rows * (keys + columns / 2.0) * dim
        t_row = waves * (tile + keys * token)
        span = np.minimum(
            shapes["before"] + new, np.where(shapes["window"] > 0, shapes["window"] + new, np.inf)
        )
        moved = (
            4.0 * batch * new * queries * dim + 2.0 * batch * span * heads * dim * shapes["kv_element_bytes"]
        )
        body = (work / flops) ** overlap + t_row**overlap + (moved / bandwidth) ** overlap
        written = 4.0 * batch * new * heads * dim * shapes["kv_element_bytes"]
        return np.asarray(launch + body ** (1.0 / overlap) + written / write)

    def streaming_share(self, values: Array, shapes: Columns) -> Array:
        """Square of the share of the time that the tensor cores need at their fitted rate."""
        work = 4.0 * shapes["batch"] * shapes["q_heads"] * shapes["new"] * _keys_per_query(shapes)
        work = work * shapes["head_dim"]
        return np.asarray(np.minimum(work / values[1] / self.seconds(values, shapes), 1.0) ** 2)

    def coordinates(self, shapes: Columns) -> Array:
        """Sizes and the number of row tiles."""
        batch, queries = shapes["batch"], shapes["q_heads"]
        work = batch * queries * shapes["new"]
        return np.column_stack(
            [
                np.log2(batch), np.log2(shapes["new"]), np.log2(queries),
                np.log2(queries / shapes["kv_heads"]), np.log2(_keys_per_query(shapes)),
                np.log2(work), 2.0 * np.log2(shapes["head_dim"]),
                _cut(shapes),
            ]
        )  # fmt: skip

    def design_coordinates(self, shapes: Columns) -> Array:
        """Batch, new tokens, query heads, group size."""
        return np.column_stack(
            [
                np.log2(shapes["batch"]), np.log2(shapes["new"]), np.log2(shapes["q_heads"]),
                np.log2(shapes["q_heads"] / shapes["kv_heads"]), 2.0 * np.log2(shapes["head_dim"]),
                np.log2(shapes["before"] + 1.0), _cut(shapes),
            ]
        )  # fmt: skip


def _keys_per_query(shapes: Columns) -> Array:
    """Mean number of keys a query attends to."""
    before, new, window = shapes["before"], shapes["new"], shapes["window"]
    limit = np.where(window > 0, window, np.inf)
    # Queries up to the window see all before them, the others a whole window.
    ramp = np.clip(limit - before, 0.0, new)
    pairs = ramp * (before + (ramp + 1.0) / 2.0) + np.where(new > ramp, (new - ramp) * window, 0.0)
    return np.asarray(pairs / new)


def _cut(shapes: Columns) -> Array:
    """3 where a window cuts the context, 0 elsewhere: kernels take another path there."""
    last = shapes["before"] + shapes["new"]
    return np.asarray(3.0 * ((shapes["window"] > 0) & (last > shapes["window"])))
