"""Kernels of whole attention modules over latents that a profile has, without the matrices in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.latency.attention_shapes import ABSORBED_DIM, EXPANDED_DIM, check_supported
from kvplan.latency.attention_work import Attention
from kvplan.latency.table_formats import canonical, runs
from kvplan.sizing.weight_formats import WeightFormat

if TYPE_CHECKING:
    from kvplan.latency.fit.kernel import FittedKernel
    from kvplan.latency.kernel_set import KernelSet

DECODE, PREFILL = "mla_generation_module", "mla_context_module"


def decoding(kernels: KernelSet, item: Attention, weights: WeightFormat | None) -> dict[str, FittedKernel]:
    """What decodes over this cache, by name: beside matrices of this format, if some were timed so."""
    return _modules(kernels, DECODE, item, weights)


def prefilling(kernels: KernelSet, item: Attention, weights: WeightFormat | None) -> dict[str, FittedKernel]:
    """The same of prompts whose latents are expanded to heads."""
    found = _modules(kernels, PREFILL, item, weights)
    return {name: kernel for name, kernel in found.items() if kernel.high["head_dim"] == EXPANDED_DIM}


def short_prefill(kernels: KernelSet, item: Attention, weights: WeightFormat | None) -> FittedKernel | None:
    """What runs chunks of up to its ``high["new"]`` tokens instead: it reads latents as they are."""
    found = _modules(kernels, PREFILL, item, weights).values()
    absorbed = [kernel for kernel in found if kernel.high["head_dim"] == ABSORBED_DIM]
    return max(absorbed, key=lambda kernel: kernel.high["new"], default=None)


def cache_dtype(item: Attention) -> str | None:
    """What tables call this cache's format; None where they have none of its width."""
    if item.kv_format == "nvfp4":
        return item.kv_format  # others are as wide
    return {1.0: "fp8", 2.0: "bfloat16"}.get(round(item.kv_element_bytes, 6))


def _modules(
    kernels: KernelSet, op: str, item: Attention, weights: WeightFormat | None
) -> dict[str, FittedKernel]:
    if item.kind != "mla":
        return {}
    check_supported(item)
    found = [
        (labels, kernel) for labels, kernel in kernels.timed(op)
        if canonical(labels.get("kv_cache_dtype", "bfloat16")) == cache_dtype(item)
    ]  # fmt: skip
    own = [one for one in found if weights is not None and runs(one[0]["gemm_type"], weights.name)]
    return {" ".join(labels.values()): kernel for labels, kernel in own or found}
