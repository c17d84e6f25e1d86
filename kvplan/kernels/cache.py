"""The paged KV cache: codes in HND pages, scales in tensors of their own.

Nothing is stored inline: every tensor is one allocation whose rows stay aligned, and scales can be read
without touching codes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kvplan.errors import UsageError
from kvplan.kernels.formats import Code, KVFormat, Scaling, TensorFormat, get_format

COUNTERS = 65536
"""Arrival counters of the fused decode: one per sequence and block of heads."""

FLOAT16_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True, eq=False)
class PagedKVCache:
    """One layer's cache. N pages of BS tokens, H KV heads, head dimension D; W = D*bits/8 bytes a row.

    Attributes:
        format: how keys and values are stored.
        head_dim: D.
        key, value: [N, H, BS, D] bf16/fp16, or [N, H, BS, W] uint8 codes.
        key_static, value_static: fp32 [1], or [H] for per-head scales. Set them before writing
        (``set_scales``). key_scale, key_minimum, value_scale, value_minimum: computed on write. [N, H, BS, n]
            for n scales a token, [N, H, BS/g, D] for per-channel keys; fp16, or uint8 for fp4; empty where
            there are none.
        key_ring, value_ring: [sequences, H, residual, D] 16-bit, the newest tokens (KIVI); else empty. Token
            at position p of the sequence in row r lies in slot ``p % residual``.
        counters: int32 scratch of the fused decode, zero between launches. A cache must therefore not be read
            by two streams at once.
    """

    format: KVFormat
    head_dim: int
    key: Tensor
    value: Tensor
    key_static: Tensor
    value_static: Tensor
    key_scale: Tensor
    key_minimum: Tensor
    value_scale: Tensor
    value_minimum: Tensor
    key_ring: Tensor
    value_ring: Tensor
    counters: Tensor

    @classmethod
    def allocate(
        cls,
        format: str | KVFormat,
        *,
        num_blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        device: str | torch.device = "cpu",
        max_sequences: int = 0,
        residual_dtype: torch.dtype = torch.bfloat16,
    ) -> PagedKVCache:
        """An empty cache; its contents are zeros and static scales are 1.

        Args:
            max_sequences: rows of the residual ring; needed by KIVI formats only.

        Raises:
            UnknownName: no such format.
            UsageError: the shape cannot be stored in this format, or a KIVI cache has no ring rows.
        """
        fmt = get_format(format)
        if fmt.latent:
            raise UsageError(f"{fmt.name} stores an MLA latent", hint="use MLACache.allocate")
        fmt.require(head_dim, block_size)
        if num_blocks < 1 or kv_heads < 1:
            raise UsageError(f"need at least one block and one head, not {num_blocks} and {kv_heads}")
        if fmt.residual and max_sequences < 1:
            raise UsageError(
                f"{fmt.name} keeps the newest tokens of every sequence in 16 bits",
                hint="give max_sequences, the number of sequences that can be cached at once",
            )
        pages = (num_blocks, kv_heads, block_size)

        def codes(side: TensorFormat) -> Tensor:
            if side.code is Code.FLOAT16:
                return torch.zeros(*pages, head_dim, dtype=FLOAT16_DTYPES[fmt.name], device=device)
            return torch.zeros(*pages, head_dim // side.pack, dtype=torch.uint8, device=device)

        def static(side: TensorFormat) -> Tensor:
            return torch.ones(kv_heads if side.scaling is Scaling.HEAD else 1, device=device)

        def scales(side: TensorFormat, wanted: bool) -> Tensor:
            dtype = getattr(torch, side.scale_dtype)
            if not wanted or not side.dynamic:
                return torch.zeros(0, dtype=torch.float16, device=device)
            if side.scaling is Scaling.CHANNEL:
                shape = (num_blocks, kv_heads, block_size // side.group, head_dim)
            else:
                shape = (*pages, side.scales_per_token(head_dim))
            return torch.zeros(shape, dtype=dtype, device=device)

        ring = (max_sequences if fmt.residual else 0, kv_heads, max(fmt.residual, 1), head_dim)
        return cls(
            format=fmt,
            head_dim=head_dim,
            key=codes(fmt.key),
            value=codes(fmt.value),
            key_static=static(fmt.key),
            value_static=static(fmt.value),
            key_scale=scales(fmt.key, True),
            key_minimum=scales(fmt.key, fmt.key.asymmetric),
            value_scale=scales(fmt.value, True),
            value_minimum=scales(fmt.value, fmt.value.asymmetric),
            key_ring=torch.zeros(ring, dtype=residual_dtype, device=device),
            value_ring=torch.zeros(ring, dtype=residual_dtype, device=device),
            counters=torch.zeros(COUNTERS, dtype=torch.int32, device=device),
        )

    @property
    def num_blocks(self) -> int:
        """N."""
        return self.key.shape[0]

    @property
    def kv_heads(self) -> int:
        """H."""
        return self.key.shape[1]

    @property
    def block_size(self) -> int:
        """BS, tokens per page."""
        return self.key.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the cache lies."""
        return self.key.device

    def tensors(self) -> list[Tensor]:
        """Every tensor, in the order of the attributes (what the torch ops take)."""
        return [getattr(self, f.name) for f in fields(self)[2:]]

    @classmethod
    def from_tensors(cls, format: str, head_dim: int, tensors: list[Tensor]) -> PagedKVCache:
        """The inverse of ``tensors``; shares their memory."""
        return cls(get_format(format), head_dim, *tensors)

    def nbytes(self) -> int:
        """Bytes of pages, scales and ring (without the counters)."""
        return sum(t.numel() * t.element_size() for t in self.tensors()[:-1])

    def set_scales(self, key: Tensor | float, value: Tensor | float) -> None:
        """Set the static scales: numbers that a code of 1 stands for, per tensor or per KV head.

        Raises:
            UsageError: the format has no static scale, or a scale is not positive and finite.
        """
        for name, side, given in (("key", self.format.key, key), ("value", self.format.value, value)):
            if side.scaling not in (Scaling.TENSOR, Scaling.HEAD) and side.scale_dtype != "uint8":
                raise UsageError(f"{self.format.name} computes its scales when writing; none can be set")
            held: Tensor = getattr(self, f"{name}_static")
            new = torch.as_tensor(given, dtype=torch.float32, device=self.device).expand(held.shape)
            if not bool((torch.isfinite(new) & (new > 0)).all()):
                raise UsageError(f"the {name} scale must be positive and finite")
            held.copy_(new)

    def calibrate(self, key: Tensor, value: Tensor) -> None:
        """Set static scales from sample tokens [T, H, D] so that the largest magnitude just fits; no-op
        otherwise.

        For nvfp4 the tensor-wide scale is set so that the largest group scale is the largest e4m3.
        """
        for name, side, x in (("key", self.format.key, key), ("value", self.format.value, value)):
            largest = {Code.E4M3: 448.0, Code.E5M2: 57344.0, Code.INT8: 127.0, Code.E2M1: 6.0 * 448.0}
            nvfp4 = side.scale_dtype == "uint8" and side.group == 16
            if side.scaling not in (Scaling.TENSOR, Scaling.HEAD) and not nvfp4:
                continue
            over = (0, 2) if side.scaling is Scaling.HEAD else (0, 1, 2)
            held: Tensor = getattr(self, f"{name}_static")
            held.copy_((x.float().abs().amax(over) / largest[side.code]).clamp_min(1e-12).reshape(held.shape))
