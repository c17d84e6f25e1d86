"""What one layer keeps, by attention variant and engine: the only place with the formulas.

Every variant has one function that lists its stores. Engines differ in what they keep beside the
algorithm's minimum: index keys in fp8 or in the model's dtype, latents packed or not, K stored twice.
A variant of ``kvplan.specs.attention`` without an entry in ``_STORES`` fails the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any, Literal

from kvplan.sizing.stores import Heads, Packed, Reach, Store
from kvplan.specs.attention import (
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    Indexer,
    LatentAttention,
    SelfAttention,
    SharedAttention,
    SlidingAttention,
)
from kvplan.specs.formats import KvFormat, check_fits, kv_format
from kvplan.specs.model import Block, ModelSpec
from kvplan.specs.state import ShortConvState

Engine = Literal["ideal", "transformers", "vllm", "sglang"]

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

PACKED_ROPE = 64
"""Rotary dimensions that vLLM's packed entries have room for, also where the model has none."""

V4_PAGE_ALIGNMENT = 576
"""vLLM pads every DeepSeek-V4 page to a multiple of this many bytes."""

OPEN_GROUP_ROWS = 8
"""Rows of fp32 values and gates in vLLM's ring for a group that is not full yet (DeepSeek-V4.1)."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """Whose rules apply: the engine, the KV number format, and the dtype of the model's activations.

    ``raw_latents``: fp8 latents of sparse attention stay rows of plain elements (SGLang from Blackwell on).
    ``drafts``: of a step, each of which has a column of a state's convolution (vLLM, by version and state).
    """

    engine: Engine
    form: KvFormat
    dtype: str = "bf16"
    raw_latents: bool = False
    drafts: int = 0

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one activation."""
        return DTYPE_BYTES[self.dtype]


def keeping_of(model: ModelSpec, form: KvFormat, engine: Engine) -> Keeping:
    """The rules that hold for a model in an engine."""
    return Keeping(engine, form, model.dtype)


def default_format(model: ModelSpec, engine: Engine, dtype: str | None = None) -> str:
    """The KV number format an engine takes when it is told none: what the checkpoint asks for, else a dtype.

    Engines read it from the quantization configuration; transformers keeps K and V as they are computed.

    Args:
        dtype: of activations; ``None``: the model's.
    """
    asked = model.asked_format(engine) if engine != "transformers" else None
    return asked or dtype or model.dtype


def layer_keeping(model: ModelSpec, keeping: Keeping, index: int) -> Keeping:
    """The rules of layer ``index``: some formats leave the ends of a model in its dtype (vLLM)."""
    ends, layers = keeping.form.plain_ends, model.num_layers
    if keeping.engine != "vllm" or not ends:
        return keeping
    ends = min(ends, layers // 2)
    inner = ends <= index < layers - ends or index >= layers
    if inner or any(block.state is not None for block in model.blocks.values()):
        return keeping
    return replace(keeping, form=kv_format(keeping.dtype))


def layer_stores(block: Block, keeping: Keeping, encoder_tokens: int = 0) -> tuple[Store, ...]:
    """Everything one layer keeps per token or per encoder token (constant state apart)."""
    stores: tuple[Store, ...] = ()
    if block.attention is not None:
        stores += attention_stores(block.attention, keeping)
    if block.cross is not None:
        stores += _cross(block.cross, keeping, encoder_tokens)
    if isinstance(block.state, ShortConvState) and is_paged(block.state, keeping):
        stores += _convolution_inputs(block.state, keeping)
    return stores


def is_paged(state: ShortConvState, keeping: Keeping) -> bool:
    """Whether an engine keeps the inputs of a convolution in pages instead of a state."""
    return keeping.engine == "vllm" and state.paged_heads is not None


def _convolution_inputs(state: ShortConvState, keeping: Keeping) -> tuple[Store, ...]:
    heads, kernel = state.paged_heads or 1, state.conv_kernel
    width = 1 << (-(-state.channels // heads) - 1).bit_length()
    content = Heads(heads, width, 0, kv_format(keeping.dtype))
    return (Store("convolution inputs", content, "window", kernel, page_tokens=kernel),)


def attention_stores(attention: SelfAttention, keeping: Keeping) -> tuple[Store, ...]:
    """The stores of one self-attention layer.

    Raises:
        UsageError: a latent-only number format on attention that keeps heads.
    """
    check_fits(keeping.form, attention)
    return _STORES[type(attention)](attention, keeping)


def _heads(
    attention: FullAttention | SlidingAttention | ChunkedAttention, keeping: Keeping
) -> tuple[Heads, tuple[Store, ...]]:
    content = Heads(attention.kv_heads, attention.head_dim, attention.value_dim, keeping.form)
    extra = _index_keys(attention.indexer, keeping) if attention.indexer else ()
    return content, (*extra, *_summaries(attention, keeping))


def _summaries(
    attention: FullAttention | SlidingAttention | ChunkedAttention, keeping: Keeping
) -> tuple[Store, ...]:
    """Mean keys of InfLLM-v2. SGLang 0.5.23 gives each a slot of K and V; vLLM attends to everything."""
    stride = attention.summary_stride
    if stride is None or keeping.engine == "vllm":
        return ()
    value_dim = attention.value_dim if keeping.engine == "sglang" else 0
    content = Heads(attention.kv_heads, attention.head_dim, value_dim, keeping.form)
    return tuple(
        Store("mean keys", content, tokens_per_entry=times * stride, source="SGLang 0.5.23 minicpm")
        for times in (1, 4)
    )


def _full(attention: FullAttention, keeping: Keeping) -> tuple[Store, ...]:
    content, extra = _heads(attention, keeping)
    return (Store("K and V", content), *extra)


def _sliding(attention: SlidingAttention, keeping: Keeping) -> tuple[Store, ...]:
    content, extra = _heads(attention, keeping)
    window = attention.window + (1 if attention.excludes_itself and keeping.engine == "vllm" else 0)
    return (Store("K and V", content, "window", window), *extra)


def _chunked(attention: ChunkedAttention, keeping: Keeping) -> tuple[Store, ...]:
    content, extra = _heads(attention, keeping)
    return (Store("K and V", content, "chunk", attention.chunk), *extra)


def _latent(attention: LatentAttention, keeping: Keeping) -> tuple[Store, ...]:
    extra = _index_keys(attention.indexer, keeping) if attention.indexer else ()
    if attention.shared:
        return extra
    if keeping.engine in attention.expanded_in:
        dim = attention.nope_head_dim + attention.rope_head_dim
        content = Heads(attention.query_heads, dim, dim, keeping.form)
        return (Store("K and V", content, source="no latent cache for this architecture"), *extra)
    reach: Reach = "window" if attention.window else "context"
    limit = attention.window or 0
    form = latent_format(attention, keeping)
    latent, rope = attention.kv_lora_rank, attention.rope_head_dim
    if keeping.engine == "vllm" and form.packed == "fp8_ds_mla":
        rope = rope or PACKED_ROPE
    elif keeping.engine == "vllm" and attention.row_dim is not None:
        latent = attention.row_dim - rope
    formula = form.latent_formula(latent, rope)
    if form.k.residual or form.k.granularity == "channel":
        return (Store("latent", Heads(1, latent + rope, 0, form), reach, limit, split_heads=False), *extra)
    content_packed = Packed(form.latent_bytes(latent, rope), formula)
    return (Store("latent", content_packed, reach, limit, split_heads=False), *extra)


def latent_format(attention: LatentAttention, keeping: Keeping) -> KvFormat:
    """vLLM and SGLang store fp8 latents of sparse-indexer MLA packed: 656 bytes for 512 + 64."""
    packs = keeping.engine in ("vllm", "sglang") and not keeping.raw_latents
    if attention.indexer is not None and packs and keeping.form.name == "fp8_e4m3":
        return kv_format("fp8_ds_mla")
    return keeping.form


def _index_keys(indexer: Indexer, keeping: Keeping) -> tuple[Store, ...]:
    if not indexer.owned:
        return ()
    entry = index_entry(indexer, keeping)
    if keeping.engine == "transformers":
        keys = Store("indexer keys", entry, split_heads=False)
        where = Packed(Fraction(3 * 8), "3 positions x 8")
        return (keys, Store("index positions", where, split_heads=False)) if indexer.positions else (keys,)
    if keeping.engine == "sglang" and indexer.pool > 1:  # every token's share of a key, a whole byte or more
        share = Packed(
            Fraction(ceil(entry.entry_bytes / indexer.pool)), f"({entry.formula}) / {indexer.pool}"
        )
        return (Store("indexer keys", share, split_heads=False),)
    keys = Store("indexer keys", entry, tokens_per_entry=indexer.pool, split_heads=False)
    if indexer.pool == 1:
        return (keys,)
    series, size = 2 if indexer.gated else 1, keeping.dtype_bytes
    raw = Packed(Fraction(series * indexer.head_dim * size), f"{series} x {indexer.head_dim} x {size}")
    page = indexer.pool if keeping.engine == "vllm" else 0
    return (keys, Store("open pool", raw, "remainder", indexer.pool, page_tokens=page, split_heads=False))


def index_entry(indexer: Indexer, keeping: Keeping) -> Packed:
    """One key of an indexer, its scales included."""
    dim, heads = indexer.head_dim, indexer.key_heads
    many = f"{heads} x " if heads > 1 else ""
    if indexer.scaled and keeping.engine in ("vllm", "sglang"):
        scales = -(-dim // indexer.scale_group) if indexer.scale_group else 0
        formula = f"{many}({dim} fp8 + {scales} x 4 scale)" if scales else f"{many}{dim} fp8"
        return Packed(Fraction(heads * (dim + 4 * scales)), formula)
    size = 4 if indexer.wide and keeping.engine == "transformers" else keeping.dtype_bytes
    if indexer.gated and keeping.engine == "transformers":
        return Packed(Fraction((2 * dim + 1) * size), f"({dim} key + {dim} gate + 1 valid) x {size}")
    return Packed(Fraction(heads * dim * size), f"{many}{dim} x {size}")


def _compressed(attention: CompressedAttention, keeping: Keeping) -> tuple[Store, ...]:
    if keeping.engine in ("vllm", "sglang"):
        return _compressed_packed(attention, keeping)
    dim, ratio = attention.head_dim, attention.ratio
    # K and V are one vector; transformers stores it twice on layers without compressed entries.
    twice = keeping.engine == "transformers" and ratio == 0
    window = Heads(1, dim, dim if twice else 0, keeping.form)
    stores = [Store("window latents", window, "window", attention.window, split_heads=False)]
    if ratio and attention.compresses:
        stores.append(
            Store(
                "compressed latents",
                Heads(1, dim, 0, keeping.form),
                tokens_per_entry=ratio,
                split_heads=False,
            )
        )
        stores += _compressor_buffers(dim, attention, keeping)
    if attention.indexer is not None and attention.indexer.owned:
        entry = index_entry(attention.indexer, keeping)
        stores.append(Store("indexer keys", entry, tokens_per_entry=ratio, split_heads=False))
        if not attention.keys_from_entries:
            stores += _compressor_buffers(attention.indexer.head_dim, attention, keeping, "indexer ")
    return tuple(stores)


def _compressor_buffers(
    dim: int, attention: CompressedAttention, keeping: Keeping, prefix: str = ""
) -> list[Store]:
    """What an unfinished group of tokens needs until it is compressed: projected values and gates."""
    if attention.ratio == 1:
        return []
    size, series = keeping.dtype_bytes, 2 if attention.overlap else 1
    entry = Packed(Fraction(2 * series * dim * size), f"2 (value, gate) x {series * dim} x {size}")
    stores = [
        Store(f"{prefix}open group", entry, "remainder", attention.ratio, split_heads=False),
    ]
    if attention.overlap:
        half = Packed(Fraction(2 * dim * size), f"2 (value, gate) x {dim} x {size}")
        stores.append(
            Store(f"{prefix}previous group", half, "window", attention.ratio + 1, split_heads=False)
        )
    return stores


def _compressed_packed(attention: CompressedAttention, keeping: Keeping) -> tuple[Store, ...]:
    """The paged layout of vLLM: fp8 latents with bf16 rope, fp8 index keys, fp32 compressor inputs."""
    rope = attention.rope_head_dim
    nope = attention.head_dim - rope
    scales = -(-nope // 64) + 1
    latent = Packed(Fraction(nope + 2 * rope + scales), f"{nope} fp8 + {rope} x 2 + {scales} scale and pad")
    source = "vLLM 0.33 deepseek_v4"

    def store(name: str, content: Packed, page: int, per_entry: int = 1, window: int = 0) -> Store:
        return Store(
            name, content, "window" if window else "context", window, per_entry,
            page_tokens=page, page_alignment=V4_PAGE_ALIGNMENT, split_heads=False, source=source,
        )  # fmt: skip

    page = 32 if attention.keys_from_entries else 64
    stores = [store("window latents", latent, page, window=attention.window)]
    ratio = attention.ratio
    if not ratio or not attention.compresses:
        return tuple(stores)
    if attention.keys_from_entries:
        stores.append(store("compressed latents", latent, 256, ratio))
        if attention.indexer is not None and attention.indexer.owned:
            stores.append(store("indexer keys", _paired_keys(attention.indexer, keeping), 256, ratio))
        return (*stores, *_open_group(attention, keeping))
    series = 2 if attention.overlap else 1
    page = 4 if attention.overlap else 8
    stores.append(store("compressed latents", latent, 256, ratio))
    stores.append(_compressor_input(attention.head_dim, series, page, ratio, store))
    if attention.indexer is not None:
        stores.append(store("indexer keys", index_entry(attention.indexer, keeping), 256, ratio))
        inputs = _compressor_input(attention.indexer.head_dim, series, page, ratio, store)
        stores.append(inputs)
    return tuple(stores)


def _paired_keys(indexer: Indexer, keeping: Keeping) -> Packed:
    """Index keys of DeepSeek-V4.1: SGLang 0.5.23 keeps them in MXFP4 on every GPU, vLLM 0.33 in fp8."""
    if keeping.engine != "sglang":
        return index_entry(indexer, keeping)
    dim = indexer.head_dim
    return Packed(Fraction(dim // 2 + -(-dim // 32)), f"{dim} / 2 + {-(-dim // 32)} scales")


def _open_group(attention: CompressedAttention, keeping: Keeping) -> tuple[Store, ...]:
    """The ring of a request's unfinished group: values and gates in fp32; a ratio of 1 has none."""
    if attention.ratio == 1:
        return ()
    row = Packed(Fraction(2 * attention.head_dim * 4), f"2 (value, gate) x {attention.head_dim} x 4")
    rows = OPEN_GROUP_ROWS if keeping.engine == "vllm" else attention.ratio
    return (Store("open group", row, "remainder", attention.ratio, page_tokens=rows, split_heads=False),)


def _compressor_input(dim: int, series: int, page: int, ratio: int, store: Callable[..., Store]) -> Store:
    content = Packed(Fraction(2 * series * dim * 4), f"2 (value, gate) x {series * dim} x 4")
    return store("compressor inputs", content, page, 1, series * ratio)


def _shared(attention: SharedAttention, keeping: Keeping) -> tuple[Store, ...]:
    return ()


def _cross(cross: CrossAttention, keeping: Keeping, encoder_tokens: int) -> tuple[Store, ...]:
    content = Heads(cross.kv_heads, cross.head_dim, cross.head_dim, keeping.form)
    return (Store("cross K and V", content, "encoder", encoder_tokens),)


_STORES: dict[type, Callable[[Any, Keeping], tuple[Store, ...]]] = {
    FullAttention: _full,
    SlidingAttention: _sliding,
    ChunkedAttention: _chunked,
    LatentAttention: _latent,
    CompressedAttention: _compressed,
    SharedAttention: _shared,
}
