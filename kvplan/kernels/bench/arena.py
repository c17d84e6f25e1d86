"""Random memory that caches are cut from, so that a thousand points need not fill a cache each.

What a kernel reads decides nothing about its time as long as it is random and finite; where it reads does.
So content is drawn once per kind, and every cache of every point is a view of it.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from kvplan.kernels.cache import COUNTERS, PagedKVCache
from kvplan.kernels.formats import KVFormat
from kvplan.kernels.mla_cache import MLACache

ALIGNMENT = 256
"""Bytes; what an allocation would be aligned to at least."""


def draw(kind: str, size: int, device: str) -> Tensor:
    """``size`` bytes of random content, finite in every type that reads it.

    Kinds: ``codes`` (no format's NaN among them), ``halves`` (normal in bf16, finite in fp16), ``scales8``
    (e4m3 and e8m0 near 1), ``scales16`` and ``scales32`` (near 0.01).
    """
    if kind == "codes":
        return torch.randint(0, 0x60, (size,), dtype=torch.uint8, device=device)
    if kind == "scales8":
        return torch.randint(0x30, 0x40, (size,), dtype=torch.uint8, device=device)
    if kind == "halves":
        return torch.empty(size // 2, dtype=torch.bfloat16, device=device).normal_().view(torch.uint8)
    dtype = torch.float16 if kind == "scales16" else torch.float32
    return (
        torch.empty(size // dtype.itemsize, dtype=dtype, device=device)
        .uniform_(0.005, 0.015)
        .view(torch.uint8)
    )


def kind_of(name: str, shape: Tensor) -> str:
    """The kind of content that a cache's tensor of this name holds."""
    if "scale" in name or "minimum" in name:
        return f"scales{8 * shape.dtype.itemsize}"
    return "codes" if shape.dtype == torch.uint8 else "halves"


class Arena:
    """Random memory by kind, grown to the largest demand so far."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._held: dict[str, Tensor] = {}
        self._counters = torch.zeros(COUNTERS, dtype=torch.int32, device=device)

    def caches(self, fmt: KVFormat, count: int, shape: dict[str, Any]) -> list[Any]:
        """``count`` caches that share no byte of content; ``shape`` as ``allocate`` takes it."""
        plan: Any = (MLACache if fmt.latent else PagedKVCache).allocate(fmt, device="meta", **shape)
        named = {
            f.name: getattr(plan, f.name) for f in fields(plan) if isinstance(getattr(plan, f.name), Tensor)
        }
        content = {n: t for n, t in named.items() if n != "counters" and not n.endswith("static")}
        sizes: dict[str, int] = {}
        for name, t in content.items():
            kind = kind_of(name, t)
            sizes[kind] = sizes.get(kind, 0) + _aligned(t.nbytes)
        for kind, size in sizes.items():
            self._reserve(kind, count * size)
        used = dict.fromkeys(sizes, 0)
        made = []
        for _ in range(count):
            parts: dict[str, Tensor] = {"counters": self._counters}
            for name, t in named.items():
                if name.endswith("static"):
                    parts[name] = torch.full(t.shape, 0.01, device=self.device)
                elif name in content:
                    kind = kind_of(name, t)
                    parts[name] = (
                        self._held[kind][used[kind] : used[kind] + t.nbytes].view(t.dtype).view(t.shape)
                    )
                    used[kind] += _aligned(t.nbytes)
            made.append(replace(plan, **parts))
        return made

    def _reserve(self, kind: str, size: int) -> None:
        held = self._held.get(kind)
        if held is None or held.numel() < size:
            self._held.pop(kind, None)
            del held
            self._held[kind] = draw(kind, size, self.device)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
