"""Whether the memory bill leaves a pool that an engine can start with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.errors import AnswerIsNo
from kvplan.units import format_bytes, format_tokens

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport

FEWEST_BLOCKS = 2
"""One to serve with, and the one that engines keep for padding."""

LARGE_BLOCK = 256
"""Tokens of a block above which its size is the likely reason."""


def check_pool(fit: FitReport, blocks: int) -> None:
    """Refuse a pool of fewer than two blocks (or SGLang's pages), saying what is too large for it.

    Raises:
        AnswerIsNo: nothing is left of the budget, a block is larger than what is left, or there are no
            slots for the states of a request.
    """
    missing = fit.binding.missing_slots
    if fit.kv_pool_bytes > 0 and blocks >= FEWEST_BLOCKS and missing is None:
        return
    whose = "" if fit.serving.kind == "vllm" else f" --engine {fit.serving.kind}"
    what = f"{fit.model.name} does not fit on {fit.parallel.gpus} x {fit.gpu.name}"
    hint = f"see what would fit: kvplan fit {fit.model.name} --gpu {fit.gpu.name}{whose}"
    if fit.kv_pool_bytes <= 0:
        raise AnswerIsNo(
            f"{what}: no memory is left for the KV pool (short by {format_bytes(-fit.kv_pool_bytes)})",
            hint=hint,
        )
    if missing is not None:
        raise AnswerIsNo(f"{what}: {missing}", hint=hint)
    size, binding = fit.block_size, fit.binding
    sglang = fit.serving.kind == "sglang"
    block = binding.pool.request_bytes(size) if sglang else binding.capacity.block_bytes
    raise AnswerIsNo(
        f"{what} in blocks of {format_tokens(size)} tokens: the KV pool has "
        f"{format_bytes(fit.kv_pool_bytes)}, a block takes {format_bytes(block)}, and an engine needs "
        f"{FEWEST_BLOCKS}",
        hint=f"lower the block size; {hint}" if size > LARGE_BLOCK else hint,
    )
