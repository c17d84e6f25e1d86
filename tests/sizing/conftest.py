"""Model shapes written out by hand, so that these tests need no registry and no files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvplan.specs.schema import (
    Block,
    DenseMlp,
    FullAttention,
    LatentAttention,
    ModelSpec,
    MoeMlp,
    Segment,
    Source,
    Weights,
)


def dense_model(
    name: str,
    hidden: int,
    vocab: int,
    layers: int,
    heads: tuple[int, int, int],
    width: int,
    context: int,
    *,
    mlp: Any = None,
    attention: dict[str, Any] | None = None,
    **fields: Any,
) -> ModelSpec:
    """A decoder of equal layers; ``heads`` = query heads, KV heads, head dimension."""
    query, kv, dim = heads
    block = Block(
        attention=FullAttention(query_heads=query, kv_heads=kv, head_dim=dim, **(attention or {})),
        mlp=mlp or DenseMlp(intermediate_size=width),
    )
    return ModelSpec(
        name=name,
        family=fields.pop("family", "llama"),
        source=Source(url="https://example.org/written-by-hand"),
        hidden_size=hidden,
        vocab_size=vocab,
        max_context=context,
        blocks={"layer": block},
        layout=(Segment(repeat=layers, blocks=("layer",)),),
        **fields,
    )


def _deepseek_v3() -> ModelSpec:
    attention = LatentAttention(
        query_heads=128,
        kv_lora_rank=512,
        rope_head_dim=64,
        nope_head_dim=128,
        v_head_dim=128,
        q_lora_rank=1536,
    )
    experts = MoeMlp(experts=256, experts_per_token=8, intermediate_size=2048, shared_intermediate_size=2048)
    return ModelSpec(
        name="deepseek-v3",
        family="deepseek_v3",
        source=Source(url="https://example.org/written-by-hand"),
        hidden_size=7168,
        vocab_size=129280,
        max_context=163840,
        weights=Weights(format="fp8_block128"),
        blocks={
            "dense": Block(attention=attention, mlp=DenseMlp(intermediate_size=18432)),
            "sparse": Block(attention=attention, mlp=experts),
        },
        layout=(Segment(repeat=3, blocks=("dense",)), Segment(repeat=58, blocks=("sparse",))),
    )


_MODELS: dict[str, Callable[[], ModelSpec]] = {
    "llama-3.1-8b": lambda: dense_model(
        "llama-3.1-8b", 4096, 128256, 32, (32, 8, 128), 14336, 131072, aliases=("meta-llama/Llama-3.1-8B",)
    ),
    "llama-3.1-70b": lambda: dense_model("llama-3.1-70b", 8192, 128256, 80, (64, 8, 128), 28672, 131072),
    "qwen2.5-7b": lambda: dense_model(
        "qwen2.5-7b", 3584, 152064, 28, (28, 4, 128), 18944, 32768, attention={"qkv_bias": True}
    ),
    "qwen3-0.6b": lambda: dense_model(
        "qwen3-0.6b", 1024, 151936, 28, (16, 8, 128), 3072, 40960,
        attention={"qk_norm": "per_head"}, tie_embeddings=True,
    ),
    "qwen3-8b": lambda: dense_model(
        "qwen3-8b", 4096, 151936, 36, (32, 8, 128), 12288, 40960, attention={"qk_norm": "per_head"}
    ),
    "qwen3-14b": lambda: dense_model(
        "qwen3-14b", 5120, 151936, 40, (40, 8, 128), 17408, 40960, attention={"qk_norm": "per_head"}
    ),
    "mixtral-8x7b": lambda: dense_model(
        "mixtral-8x7b", 4096, 32000, 32, (32, 8, 128), 0, 32768,
        mlp=MoeMlp(experts=8, experts_per_token=2, intermediate_size=14336),
    ),
    "qwen3-235b-a22b": lambda: dense_model(
        "qwen3-235b-a22b", 4096, 151936, 94, (64, 4, 128), 0, 40960, attention={"qk_norm": "per_head"},
        mlp=MoeMlp(experts=128, experts_per_token=8, intermediate_size=1536),
    ),
    "deepseek-v3": _deepseek_v3,
}  # fmt: skip


@pytest.fixture(scope="session")
def hand_model() -> Callable[[str], ModelSpec]:
    """``hand_model(name)``: a well-known model's shape."""
    return lambda name: _MODELS[name]()
