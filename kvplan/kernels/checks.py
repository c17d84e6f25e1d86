"""Validation before a launch: every message says what was given and what is accepted."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from kvplan.errors import UsageError
from kvplan.kernels import support
from kvplan.kernels.cache import PagedKVCache
from kvplan.kernels.formats import Code
from kvplan.kernels.mla_cache import MLACache

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def debugging() -> bool:
    """Whether ``KVPLAN_DEBUG`` asks for checks that wait for the device."""
    return os.environ.get("KVPLAN_DEBUG", "") not in ("", "0")


def name_of(dtype: torch.dtype) -> str:
    """``bfloat16`` ..."""
    return str(dtype).removeprefix("torch.")


def architecture(cache: PagedKVCache | MLACache, triton: bool) -> None:
    """Raise unless the cache's GPU can run its format.

    Raises:
        EnvironmentLacks: with the reason.
    """
    if triton and cache.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(cache.device)
        support.require(cache.format, major * 10 + minor)


def tensor(
    name: str, x: Tensor, shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...], device: torch.device
) -> None:
    """Check one argument; ``None`` in ``shape`` means any size.

    Raises:
        UsageError: wrong dtype, shape, layout or device.
    """
    if x.dtype not in dtypes:
        accepted = " or ".join(name_of(d) for d in dtypes)
        raise UsageError(f"{name} must be {accepted}, not {name_of(x.dtype)}")
    wanted = ", ".join("*" if n is None else str(n) for n in shape)
    if x.dim() != len(shape) or any(n is not None and n != m for n, m in zip(shape, x.shape, strict=True)):
        raise UsageError(f"{name} must have shape [{wanted}], not {list(x.shape)}")
    if not x.is_contiguous():
        raise UsageError(f"{name} must be contiguous", hint=f"pass {name}.contiguous()")
    if x.device != device:
        raise UsageError(f"{name} lies on {x.device}, but the cache on {device}")


def query(x: Tensor, cache: PagedKVCache) -> None:
    """Check a query against a cache: [T, HQ, D] with HQ a multiple of the KV heads.

    Raises:
        UsageError: as ``tensor``, or heads that cannot be grouped.
    """
    dtypes: tuple[torch.dtype, ...] = FLOATS
    if cache.format.key.code is Code.FLOAT16 and cache.device.type == "cuda":
        dtypes = (cache.key.dtype,)
    tensor("query", x, (None, None, cache.head_dim), dtypes, cache.device)
    if x.shape[1] == 0 or x.shape[1] % cache.kv_heads:
        raise UsageError(
            f"query has {x.shape[1]} heads, not a multiple of the cache's {cache.kv_heads} KV heads"
        )


def tokens(key: Tensor, value: Tensor, cache: PagedKVCache) -> None:
    """Check new keys and values: [T, H, D], 16-bit caches in their own dtype.

    Raises:
        UsageError: as ``tensor``.
    """
    fmt = cache.format
    dtypes = FLOATS
    if fmt.key.code is Code.FLOAT16:
        dtypes = (cache.key.dtype,)
    elif fmt.residual:
        dtypes = (cache.key_ring.dtype,)
    tensor("key", key, (None, cache.kv_heads, cache.head_dim), dtypes, cache.device)
    tensor("value", value, (key.shape[0], cache.kv_heads, cache.head_dim), (key.dtype,), cache.device)


def slots(x: Tensor, capacity: int) -> None:
    """Check slot numbers against the cache; waits for the device.

    Raises:
        UsageError: a slot is outside the cache.
    """
    if x.numel() and int(x.max()) >= capacity:
        raise UsageError(f"slot {int(x.max())} is outside the cache, which has {capacity} slots")
