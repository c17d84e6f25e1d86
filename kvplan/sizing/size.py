"""The size of a model's cache: per token, per sequence, in blocks, per GPU, line by line.

``size_model`` is pure: exact integers in, exact integers out, no files, no numpy. ``report`` holds the
question and the answer, ``allocation`` what a GPU sets aside, ``bill`` the words.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from kvplan.errors import UsageError
from kvplan.sizing.allocation import allocated, per_gpu
from kvplan.sizing.attention import Keeping, default_format, keeping_of, layer_keeping, layer_stores
from kvplan.sizing.bill import sharding_words, size_terms, warnings
from kvplan.sizing.pages import MambaMode
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.prefix_caching import caches_prefixes
from kvplan.sizing.report import LayerRow, SizeReport, SizeRequest
from kvplan.sizing.retention import Retention, kept_tokens, parse_retention
from kvplan.sizing.serving import engine_version
from kvplan.sizing.sharding import check_parallel, ring_chunk_bytes
from kvplan.sizing.state import state_bytes
from kvplan.sizing.state_block import beside_drafts
from kvplan.sizing.stores import Heads, Store
from kvplan.specs.attention import LatentAttention, SharedAttention
from kvplan.specs.formats import FULL_BITS, KvFormat, kv_format, with_residual_bits
from kvplan.specs.model import Block, LayerGroup, ModelSpec
from kvplan.units import check_count


def size_model(
    model: ModelSpec,
    *,
    context_tokens: int,
    kv: KvFormat | str | None = None,
    batch: int = 1,
    block_size: int = 16,
    parallel: Parallel | None = None,
    retention: Retention | str = "vllm",
    max_num_batched_tokens: int = 8192,
    async_scheduling: bool = True,
    encoder_tokens: int | None = None,
    images: int = 0,
    image_tokens: int | None = None,
    draft: bool = False,
    mamba_mode: MambaMode | None = None,
) -> SizeReport:
    """Size the KV cache and state of ``batch`` sequences of ``context_tokens`` tokens.

    Args:
        kv: KV number format (``None``: what the engine takes by itself); ``formats.kv_pair`` for two.
        encoder_tokens: tokens of an encoder-decoder's input; ``None``: its fixed length, or the context's.
        images: images in the context. Where layers attend to them by cross attention they are kept apart;
            elsewhere their tokens stand in the context and are added to ``context_tokens``.
        image_tokens: tokens of one image; ``None``: what the architecture fixes.
        draft: also keep the KV of the model's own multi-token-prediction layers.
        mamba_mode: vLLM's ``mamba_cache_mode``: ``align`` (prefix caching) holds two states per request,
            three where the kernel exports checkpoints on every GPU (Mamba-2), ``none`` one. ``None``: vLLM's
            default, which caches no prefixes of models without attention.

    Raises:
        UsageError: a size below 1, a degree of parallelism the model cannot be cut by, a number format
            that does not apply to its attention, draft layers it does not have.
        UnknownName: an unknown format or retention policy.
    """
    check_count("images", images, least=0)
    for name, value in (
        ("context_tokens", context_tokens),
        ("batch", batch),
        ("block_size", block_size),
        ("max_num_batched_tokens", max_num_batched_tokens),
    ):
        check_count(name, value)
    crossed = _crosses_images(model)
    if images and not crossed:
        context_tokens += images * _image_tokens(model, image_tokens)
    rules = parse_retention(retention) if isinstance(retention, str) else retention
    form = kv_format(kv or default_format(model, rules.engine)) if not isinstance(kv, KvFormat) else kv
    ask = SizeRequest(
        context_tokens=context_tokens,
        form=with_residual_bits(form, FULL_BITS[model.dtype]),
        batch=batch,
        block_size=block_size,
        parallel=parallel or Parallel(),
        retention=rules,
        max_num_batched_tokens=max_num_batched_tokens,
        async_scheduling=async_scheduling,
        encoder_tokens=_encoder_tokens(
            model, context_tokens, encoder_tokens, images if crossed else 0, image_tokens
        ),
        draft=draft,
        mamba_mode=mamba_mode
        or ("align" if caches_prefixes(model, engine_version("vllm", None)) else "none"),
    )
    check_parallel(model, ask.parallel)
    keeping = keeping_of(model, ask.form, ask.retention.engine)
    found = _groups_of(model, draft, keeping)
    groups = tuple(group for group, _ in found)
    rows = tuple(_row(group, ask, kept) for group, kept in found)
    by_stage, layout = per_gpu(model, ask)
    per_rank = -(-batch // ask.parallel.sequence_shards)
    stage_bytes = tuple(size * per_rank for size in by_stage)
    drafting = [model.draft.block] * model.draft.layers if draft and model.draft is not None else []
    unsharded, _ = allocated([*model.layers(), *drafting], ask, model, Parallel())
    static = sum(
        group.count * _static_scales(store)
        for group, row in zip(groups, rows, strict=True)
        for store in row.stores
    )
    report = SizeReport(
        model=model.name,
        request=ask,
        rows=rows,
        allocated_bytes_per_sequence=unsharded,
        bytes_per_gpu=max(stage_bytes),
        gpu_bytes_by_stage=stage_bytes,
        layout=layout,
        sharding=sharding_words(rows, ask.parallel),
        static_scale_bytes=static,
        ring_chunk_bytes=ring_chunk_bytes((row.stores for row in rows), context_tokens, ask.parallel),
        terms=(),
        warnings=warnings(model, ask, rows, layout),
    )
    return replace(report, terms=size_terms(report, model, groups))


def _crosses_images(model: ModelSpec) -> bool:
    return any(block.cross is not None and block.cross.source == "vision" for block in model.blocks.values())


def _image_tokens(model: ModelSpec, given: int | None) -> int:
    """Tokens one image adds."""
    if given is not None:
        if given < 1:
            raise UsageError(f"image tokens must be at least 1, got {given}")
        return given
    if model.vision is None:
        raise UsageError(f"{model.name} takes no images", hint="leave --images out")
    if model.vision.tokens_per_image is None:
        raise UsageError(
            f"{model.name} does not say how many tokens an image has: its resolution decides",
            hint="give --image-tokens",
        )
    return model.vision.tokens_per_image


def _encoder_tokens(
    model: ModelSpec, context: int, given: int | None, images: int, image_tokens: int | None
) -> int:
    if _crosses_images(model):
        if given is not None:
            return given
        return images * _image_tokens(model, image_tokens) if images else 0
    if model.encoder is None:
        if given is not None:
            raise UsageError(f"{model.name} has no encoder", hint="leave the encoder's tokens out")
        return 0
    fixed, most = model.encoder.fixed_length, model.encoder.max_tokens
    if given is not None:
        check_count("encoder tokens", given)
        if most is not None and (given > most or (fixed and given != most)):
            limit = "always has" if fixed else "has at most"
            raise UsageError(f"the encoder of {model.name} {limit} {most:,} tokens, got {given:,}")
        return given
    if fixed and most is not None:
        return most
    return min(context, most) if most is not None else context


def _groups_of(model: ModelSpec, draft: bool, keeping: Keeping) -> tuple[tuple[LayerGroup, Keeping], ...]:
    """Layers gathered by what they keep, whatever their feed-forward part is, and the rules of each group."""
    found: dict[tuple[object, ...], tuple[LayerGroup, Keeping]] = {}
    for group, kept in _alike(model, keeping):
        block = group.block
        key = (block.attention, block.cross, block.state, kept.form.name)
        if key in found:
            first = found[key][0]
            found[key] = replace(first, count=first.count + group.count), kept
        else:
            name = group.name.removesuffix("_dense").removesuffix("_moe")
            found[key] = replace(group, name=name if kept == keeping else f"{name}_ends"), kept
    groups = tuple(found.values())
    if not draft:
        return groups
    if model.draft is None:
        raise UsageError(f"{model.name} has no multi-token-prediction layers to draft with")
    last = LayerGroup("draft", model.draft.layers, model.num_layers, model.draft.block)
    return (*groups, (last, keeping))


def _alike(model: ModelSpec, keeping: Keeping) -> list[tuple[LayerGroup, Keeping]]:
    """The model's groups, those with layers that are kept otherwise in two parts."""
    if not keeping.form.plain_ends:
        return [(group, keeping) for group in model.groups()]
    members: dict[tuple[str, Keeping], list[int]] = {}
    for index, name in enumerate(model.layer_names()):
        members.setdefault((name, layer_keeping(model, keeping, index)), []).append(index)
    return [
        (LayerGroup(name, len(layers), layers[0], model.blocks[name]), kept)
        for (name, kept), layers in members.items()
    ]


def _row(group: LayerGroup, ask: SizeRequest, keeping: Keeping) -> LayerRow:
    stores = layer_stores(group.block, keeping, ask.encoder_tokens)
    kept = encoder = 0
    long, short = Fraction(0), Fraction(0)
    for store in stores:
        tokens = kept_tokens(store, ask.context_tokens, ask.retention, ask.in_flight)
        size = store.bytes(tokens)
        if store.reach == "encoder":
            encoder += size
            continue
        kept += size
        if store.reach == "context":
            long += store.bytes_per_token() * ask.retention.growth
        elif store.reach != "remainder":
            short += store.bytes_per_token()
    state = 0
    if group.block.state is not None:
        state = state_bytes(group.block.state, beside_drafts(group.block.state, keeping, int(ask.draft)))
    return LayerRow(
        group.name, block_kind(group.block), group.count, long, short, kept, encoder, state, stores
    )


def block_kind(block: Block) -> str:
    """What a layer is, in the field's words: ``GQA``, ``MLA + indexer``, ``sliding GQA``, ``mamba2`` ..."""
    parts = []
    attention = block.attention
    if isinstance(attention, LatentAttention):
        parts.append("MLA + indexer" if attention.indexer else "MLA")
    elif attention is not None and attention.kind in ("full", "sliding", "chunked", "shared"):
        heads, queries = attention.kv_heads, attention.query_heads
        name = "MHA" if heads == queries else "MQA" if heads == 1 else "GQA"
        if isinstance(attention, SharedAttention):
            name = "shared KV"
        elif attention.kind != "full":
            name = f"{attention.kind} {name}"
        parts.append(name)
    elif attention is not None:
        parts.append(attention.kind)
    if block.cross is not None:
        parts.append("cross")
    if block.state is not None:
        parts.append(block.state.kind)
    return " + ".join(parts) or "no cache"


def _static_scales(store: Store) -> int:
    if not isinstance(store.content, Heads):
        return 0
    form, heads = store.content.form, store.content.count
    return form.k.static_bytes(heads) + (form.v.static_bytes(heads) if store.content.v_dim else 0)


__all__ = ["LayerRow", "SizeReport", "SizeRequest", "block_kind", "size_model"]
