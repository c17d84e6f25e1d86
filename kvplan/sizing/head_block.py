"""How many tokens a block of vLLM has where attention keeps heads: sixteen, but for one kernel.

From FlashAttention's ``get_preferred_block_size`` (0.31 to 0.33), and as its start-up settled it for Gemma 4.
"""

from __future__ import annotations

from collections.abc import Collection

from kvplan.sizing.serving import HOPPER, Serving

WIDE_FP8 = (0, 31, 0)
"""Hopper reads heads of 512 dimensions in fp8 from here on, in tiles of 64 tokens."""

TILE_TOKENS, WIDE_DIMS = 64, 512


def head_block(head_dims: Collection[int], serving: Serving, form: str) -> int:
    """Tokens of a block; one that was asked for is kept.

    Args:
        head_dims: of all layers that keep heads. form: the number format that they are kept in.
    """
    asked = "block_size" in serving.given
    tiled = serving.capability == HOPPER and serving.version >= WIDE_FP8 and form == "fp8_e4m3"
    if serving.kind != "vllm" or asked or not tiled or WIDE_DIMS not in head_dims:
        return serving.block_size
    return max(serving.block_size, TILE_TOKENS)
