"""Decode attention whose launch fixes the number of splits: a physical model.

::

    splits = S where B <= CAPTURED, else 1
    waves  = max(B * H * splits / (SM * occupancy), 1)
    start  = waves * (t_cta + t_walk * B)
    rest   = 2 * B * H * max(ctx - splits * tile, 0) * D * e
    miss   = 1 / (1 + (L2 / kv)^k)                       share of KV that does not stay in L2
    t_mem  = miss * (t_dram + rest / BW) + (1 - miss) * rest / BW_L2
    t_tok  = waves * max(ctx / splits - tile, 0) * t_token * (D * e / 256)
    t_flop = 4 * B * Hq * ctx * D / F
    t_sum  = t_merge + B * Hq * (t_partial + t_walk_sum * B)      where splits > 1, else 0
    t      = t0 + t_sum + (start^p + ((t_mem^4 + t_tok^4 + t_flop^4)^(1/4))^p)^(1/p)

The symbols are those of ``kvplan.latency.fit.decode``. A captured graph replays one grid for all context
lengths, so an engine gives a kernel that cannot plan its own splits on the GPU the most it will ever need,
and every sequence starts that many programs, also those that find nothing to read. Programs are handed out
sequence by sequence and each walks through the batch to find its own (``t_walk``, ``t_walk_sum``), so time
grows with the square of the batch. The first tile of a program loads while it starts and costs nothing more.
Batches larger than an engine captures are launched without splits. They can take less time than
smaller ones; the clock's tables, which never fall, keep the longer time there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvplan.latency.fit.decode import DecodeAttention, kv_bytes, miss_share
from kvplan.latency.fit.solve import Array, Parameter, held
from kvplan.latency.fit.structure import Columns

CAPTURED = 512
"""Largest batch that vLLM captures in a graph unless told otherwise (``max_cudagraph_capture_size``)."""

_NAMES = (
    "launch_s", "bandwidth", "l2_speedup", "l2_bytes", "l2_sharpness", "token_s", "cta_s", "occupancy",
    "merge_s", "splits", "flops", "overlap", "dram_s", "tile_tokens", "walk_s", "walk_sum_s", "partial_s",
)  # fmt: skip
_OWN = (
    Parameter("cta_s", 4e-6, 1e-8, 1e-4),
    Parameter("splits", 32.0, 2.0, 256.0),
    Parameter("overlap", 1.5, 1.0, 10.0),
    Parameter("tile_tokens", 64.0, 1.0, 256.0),
    Parameter("walk_s", 1e-9, 1e-12, 1e-6),
    Parameter("walk_sum_s", 1e-10, 1e-14, 1e-7),
    Parameter("partial_s", 1e-9, 1e-12, 1e-6),
)


@dataclass(frozen=True, slots=True)
class FixedSplits(DecodeAttention):
    """Columns as of ``DecodeAttention``; windows are read to the key."""

    name: str = "decode_attention_fixed_splits"

    def parameters(self) -> Sequence[Parameter]:
        """Those that any decode attention has, and its own."""
        usual = {parameter.name: parameter for parameter in DecodeAttention.parameters(self)}
        own = {parameter.name: parameter for parameter in _OWN}
        return held([own.get(name) or usual[name] for name in _NAMES], self.known)

    def seconds(self, values: Array, shapes: Columns, *, cold: bool = False) -> Array:
        """See the module; ``cold`` as in ``DecodeAttention``."""
        (
            launch, bandwidth, l2_speedup, l2, sharpness, token, cta, occupancy, merge, split_count, flops,
            overlap, dram, tile, walk, walk_sum, partial,
        ) = values  # fmt: skip
        batch, dim, element = shapes["batch"], shapes["head_dim"], shapes["kv_element_bytes"]
        queries, units = shapes["q_heads"], batch * shapes["kv_heads"]
        ctx = np.where(shapes["window"] > 0, np.minimum(shapes["ctx"], shapes["window"]), shapes["ctx"])
        captured = batch <= CAPTURED
        splits = np.where(captured, split_count, 1.0)
        waves = np.maximum(units * splits / (self.hardware.sm_count * occupancy), 1.0)
        kv = kv_bytes(shapes)
        rest = kv * np.maximum(1.0 - splits * tile / ctx, 0.0)
        miss = miss_share(kv, l2, sharpness)
        t_mem = miss * (dram + rest / bandwidth) + (1.0 - miss) * rest / (bandwidth * l2_speedup)
        if cold:
            t_mem = np.maximum(t_mem, np.minimum(kv / l2, 1.0) * dram + rest / bandwidth)
        t_tok = waves * np.maximum(ctx / splits - tile, 0.0) * token * (dim * element / 256.0)
        t_flop = 4.0 * batch * queries * ctx * dim / flops
        body = (t_mem**4 + t_tok**4 + t_flop**4) ** 0.25
        body = (body**overlap + (waves * (cta + walk * batch)) ** overlap) ** (1.0 / overlap)
        merging = captured * (merge + batch * queries * (partial + walk_sum * batch))
        return np.asarray(launch + merging + body)

    def coordinates(self, shapes: Columns) -> Array:
        """Those of any decode attention, and whether the launch splits."""
        return np.column_stack(
            [DecodeAttention.coordinates(self, shapes), 3.0 * (shapes["batch"] <= CAPTURED)]
        )
