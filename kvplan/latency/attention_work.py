"""What the attention of a layer reads and multiplies, per rank.

Attention that an indexer thins out (DeepSeek-V3.2 and -V4, GLM-5) is two entries: the layer itself, which
reads the ``topk`` entries that were chosen, and the indexer, whose heads score every key there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from kvplan.sizing.attention import Keeping, index_entry
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.tensor import share
from kvplan.specs.attention import Indexer
from kvplan.specs.formats import KvFormat
from kvplan.specs.schema import (
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    LatentAttention,
    ModelSpec,
    SelfAttention,
    SharedAttention,
    SlidingAttention,
)

INDEXER = "indexer"
"""The kind of what scores keys and reads no values."""
WHOLE = "sparse attention is timed as if it read every token"
CHOOSING = "choosing the highest of a sparse indexer's scores is not timed"


@dataclass(frozen=True, slots=True)
class Attention:
    """``layers`` layers that read a cache.

    ``kv_bytes_per_token``: of one layer. ``limit``: the window, or None. ``ratio``: cache entries per token.
    ``decode_flops`` and ``prefill_flops``: per query-key pair of one layer, all heads of this rank.
    ``kv_format``: name of the cache's number format. ``shards``: context-parallel ranks that share one
    sequence's cache; ``kv_bytes_per_token`` and FLOPs are those of one of them. ``decode_rows``: tokens of a
    request that a step decodes, drafts among them; ``decode_flops`` are those of all. ``up_projection``:
    (outputs, inputs) of the matrix that makes K and V of a latent, of this rank's heads. ``narrow``: queries
    and keys are multiplied in 8 bits where the GPU does that.
    """

    layers: int
    kind: str
    q_heads: int
    kv_heads: int
    head_dim: int
    kv_bytes_per_token: float
    kv_element_bytes: float
    limit: int | None
    ratio: int
    decode_flops: float
    prefill_flops: float
    kv_format: str = ""
    shards: int = 1
    decode_rows: int = 1
    up_projection: tuple[int, int] | None = None
    narrow: bool = False

    @property
    def decode_heads(self) -> int:
        """Query rows that read a sequence's cache in a step that decodes."""
        return self.q_heads * self.decode_rows


def of_rows(item: Attention, rows: int) -> Attention:
    """The same where a request's step decodes ``rows`` tokens."""
    if rows == 1:
        return item
    return replace(item, decode_rows=rows, decode_flops=item.decode_flops * rows)


def attention_work(
    attention: SelfAttention, layers: int, parallel: Parallel, keeping: Keeping, notes: list[str]
) -> list[Attention]:
    """The attention of ``layers`` alike layers; what is not timed of them is added to ``notes``.

    Args:
        keeping: the engine, and the number format of its cache.
    """
    tp, cp, form = parallel.attention_tp, parallel.cp, keeping.form
    if isinstance(attention, LatentAttention):
        heads = share(attention.query_heads, tp)
        rank, rope = attention.kv_lora_rank, attention.rope_head_dim
        size = float(form.latent_bytes(rank, rope)) / cp
        limit = attention.indexer.topk if attention.indexer is not None else None
        return [
            Attention(
                layers, "mla", heads, 1, rank + rope, size, size * cp / (rank + rope), limit, 1,
                2.0 * heads * (2 * rank + rope) / cp,
                2.0 * heads * (attention.nope_head_dim + rope + attention.v_head_dim) / cp, form.name, cp,
                up_projection=(heads * (attention.nope_head_dim + attention.v_head_dim), rank),
            ),
            *_scores(attention.indexer, 1, layers, parallel, keeping, notes),
        ]  # fmt: skip
    if isinstance(attention, CompressedAttention):
        heads, dim = share(attention.query_heads, tp), attention.head_dim
        size = float(form.k.bytes_per_token(1, dim))
        flops = 4.0 * heads * dim
        near = Attention(
            layers, "compressed", heads, 1, dim, size, size / dim, attention.window, 1, flops, flops / cp
        )
        if not attention.ratio:
            return [near]
        chosen = None if attention.indexer is None else attention.indexer.topk
        far = Attention(
            layers, "compressed", heads, 1, dim, size / cp, size / dim,
            None if chosen is None else chosen * attention.ratio, attention.ratio,
            flops / cp, flops / cp, shards=cp,
        )  # fmt: skip
        return [near, far, *_scores(attention.indexer, attention.ratio, layers, parallel, keeping, notes)]
    heads, kv = share(attention.query_heads, tp), share(attention.kv_heads, tp)
    value = attention.head_dim if isinstance(attention, SharedAttention) else attention.value_dim
    size = float(form.k.bytes_per_token(kv, attention.head_dim) + form.v.bytes_per_token(kv, value))
    window: int | None = None
    scores: list[Attention] = []
    indexer = attention.indexer if isinstance(attention, FullAttention) else None
    if indexer is not None:
        window = indexer.topk
        if window is None and WHOLE not in notes:
            notes.append(WHOLE)
        scores = _scores(indexer, 1, layers, parallel, keeping, notes, split=True)
    elif isinstance(attention, SlidingAttention):
        window = attention.window
    elif isinstance(attention, ChunkedAttention):
        window = attention.chunk
    elif isinstance(attention, SharedAttention):
        window = attention.window
    # Windows are not divided among context-parallel ranks; what an indexer chooses from is.
    ranks = 1 if window is not None and indexer is None else cp
    flops = 2.0 * heads * (attention.head_dim + value)
    element = size / (kv * (attention.head_dim + value))
    return [
        Attention(
            layers,
            attention.kind,
            heads,
            kv,
            attention.head_dim,
            size / ranks,
            element,
            window,
            1,
            flops / ranks,
            flops / cp,
            form.name,
            ranks,
        ),
        *scores,
    ]


def _scores(
    indexer: Indexer | None, ratio: int, layers: int, parallel: Parallel, keeping: Keeping, notes: list[str],
    *, split: bool = False,
) -> list[Attention]:  # fmt: skip
    """What chooses among entries of ``ratio`` tokens: nothing where an earlier layer's choice is taken.

    Every tensor-parallel rank has all keys. Beside latents it has all index heads, too: vLLM's score a share
    of a prompt's rows each (``balanced_prefill_row_shard``, 0.30 on), SGLang's all of them. ``split``: beside
    KV heads they are divided as those are.
    """
    if indexer is None or indexer.topk is None or not indexer.owned:
        return []
    if CHOOSING not in notes:
        notes.append(CHOOSING)
    tp, keys, dim, cp = parallel.attention_tp, indexer.key_heads, indexer.head_dim, parallel.cp
    heads = share(indexer.heads, tp) if split else indexer.heads
    size = float(index_entry(indexer, keeping).entry_bytes)
    flops = 2.0 * heads * dim / cp
    rows = tp if keeping.engine == "vllm" and not split else 1
    return [
        Attention(
            layers, INDEXER, heads, keys, dim, size / cp, size / (keys * dim), None, ratio * indexer.pool,
            flops, flops / rows, shards=cp, narrow=indexer.scaled,
        )
    ]  # fmt: skip


def cross_work(
    cross: CrossAttention, model: ModelSpec, layers: int, parallel: Parallel, form: KvFormat, notes: list[str]
) -> Attention:
    """Attention to an encoder's tokens."""
    heads, kv = share(cross.query_heads, parallel.tp), share(cross.kv_heads, parallel.tp)
    size = float(2 * form.k.bytes_per_token(kv, cross.head_dim))
    fixed = model.encoder.max_tokens if model.encoder is not None and cross.source == "encoder" else None
    notes.append(
        f"cross attention reads {fixed or 'as many encoder tokens as decoder'} tokens per sequence"
        if fixed
        else "cross attention reads as many tokens as the decoder holds"
    )
    flops = 4.0 * heads * cross.head_dim
    cp = parallel.cp
    return Attention(
        layers, "cross", heads, kv, cross.head_dim, size, float(Fraction(size) / (2 * kv * cross.head_dim)),
        fixed, 1, flops, flops / cp,
    )  # fmt: skip
