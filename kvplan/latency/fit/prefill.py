"""Prefill (and chunked append) attention, causal, flash style: a physical model.

::

    pairs   = query-key pairs of one head: the query at position q sees min(q, window) keys
    tiles   = B * Hq * a^(1-c) * b^c           row tiles; a = max(new / m, 1) where heads have tiles of their
                                               own, b = max(new * g / m, 1) / g where g heads share them
    t_busy  = tiles / SM * (t_tile + m * (pairs / new + n / 2) * 4 * D / (F / SM))
    t_last  = t_tile + last * t_token          the tile of the last queries, which see ``last`` keys
    t_comp  = (t_busy^b + t_last^b)^(1/b)
    t_mem   = (queries, outputs and KV bytes) / BW
    t_write = written / BW_write + B * new * t_each * min(w / W, 1)
    t       = t0 + t_many * (new > 1) + (t_comp^p + t_mem^p)^(1/p) + t_write

m: rows of a tile, n: its columns, of which the diagonal wastes half; g = Hq / H: query heads of a KV head; c:
how far a kernel packs their queries into the same tiles. Long rows of tiles start first, so all are done
when the multiprocessors have shared the work or when the longest alone has ended. A single new token needs
no causal mask and fewer launches. t_write: KV goes into the cache in a call of its own before the attention,
with a block of threads for each token that grows with its w = H * D elements up to W of them; written: the
bytes that it reads and writes.
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
            Parameter("write_bandwidth", 0.7 * bandwidth, 0.05 * bandwidth, fastest),
            Parameter("write_token_s", 1e-9, 1e-11, 1e-7),
            Parameter("write_row", 512.0, 32.0, 8192.0),
            Parameter("balance", 3.0, 1.0, 10.0),
            Parameter("many_s", 1e-6, 1e-8, 2e-5),
        ]
        return found if self.writes else held(found, (("write_bandwidth", fastest), ("write_token_s", 1e-15)))

    def seconds(self, values: Array, shapes: Columns) -> Array:
        """See the module."""
        (
            launch, flops, rows, columns, tile, token, bandwidth, overlap, packing, write, each, widest,
            balance, many,
        ) = values  # fmt: skip
        batch, new, dim = shapes["batch"], shapes["new"], shapes["head_dim"]
        queries, heads = shapes["q_heads"], shapes["kv_heads"]
        keys = _keys_per_query(shapes)
        group = queries / heads
        own, shared = np.maximum(new / rows, 1.0), np.maximum(new * group / rows, 1.0) / group
        row_tiles = own ** (1.0 - packing) * shared**packing
        waves = batch * queries * row_tiles / self.hardware.sm_count
        work = 4.0 * rows * (keys + columns / 2.0) * dim * self.hardware.sm_count
        context, window = shapes["before"] + new, shapes["window"]
        last = np.minimum(context, np.where(window > 0, window + np.minimum(rows, new), np.inf))
        t_comp = ((waves * (tile + work / flops)) ** balance + (tile + last * token) ** balance) ** (
            1.0 / balance
        )
        span = np.minimum(context, np.where(window > 0, window + new, np.inf))
        moved = (
            4.0 * batch * new * queries * dim + 2.0 * batch * span * heads * dim * shapes["kv_element_bytes"]
        )
        body = (t_comp**overlap + (moved / bandwidth) ** overlap) ** (1.0 / overlap)
        row = heads * dim
        written = 2.0 * batch * new * row * (2.0 + shapes["kv_element_bytes"])
        threads = row / (row**8 + widest**8) ** 0.125  # min(row / widest, 1), smooth where it changes over
        put = written / write + batch * new * each * threads
        return np.asarray(launch + many * (new > 1) + body + put)

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
