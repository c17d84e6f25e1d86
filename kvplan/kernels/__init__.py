"""Quantized paged-attention kernels (torch and Triton, extra ``[gpu]``).

The only package that imports torch or triton; planning never imports it. Names are resolved on first use, so
that
``kvplan.kernels.formats`` and ``doctor`` work where torch is absent.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "KVFormat": "formats",
    "MLACache": "mla_cache",
    "PagedBatch": "batch",
    "PagedKVCache": "cache",
    "all_formats": "formats",
    "cache_append": "attention",
    "cache_write": "attention",
    "get_format": "formats",
    "mla_attention": "attention",
    "mla_write": "attention",
    "paged_attention": "attention",
}

__all__ = [
    "KVFormat",
    "MLACache",
    "PagedBatch",
    "PagedKVCache",
    "all_formats",
    "cache_append",
    "cache_write",
    "get_format",
    "mla_attention",
    "mla_write",
    "paged_attention",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
