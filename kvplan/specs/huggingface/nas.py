"""Layers found by architecture search (DeciLM, Nemotron-Super): every block has a configuration of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.specs.attention import FullAttention, SlidingAttention
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.heads import head_dim, query_heads
from kvplan.specs.huggingface.overrides import kinds_of_blocks
from kvplan.specs.mlp import DenseMlp
from kvplan.specs.model import Block


def nas_blocks(config: Config, layers: int) -> list[Block] | None:
    """One block per layer from ``block_configs``, or ``None`` where there is no such list.

    A block whose attention is ``no_op`` or replaced by a linear layer keeps nothing.
    """
    listed = config.per_layer("block_configs", layers) if config.has("block_configs") else None
    if listed is None or kinds_of_blocks(config, layers) is not None:
        return None
    return [_block(config, item, index) for index, item in enumerate(listed)]


def _block(config: Config, item: object, index: int) -> Block:
    where = f"block_configs[{index}]"
    if not isinstance(item, Mapping):
        raise config.error("expected a mapping", where)
    if "attention" not in item and "ffn" not in item:
        raise config.error("expected what the block's attention and ffn are, or its block_type", where)
    heads = query_heads(config)
    attention, ffn = item.get("attention"), item.get("ffn")
    found = None
    if (
        isinstance(attention, Mapping)
        and not attention.get("no_op")
        and not attention.get("replace_with_linear")
    ):
        group = attention.get("n_heads_in_group")
        kv = attention.get("num_key_value_heads")
        if isinstance(group, int) and group > 0:
            kv = heads // group
        if not isinstance(kv, int) or kv < 1:
            raise config.error("an attention block without n_heads_in_group", where)
        fields: dict[str, Any] = {"query_heads": heads, "kv_heads": kv, "head_dim": head_dim(config, heads)}
        window = attention.get("window_length")
        found = (
            SlidingAttention.model_construct(window=window, **fields)
            if isinstance(window, int)
            else FullAttention.model_construct(**fields)
        )
    mlp = None
    if isinstance(ffn, Mapping) and not ffn.get("no_op") and not ffn.get("replace_with_linear"):
        mlp = DenseMlp.model_construct(intermediate_size=_width(config, ffn, where))
    return Block.model_construct(attention=found, mlp=mlp, no_op=found is None and mlp is None)


def _width(config: Config, ffn: Mapping[str, Any], where: str) -> int:
    own = ffn.get("intermediate_size")
    if isinstance(own, int) and own > 0:
        return own
    multiple = ffn.get("ffn_mult")
    if not isinstance(multiple, (int, float)) or multiple <= 0:
        raise config.error("a feed-forward block without ffn_mult or intermediate_size", where)
    width = int(2 * multiple * config.count("hidden_size") / 3)
    return -(-width // 256) * 256
