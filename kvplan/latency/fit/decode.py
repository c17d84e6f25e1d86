"""Paged decode attention (one query token per sequence, GQA, split over the KV length): a physical model.

::

    splits = min(SM * occupancy / (B * H), ctx / chunk), at least 1; fewer without query grouping
    waves  = max(B * H * splits / (SM * occupancy), 1)
    miss   = 1 / (1 + (L2 / kv)^k)                       share of KV that does not stay in L2
    t_mem  = miss * (t_dram + kv / BW) + (1 - miss) * kv / BW_L2 + io / BW
    t_tok  = waves * ctx / splits * t_token * (D * e / 256)
    t_flop = 4 * B * Hq * ctx * D / F
    t      = t0 + t_merge * min(splits - 1, 1) + t_partial * (splits - 1) + t_regroup * apart + t_cut * cut
             + t_seq * B + (((t_mem^4 + t_tok^4 + t_flop^4)^(1/4))^p + (waves * t_cta)^p)^(1/p)

B sequences, H KV heads, Hq query heads, D head dimension, e bytes per element of KV, kv = 2*B*ctx*H*D*e,
io = bytes of queries and outputs. A sliding window enters as ctx = min(ctx, window + w_tile): tiles that the
window only touches are read whole; ``cut`` is 1 where it cuts the context, which kernels take another path
for. ``t_partial``: partial results are added up one after another. ``apart`` is 1 where several sequences and
several KV heads, with several queries each, meet: kernels that put the queries of a KV head side by side
(FlashAttention 2) copy them then; with one of either nothing has to move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvplan.latency.fit.solve import Array, Parameter, held
from kvplan.latency.fit.structure import Columns, Hardware


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """Columns: batch, ctx, window (0 = none), q_heads, kv_heads, head_dim, kv_element_bytes.

    ``known``: parameters that are read off the kernel's launches instead of being fitted freely.
    """

    hardware: Hardware
    known: tuple[tuple[str, float], ...] = ()
    name: str = "decode_attention"
    columns: tuple[str, ...] = (
        "batch", "ctx", "window", "q_heads", "kv_heads", "head_dim", "kv_element_bytes",
    )  # fmt: skip

    def parameters(self) -> Sequence[Parameter]:
        """Starts are datasheet values; ranges are what a kernel of this kind can plausibly do."""
        bandwidth, l2 = self.hardware.bandwidth_bytes_per_s, self.hardware.l2_bytes
        flops = self.hardware.tensor_flops
        found = [
            Parameter("launch_s", 8e-6, 5e-7, 1e-4),
            Parameter("bandwidth", 0.85 * bandwidth, 0.1 * bandwidth, 1.05 * bandwidth),
            Parameter("l2_speedup", 2.0, 1.0, 8.0),
            Parameter("l2_bytes", l2, 0.4 * l2, 2.5 * l2),
            Parameter("l2_sharpness", 6.0, 2.0, 16.0),
            Parameter("token_s", 2e-8, 1e-10, 1e-6),
            Parameter("cta_s", 2e-6, 1e-8, 1e-4),
            Parameter("occupancy", 1.0, 0.5, 8.0),
            Parameter("merge_s", 2e-6, 1e-8, 1e-4),
            Parameter("chunk_tokens", 256.0, 16.0, 4096.0),
            Parameter("flops", 0.3 * flops, 1e-3 * flops, 2.0 * flops),
            Parameter("sequence_s", 1e-8, 1e-11, 1e-5),
            Parameter("overlap", 3.0, 1.0, 10.0),
            Parameter("io_factor", 1.0, 0.1, 10.0),
            Parameter("ungrouped_splits", 0.5, 1e-3, 1.0),
            Parameter("dram_s", 2e-6, 1e-9, 5e-5),
            Parameter("window_tile", 64.0, 1.0, 256.0),
            Parameter("partial_s", 1e-9, 1e-10, 1e-6),
            Parameter("regroup_s", 1e-8, 1e-9, 2e-5),
            Parameter("cut_s", 1e-7, 1e-9, 2e-5),
        ]
        return held(found, self.known)

    def seconds(self, values: Array, shapes: Columns, *, cold: bool = False) -> Array:
        """See the module.

        ``cold``: nothing of the KV is in L2 beforehand, as in an engine, where all weights and the KV of all
        other layers pass between two steps. What leaving L2 costs beside its bytes (``dram_s``) then builds
        up with them, to the whole of it where they fill L2.
        """
        (
            launch, bandwidth, l2_speedup, l2, sharpness, token, cta, occupancy, merge, chunk, flops,
            sequence, overlap, io_factor, ungrouped, dram, window_tile, partial, regroup, cut,
        ) = values  # fmt: skip
        batch, dim = shapes["batch"], shapes["head_dim"]
        ctx = _seen(shapes, window_tile)
        element, queries, heads = shapes["kv_element_bytes"], shapes["q_heads"], shapes["kv_heads"]
        units = batch * heads
        slots = self.hardware.sm_count * occupancy
        splits = np.clip(slots / units, 1.0, np.maximum(ctx / chunk, 1.0))
        splits = np.where(queries > heads, splits, 1.0 + (splits - 1.0) * ungrouped)
        waves = np.maximum(units * splits / slots, 1.0)
        kv = 2.0 * units * ctx * dim * element
        miss = miss_share(kv, l2, sharpness)
        t_mem = miss * (dram + kv / bandwidth) + (1.0 - miss) * kv / (bandwidth * l2_speedup)
        if cold:
            t_mem = np.maximum(t_mem, np.minimum(kv / l2, 1.0) * dram + kv / bandwidth)
        t_mem = t_mem + io_factor * 4.0 * batch * queries * dim / bandwidth
        t_tok = waves * ctx / splits * token * (dim * element / 256.0)
        t_flop = 4.0 * batch * queries * ctx * dim / flops
        body = (t_mem**4 + t_tok**4 + t_flop**4) ** 0.25
        body = (body**overlap + (waves * cta) ** overlap) ** (1.0 / overlap)
        apart = (queries > heads) & (batch > 1) & (heads > 1)
        merging = merge * np.minimum(splits - 1.0, 1.0) + partial * (splits - 1.0)
        path = regroup * apart + cut * _is_cut(shapes)
        return np.asarray(launch + merging + path + sequence * batch + body)

    def streaming_share(self, values: Array, shapes: Columns) -> Array:
        """Square of the share of the time that KV bytes from DRAM take."""
        kv = kv_bytes(shapes)
        stream = kv * miss_share(kv, values[3], values[4]) / values[1]
        return np.asarray(np.minimum(stream / self.seconds(values, shapes), 1.0) ** 2)

    def coordinates(self, shapes: Columns) -> Array:
        """Sizes, their products that decide waves and L2 residence, and whether queries share KV heads."""
        batch, heads = shapes["batch"], shapes["kv_heads"]
        seen = _seen(shapes, 0.0)
        kv = kv_bytes(shapes)
        return np.column_stack(
            [
                np.log2(batch), np.log2(seen), np.log2(heads), np.log2(shapes["q_heads"] / heads),
                0.7 * np.log2(kv), np.log2(batch * heads), 3.0 * (shapes["q_heads"] == heads),
                2.0 * np.log2(shapes["head_dim"]), 3.0 * _is_cut(shapes),
            ]
        )  # fmt: skip

    def design_coordinates(self, shapes: Columns) -> Array:
        """Batch, context, KV heads, group size; heads count a little more, as they have few levels."""
        heads = shapes["kv_heads"]
        seen = _seen(shapes, 0.0)
        return np.column_stack(
            [
                np.log2(shapes["batch"]), np.log2(seen), 1.5 * np.log2(heads),
                np.log2(shapes["q_heads"] / heads), 1.5 * (shapes["q_heads"] == heads),
                2.0 * np.log2(shapes["head_dim"]), 3.0 * _is_cut(shapes),
                # Beyond the window the context hardly matters, but a kernel's tiles show only there.
                0.25 * np.log2(shapes["ctx"] / seen),
            ]
        )  # fmt: skip


def kv_bytes(shapes: Columns) -> Array:
    """Bytes of keys and values that are read, without what a window leaves out."""
    units = shapes["batch"] * shapes["kv_heads"] * shapes["head_dim"] * shapes["kv_element_bytes"]
    return np.asarray(2.0 * units * _seen(shapes, 0.0))


def miss_share(kv: Array, l2: float, sharpness: float) -> Array:
    """Share of the KV that does not stay in L2."""
    return np.asarray(1.0 / (1.0 + (l2 / np.maximum(kv, 1.0)) ** sharpness))


def _seen(shapes: Columns, tile: float) -> Array:
    """Keys a query reads: the context, or the window and the tiles its edge touches."""
    ctx, window = shapes["ctx"], shapes["window"]
    return np.asarray(np.where(window > 0, np.minimum(ctx, window + tile), ctx))


def _is_cut(shapes: Columns) -> Array:
    """1 where a window cuts the context, 0 elsewhere: kernels take another path there."""
    return np.asarray(1.0 * ((shapes["window"] > 0) & (shapes["ctx"] > shapes["window"])))
