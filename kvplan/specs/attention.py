"""The attention variants a layer may have: what decides how many bytes a token leaves behind.

Each variant is a frozen value told apart by ``kind``; ``kvplan.sizing.attention`` has one function for
each. Dimensions use the field's symbols: query heads, KV heads, head dimension of K (and of V where it
differs), the latent rank and the rope dimensions of multi-head latent attention (MLA).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvplan.specs.base import Count, Frozen, Natural


class Indexer(Frozen):
    """A sparse-attention indexer: small extra keys per token that choose which tokens are attended.

    Engines keep ``scaled`` keys in fp8 with one fp32 scale per ``scale_group`` elements (0: without any),
    transformers in the model's dtype; keys that are not ``scaled`` stay in the model's dtype everywhere.
    ``owned`` is false on a layer that re-uses the selection of an earlier one and stores no keys.

    ``topk``: tokens attended, or entries of a cache that has one for several; None: not known.

    Engines merge the keys of ``pool`` neighbouring tokens into one and keep those of the open pool apart;
    transformers keeps every token's. ``gated`` pools weigh tokens by a gate as wide as a key. ``positions``
    marks the layer where transformers keeps the tokens' three rotary positions for all indexers; ``wide``
    keys are rotated there in fp32 and stay so.
    """

    heads: Count
    head_dim: Count
    key_heads: Count = 1
    topk: Count | None = None
    owned: bool = True
    scaled: bool = True
    scale_group: Natural = 128
    pool: Count = 1
    gated: bool = False
    positions: bool = False
    wide: bool = False


class _Heads(Frozen):
    """Multi-head, grouped-query or multi-query attention: told apart by ``kv_heads``."""

    query_heads: Count
    kv_heads: Count
    head_dim: Count
    v_head_dim: Count | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "per_head", "full"] = "none"
    output_gate: bool = False
    """The query projection also produces a gate on the output (doubling its width)."""
    query_rank: Count | None = None
    """Queries are projected through so many dimensions, which every rank computes (Step 3)."""
    v_projection: bool = True
    """False where V is computed from K (Gemma 4): no V weights, though both are cached."""
    sinks: bool = False
    """Every query head has a learned logit beside those of the keys (GPT-OSS)."""
    indexer: Indexer | None = None
    summary_stride: Count | None = None
    """InfLLM-v2: a mean key for every so many tokens, and one for four times as many, choose what is read."""

    @property
    def value_dim(self) -> int:
        """Head dimension of V."""
        return self.head_dim if self.v_head_dim is None else self.v_head_dim

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.query_heads % self.kv_heads:
            raise ValueError(f"query_heads {self.query_heads} is not a multiple of kv_heads {self.kv_heads}")
        return self


class FullAttention(_Heads):
    """Every token attends to every earlier one: K and V of the whole context are kept."""

    kind: Literal["full"] = "full"


class SlidingAttention(_Heads):
    """A token attends to the ``window`` most recent ones, itself included."""

    kind: Literal["sliding"] = "sliding"
    window: Count
    excludes_itself: bool = False
    """``window`` counts the tokens before (Cohere 2): vLLM's window is one larger."""


class ChunkedAttention(_Heads):
    """A token attends inside its own aligned chunk of ``chunk`` tokens (Llama 4)."""

    kind: Literal["chunked"] = "chunked"
    chunk: Count


class LatentAttention(Frozen):
    """MLA: one latent of ``kv_lora_rank`` plus ``rope_head_dim`` rotary dimensions per token."""

    kind: Literal["mla"] = "mla"
    query_heads: Count
    kv_lora_rank: Count
    rope_head_dim: Natural
    nope_head_dim: Count
    v_head_dim: Count
    q_lora_rank: Count | None = None
    output_gate: bool = False
    qkv_bias: bool = False
    window: Count | None = None
    """Tokens a windowed layer of latents attends to; ``None`` = the whole context."""
    indexer: Indexer | None = None
    shared: bool = False
    """Attends over the latents of an earlier layer and stores none itself, index keys apart."""
    row_dim: Count | None = None
    """Elements of a row where vLLM keeps wider ones than the latent needs (those of its windowed layers)."""
    expanded_in: tuple[Literal["vllm", "sglang", "transformers"], ...] = ()
    """Engines without a latent cache for this architecture: they keep every head's expanded K and V."""

    @property
    def latent_dim(self) -> int:
        """Elements kept per token: latent plus rope."""
        return self.kv_lora_rank + self.rope_head_dim


class CompressedAttention(Frozen):
    """DeepSeek-V4: a short window of single-head latents plus one compressed entry per ``ratio`` tokens.

    ``ratio`` 0 keeps the window alone. ``overlap`` marks the finely compressed form whose entries are
    pooled from two neighbouring groups (ratio 4) and which owns an indexer over the compressed entries.
    ``compresses`` is false on a layer that reads the entries of an earlier one (V4.1) and keeps its window
    alone. ``keys_from_entries`` marks the form (V4.1) whose index keys are projected from the entries and
    whose unfinished group is a ring of rows.
    """

    kind: Literal["compressed"] = "compressed"
    query_heads: Count
    head_dim: Count
    rope_head_dim: Natural
    window: Count
    ratio: Natural
    overlap: bool = False
    compresses: bool = True
    keys_from_entries: bool = False
    q_lora_rank: Count
    o_lora_rank: Count
    o_groups: Count
    indexer: Indexer | None = None

    @model_validator(mode="after")
    def _indexer_needs_entries(self) -> Self:
        if self.ratio == 0 and (self.indexer is not None or self.overlap):
            raise ValueError("a layer with ratio 0 keeps no compressed entries, so no indexer and no overlap")
        return self


class SharedAttention(Frozen):
    """A layer that attends over the KV of an earlier layer and stores nothing itself."""

    kind: Literal["shared"] = "shared"
    query_heads: Count
    kv_heads: Count
    head_dim: Count
    window: Count | None = None
    kv_projection: bool = False
    """True where the checkpoint still carries (unused) K and V projections."""
    qk_norm: Literal["none", "per_head", "full"] = "none"


class CrossAttention(Frozen):
    """Attention over an encoder's or an image's tokens: kept once per sequence, not per generated token."""

    kind: Literal["cross"] = "cross"
    query_heads: Count
    kv_heads: Count
    head_dim: Count
    source: Literal["encoder", "vision"] = "encoder"
    qkv_bias: bool = False
    output_bias: bool = False
    merged: bool = False
    """Projected by the matrices of the layer's self-attention, so without weights of its own (T5Gemma 2)."""


SelfAttention = Annotated[
    FullAttention
    | SlidingAttention
    | ChunkedAttention
    | LatentAttention
    | CompressedAttention
    | SharedAttention,
    Field(discriminator="kind"),
]
