"""The public operations: write tokens into a paged cache, attend to it.

Shapes: T new tokens of B sequences, HQ query heads, H KV heads, D head dimension. Arguments are validated
before anything is launched. Block ids and lengths live on the device; they are checked always by the torch
reference, and by the kernels when ``KVPLAN_DEBUG=1`` (which waits for the device). Without it an out-of-range
id is undefined behaviour, as in any paged attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kvplan.errors import UsageError
from kvplan.kernels import checks, ops
from kvplan.kernels.batch import PagedBatch
from kvplan.kernels.cache import PagedKVCache
from kvplan.kernels.formats import LATENT_DIM, ROPE_DIM
from kvplan.kernels.mla_cache import MLACache
from kvplan.kernels.splits import MOST


def check_splits(splits: int | None) -> None:
    """Raise unless splits are ``None`` or 1..128.

    Raises:
        UsageError: otherwise.
    """
    if splits is not None and not 1 <= splits <= MOST:
        raise UsageError(f"splits must be from 1 to {MOST}, not {splits}")


def check_scale(scale: float) -> None:
    """Raise unless a softmax scale is positive and finite.

    Raises:
        UsageError: otherwise.
    """
    if not 0 < scale < math.inf:
        raise UsageError(f"scale must be positive and finite, not {scale:g}")


def paged_attention(
    query: Tensor,
    cache: PagedKVCache,
    batch: PagedBatch,
    *,
    scale: float | None = None,
    window: int = 0,
    splits: int | None = None,
    fused: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Causal attention of new tokens to their paged caches, which already hold them.

    Args:
        query: bf16, fp16 or fp32 [T, HQ, D], contiguous. On CUDA with a 16-bit cache it must have the cache's
            dtype. T = B for decode (``batch.query_starts`` is None), else ``batch.query_starts[B]``.
        cache: one layer's cache.
        batch: block table, lengths (new tokens included), and which tokens are new.
        scale: softmax scale, positive; ``None`` for 1/sqrt(D).
        window: a token sees the newest ``window`` tokens up to itself; 0 for all.
        splits: programs that share the tokens of a sequence; ``None`` to choose from the shapes and the width
            of the block table, which should therefore not be wider than the longest sequence needs.
        fused: combine splits in the same launch where they are small (the last program of a head to arrive
            does it); False for a second launch always.
        backend: ``auto`` (Triton on CUDA, torch elsewhere), ``triton`` or ``reference``.

    Returns:
        out [T, HQ, D] in the query's dtype, and lse fp32 [T, HQ], the natural logarithm of the softmax
        denominator. A sequence without tokens gives 0 and minus infinity.

    Raises:
        UsageError: dtype, shape, layout, device, or block ids that do not fit the cache.
        EnvironmentLacks: triton is missing, or the GPU's architecture is not supported.
    """
    checks.query(query, cache)
    checks.architecture(cache, ops.uses_triton(backend, cache.device))
    batch.validate()
    if window < 0:
        raise UsageError(f"window must not be negative, not {window}")
    check_splits(splits)
    scale = 1 / math.sqrt(cache.head_dim) if scale is None else scale
    check_scale(scale)
    if batch.query_starts is None and query.shape[0] != batch.sequences:
        raise UsageError(
            f"decode takes one query token per sequence: {query.shape[0]} tokens, "
            f"{batch.sequences} sequences",
            hint="give query_starts for several new tokens per sequence",
        )
    *held, counters = cache.tensors()
    return torch.ops.kvplan.paged_attention(
        query, held, counters, cache.format.name, batch.block_table, batch.lengths, batch.query_starts,
        batch.rows, batch.max_query, scale, window, splits or 0, fused, backend,
    )  # fmt: skip


def cache_write(
    cache: PagedKVCache, key: Tensor, value: Tensor, slots: Tensor, *, backend: str = "auto"
) -> None:
    """Quantize tokens into given slots, for formats that code each token alone.

    Args:
        key, value: [T, H, D], contiguous; bf16, fp16 or fp32, or the cache's dtype for 16-bit caches. Finite.
        slots: int64 [T], ``block * block_size + offset``; negative skips the token. Slots must be distinct.

    Raises:
        UsageError: as ``paged_attention``; or a KIVI cache, whose tokens wait in the ring (``cache_append``).
        EnvironmentLacks: triton is missing.
    """
    if cache.format.residual:
        raise UsageError(
            f"{cache.format.name} codes groups of {cache.format.token_group} tokens", hint="use cache_append"
        )
    checks.tokens(key, value, cache)
    checks.architecture(cache, ops.uses_triton(backend, cache.device))
    checks.tensor("slots", slots, (key.shape[0],), (torch.int64,), cache.device)
    torch.ops.kvplan.cache_write(cache.tensors()[:-1], cache.format.name, key, value, slots, backend)


def cache_append(
    cache: PagedKVCache, key: Tensor, value: Tensor, batch: PagedBatch, *, backend: str = "auto"
) -> None:
    """Write the new tokens of a batch where its block table says, in any format.

    For KIVI, groups of tokens that leave the residual window are coded and the newest tokens are kept in 16
    bits; sequences must then be appended to in order, without gaps.

    Args:
        key, value: [T, H, D] as in ``cache_write``; the ring's dtype for KIVI.
        batch: ``lengths`` include the new tokens.

    Raises:
        UsageError, EnvironmentLacks: as ``paged_attention``.
    """
    checks.tokens(key, value, cache)
    checks.architecture(cache, ops.uses_triton(backend, cache.device))
    batch.validate()
    torch.ops.kvplan.cache_append(
        cache.tensors()[:-1], cache.format.name, key, value, batch.block_table, batch.lengths,
        batch.query_starts, batch.rows, batch.max_query, backend,
    )  # fmt: skip


def mla_attention(
    query: Tensor,
    cache: MLACache,
    batch: PagedBatch,
    *,
    scale: float,
    splits: int | None = None,
    fused: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Causal multi-head latent attention of absorbed queries.

    Args:
        query: [T, HQ, 576]: 512 latent and 64 RoPE dimensions, contiguous.
        scale: softmax scale, of the model's uncompressed heads (DeepSeek-V3: 192 ** -0.5).
        Others as in ``paged_attention``.

    Returns:
        out [T, HQ, 512] in latent space, and lse fp32 [T, HQ].

    Raises:
        UsageError, EnvironmentLacks: as ``paged_attention``.
    """
    dtypes = (torch.bfloat16,) if cache.device.type == "cuda" else checks.FLOATS
    checks.tensor("query", query, (None, None, LATENT_DIM + ROPE_DIM), dtypes, cache.device)
    checks.architecture(cache, ops.uses_triton(backend, cache.device))
    batch.validate()
    check_splits(splits)
    check_scale(scale)
    *held, counters = cache.tensors()
    return torch.ops.kvplan.mla_attention(
        query, held, counters, cache.format.name, batch.block_table, batch.lengths, batch.query_starts,
        batch.max_query, scale, splits or 0, fused, backend,
    )  # fmt: skip


def mla_write(cache: MLACache, latent: Tensor, rope: Tensor, slots: Tensor, *, backend: str = "auto") -> None:
    """Write latents and RoPE keys into given slots.

    Args:
        latent: bf16 [T, 512]; rope: bf16 [T, 64]; slots: int64 [T], negative skips the token.

    Raises:
        UsageError, EnvironmentLacks: as ``cache_write``.
    """
    checks.tensor("latent", latent, (None, LATENT_DIM), (torch.bfloat16,), cache.device)
    checks.tensor("rope", rope, (latent.shape[0], ROPE_DIM), (torch.bfloat16,), cache.device)
    checks.architecture(cache, ops.uses_triton(backend, cache.device))
    checks.tensor("slots", slots, (latent.shape[0],), (torch.int64,), cache.device)
    torch.ops.kvplan.mla_write(cache.tensors()[:-1], cache.format.name, latent, rope, slots, backend)
