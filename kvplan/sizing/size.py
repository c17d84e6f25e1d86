"""The size of a model's cache, as one report: per token, per sequence, in blocks, per GPU, line by line.

``size_model`` is pure: exact integers in, exact integers out, no files, no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from kvplan.errors import UsageError
from kvplan.sizing.attention import Keeping, attention_stores, layer_stores
from kvplan.sizing.pages import LayerPages, Layout, MambaMode, vllm_layout
from kvplan.sizing.retention import Retention, kept_tokens, parse_retention
from kvplan.sizing.sharding import (
    Parallel,
    check_parallel,
    explain,
    rank_store,
    rank_tokens,
    stages,
)
from kvplan.sizing.state import state_bytes, state_parts
from kvplan.sizing.stores import Heads, Store
from kvplan.sizing.terms import Term
from kvplan.specs.attention import LatentAttention, SharedAttention
from kvplan.specs.formats import FULL_BITS, KvFormat, kv_format, with_residual_bits
from kvplan.specs.model import Block, LayerGroup, ModelSpec

SCHEMA = "kvplan.size/1"


@dataclass(frozen=True, slots=True)
class SizeRequest:
    """The resolved question. Defaults are vLLM 0.33's."""

    context_tokens: int
    form: KvFormat
    batch: int = 1
    block_size: int = 16
    parallel: Parallel = field(default_factory=Parallel)
    retention: Retention = field(default_factory=lambda: parse_retention("vllm"))
    max_num_batched_tokens: int = 8192
    async_scheduling: bool = True
    encoder_tokens: int = 0
    draft: bool = False
    mamba_mode: MambaMode = "align"

    @property
    def in_flight(self) -> int:
        """Tokens scheduled but not settled: one batch per concurrent step (vLLM 0.33)."""
        concurrent = self.parallel.pp + (1 if self.async_scheduling else 0)
        return self.max_num_batched_tokens * concurrent


@dataclass(frozen=True, slots=True)
class LayerRow:
    """All layers of one kind. Bytes are of one layer unless ``count`` says otherwise."""

    name: str
    kind: str
    count: int
    bytes_per_token: Fraction
    window_bytes_per_token: Fraction
    kept_bytes: int
    encoder_bytes: int
    state_bytes: int
    stores: tuple[Store, ...]

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``layers``: what one layer adds per token, keeps, and carries as state."""
        return {
            "name": self.name,
            "kind": self.kind,
            "count": self.count,
            "bytes_per_token": _number(self.bytes_per_token),
            "window_bytes_per_token": _number(self.window_bytes_per_token),
            "kv_bytes_per_sequence": self.kept_bytes + self.encoder_bytes,
            "state_bytes_per_sequence": self.state_bytes,
            "stores": [
                {
                    "name": store.name,
                    "reach": store.reach,
                    "limit": store.limit,
                    "tokens_per_entry": store.tokens_per_entry,
                    "bytes_per_token": _number(store.bytes_per_token()),
                    "formula": store.content.formula,
                }
                for store in self.stores
            ],
        }


@dataclass(frozen=True, slots=True)
class SizeReport:
    """The answer; ``to_dict`` is ``kvplan.size/1``."""

    model: str
    request: SizeRequest
    rows: tuple[LayerRow, ...]
    allocated_bytes_per_sequence: int
    bytes_per_gpu: int
    gpu_bytes_by_stage: tuple[int, ...]
    layout: Layout | None
    sharding: tuple[str, ...]
    static_scale_bytes: int
    terms: tuple[Term, ...]
    warnings: tuple[str, ...]

    @property
    def kv_bytes_per_token(self) -> int:
        """One more token at a very long context, all layers, unsharded, to the nearest byte."""
        return round(sum((row.count * row.bytes_per_token for row in self.rows), Fraction(0)))

    @property
    def kv_bytes_per_sequence(self) -> int:
        """What is kept of the context (and of the encoder), before block rounding."""
        return sum(row.count * (row.kept_bytes + row.encoder_bytes) for row in self.rows)

    @property
    def encoder_bytes_per_sequence(self) -> int:
        """The part of it that cross attention keeps."""
        return sum(row.count * row.encoder_bytes for row in self.rows)

    @property
    def state_bytes_per_sequence(self) -> int:
        """Constant state, all layers."""
        return sum(row.count * row.state_bytes for row in self.rows)

    @property
    def total_bytes(self) -> int:
        """Allocated bytes of the whole batch, unsharded."""
        return self.allocated_bytes_per_sequence * self.request.batch

    def to_dict(self) -> dict[str, Any]:
        """``kvplan.size/1``: raw integers, stable key order."""
        ask = self.request
        return {
            "schema": SCHEMA,
            "model": self.model,
            "inputs": {
                "context_tokens": ask.context_tokens,
                "dtype": ask.form.name,
                "batch": ask.batch,
                "block_size": ask.block_size,
                "parallel": ask.parallel.to_dict(),
                "retention": ask.retention.name,
                "max_num_batched_tokens": ask.max_num_batched_tokens,
                "async_scheduling": ask.async_scheduling,
                "encoder_tokens": ask.encoder_tokens,
                "draft": ask.draft,
                "mamba_cache_mode": ask.mamba_mode,
            },
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_bytes_per_sequence": self.kv_bytes_per_sequence,
            "encoder_kv_bytes_per_sequence": self.encoder_bytes_per_sequence,
            "state_bytes_per_sequence": self.state_bytes_per_sequence,
            "allocated_bytes_per_sequence": self.allocated_bytes_per_sequence,
            "total_bytes": self.total_bytes,
            "bytes_per_gpu": self.bytes_per_gpu,
            "bytes_per_gpu_by_stage": list(self.gpu_bytes_by_stage),
            "static_scale_bytes": self.static_scale_bytes,
            "layers": [row.to_dict() for row in self.rows],
            "page_groups": self._groups(),
            "sharding": list(self.sharding),
            "terms": [term.to_dict() for term in self.terms],
            "warnings": list(self.warnings),
        }

    def _groups(self) -> dict[str, Any] | None:
        if self.layout is None:
            return None
        return {
            "block_size": self.layout.block_size,
            "blocks_per_request": self.layout.blocks_per_request,
            "block_bytes": self.layout.block_bytes,
            "groups": [
                {
                    "name": group.name,
                    "layers": group.layers,
                    "padding_layers": group.padding_layers,
                    "block_tokens": group.block_tokens,
                    "page_bytes": group.page_bytes,
                    "blocks_per_request": group.blocks_per_request,
                }
                for group in self.layout.groups
            ],
        }


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
    draft: bool = False,
    mamba_mode: MambaMode = "align",
) -> SizeReport:
    """Size the KV cache and state of ``batch`` sequences of ``context_tokens`` tokens.

    Args:
        kv: KV number format (``None``: the model's own dtype); ``formats.kv_pair`` for different K and V.
        encoder_tokens: tokens of an encoder-decoder's input; ``None``: its fixed length, or the context's.
        images: images in the context of a model whose layers attend to an image by cross attention.
        draft: also keep the KV of the model's own multi-token-prediction layers.
        mamba_mode: vLLM's ``mamba_cache_mode``: ``align`` (prefix caching, its default) holds two states per
            request, ``none`` one.

    Raises:
        UsageError: a size below 1, a degree of parallelism the model cannot be cut by, a number format
            that does not apply to its attention, draft layers it does not have.
        UnknownName: an unknown format or retention policy.
    """
    for name, value in (("context_tokens", context_tokens), ("batch", batch), ("block_size", block_size)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if max_num_batched_tokens < 1:
        raise UsageError(f"max_num_batched_tokens must be at least 1, got {max_num_batched_tokens}")
    form = kv_format(kv or model.dtype) if kv is None or isinstance(kv, str) else kv
    ask = SizeRequest(
        context_tokens=context_tokens,
        form=with_residual_bits(form, FULL_BITS[model.dtype]),
        batch=batch,
        block_size=block_size,
        parallel=parallel or Parallel(),
        retention=parse_retention(retention) if isinstance(retention, str) else retention,
        max_num_batched_tokens=max_num_batched_tokens,
        async_scheduling=async_scheduling,
        encoder_tokens=_encoder_tokens(model, context_tokens, encoder_tokens, images),
        draft=draft,
        mamba_mode=mamba_mode,
    )
    check_parallel(model, ask.parallel)
    groups = _groups_of(model, draft)
    rows = tuple(_row(group, ask, model) for group in groups)
    by_stage, layout = _per_gpu(model, ask)
    per_rank = -(-batch // ask.parallel.sequence_shards)
    stage_bytes = tuple(size * per_rank for size in by_stage)
    allocated = _allocated(
        [group.block for group in groups for _ in range(group.count)], ask, model, Parallel()
    )
    static = sum(
        group.count * _static_scales(store)
        for group, row in zip(groups, rows, strict=True)
        for store in row.stores
    )
    report = SizeReport(
        model=model.name,
        request=ask,
        rows=rows,
        allocated_bytes_per_sequence=allocated[0],
        bytes_per_gpu=max(stage_bytes),
        gpu_bytes_by_stage=stage_bytes,
        layout=layout,
        sharding=_sharding_words(rows, ask.parallel),
        static_scale_bytes=static,
        terms=(),
        warnings=_warnings(model, ask, rows, layout),
    )
    return _with_terms(report, model)


def keeping_of(model: ModelSpec, form: KvFormat, retention: Retention) -> Keeping:
    """The rules that hold for a model under a retention policy."""
    return Keeping(retention.engine, form, model.dtype)


def _encoder_tokens(model: ModelSpec, context: int, given: int | None, images: int) -> int:
    if images < 0:
        raise UsageError(f"images must not be negative, got {images}")
    if any(block.cross is not None and block.cross.source == "vision" for block in model.blocks.values()):
        per_image = model.vision.tokens_per_image if model.vision is not None else None
        if given is None and images and per_image is None:
            raise UsageError(
                f"{model.name} does not say how many tokens an image has", hint="give encoder tokens"
            )
        return given if given is not None else images * (per_image or 0)
    if model.encoder is None:
        return 0
    encoder = model.encoder
    if encoder.fixed_length and encoder.max_tokens is not None:
        return encoder.max_tokens
    tokens = context if given is None else given
    return min(tokens, encoder.max_tokens) if encoder.max_tokens is not None else tokens


def _groups_of(model: ModelSpec, draft: bool) -> tuple[LayerGroup, ...]:
    groups = model.groups()
    if not draft:
        return groups
    if model.draft is None:
        raise UsageError(f"{model.name} has no multi-token-prediction layers to draft with")
    return (*groups, LayerGroup("draft", model.draft.layers, model.num_layers, model.draft.block))


def _row(group: LayerGroup, ask: SizeRequest, model: ModelSpec) -> LayerRow:
    keeping = keeping_of(model, ask.form, ask.retention)
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
    state = state_bytes(group.block.state, keeping) if group.block.state is not None else 0
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


def _per_gpu(model: ModelSpec, ask: SizeRequest) -> tuple[tuple[int, ...], Layout | None]:
    """Bytes of one sequence on a GPU of each pipeline stage, and the page groups of the largest."""
    layers = list(model.layers())
    found = []
    for stage in stages(len(layers), ask.parallel.pp):
        own = [layers[index] for index in stage]
        if ask.draft and model.draft is not None and stage.stop == len(layers):
            own += [model.draft.block] * model.draft.layers
        found.append(_allocated(own, ask, model, ask.parallel))
    largest = max(found, key=lambda item: item[0])
    return tuple(size for size, _ in found), largest[1]


def _allocated(
    layers: list[Block], ask: SizeRequest, model: ModelSpec, parallel: Parallel
) -> tuple[int, Layout | None]:
    """Allocated bytes of one sequence for some layers on one rank, and vLLM's page groups."""
    keeping = keeping_of(model, ask.form, ask.retention)
    pages: list[LayerPages] = []
    latent = False
    shares: dict[int, list[LayerPages]] = {}
    for block in layers:
        if id(block) not in shares:
            shares[id(block)] = _rank_pages(block, keeping, ask, parallel)
        pages += shares[id(block)]
        latent = latent or isinstance(block.attention, LatentAttention)
    if ask.retention.name == "vllm":
        layout = vllm_layout(
            pages,
            ask.context_tokens,
            cp=parallel.cp,
            retention=ask.retention,
            in_flight=ask.in_flight,
            block_size=ask.block_size,
            mamba_mode=ask.mamba_mode,
            latent=latent,
        )
        extra = sum(_residual(page.store, ask.context_tokens) for page in pages if page.store is not None)
        return layout.request_bytes + extra, layout
    total = 0
    for page in pages:
        total += page.state_bytes
        if page.store is None:
            continue
        tokens = rank_tokens(page.store, ask.context_tokens, parallel)
        kept = kept_tokens(page.store, tokens, ask.retention, ask.in_flight)
        size = page.store.block_tokens(ask.block_size)
        if not ask.retention.pages or page.store.reach == "remainder":
            total += page.store.bytes(kept)
        elif _residual(page.store, 1):
            total += page.store.bytes(-(-kept // size) * size)
        else:
            total += -(-kept // size) * page.store.page_bytes(size)
    return total, None


def _rank_pages(block: Block, keeping: Keeping, ask: SizeRequest, parallel: Parallel) -> list[LayerPages]:
    stores = layer_stores(block, keeping, ask.encoder_tokens)
    pages = [LayerPages(store=rank_store(store, parallel)) for store in stores]
    if block.state is not None:
        pages.append(LayerPages(state_bytes=state_bytes(block.state, keeping, parallel.attention_tp)))
    return pages


def _residual(store: Store, tokens: int) -> int:
    """Most bytes the full-precision residual of a format adds to one sequence, beside its pages."""
    if not isinstance(store.content, Heads):
        return 0
    content, total = store.content, 0
    for side, dim in ((content.form.k, content.k_dim), (content.form.v, content.v_dim)):
        total += min(side.residual, tokens) * content.count * dim * side.residual_bits // 8
    return total


def _static_scales(store: Store) -> int:
    if not isinstance(store.content, Heads):
        return 0
    form, heads = store.content.form, store.content.count
    return form.k.static_bytes(heads) + (form.v.static_bytes(heads) if store.content.v_dim else 0)


def _sharding_words(rows: tuple[LayerRow, ...], parallel: Parallel) -> tuple[str, ...]:
    words: dict[str, None] = {}
    for row in rows:
        for store in row.stores:
            if parallel.tp > 1:
                words[f"{row.name} {store.name}: {explain(store, parallel)}"] = None
            if parallel.cp > 1 and rank_tokens(store, parallel.cp, parallel) == parallel.cp:
                words[f"{row.name} {store.name}: copied to each of {parallel.cp} context ranks"] = None
    return tuple(words)


def _warnings(
    model: ModelSpec, ask: SizeRequest, rows: tuple[LayerRow, ...], layout: Layout | None
) -> tuple[str, ...]:
    found = []
    if model.max_context is not None and ask.context_tokens > model.max_context:
        found.append(
            f"context {ask.context_tokens:,} is beyond the {model.max_context:,} tokens {model.name} supports"
        )
    for row in rows:
        for store in row.stores:
            if (
                store.reach in ("window", "chunk")
                and store.limit > ask.context_tokens
                and store.name == "K and V"
            ):
                found.append(
                    f"the {store.reach} of {store.limit:,} tokens (layers {row.name!r}) is longer than the "
                    f"context of {ask.context_tokens:,}"
                )
    packed = any(store.source == "vLLM 0.33 deepseek_v4" for row in rows for store in row.stores)
    if packed and ask.form.name not in ("fp8_ds_mla", "fp8_e4m3"):
        found.append(f"{ask.retention.name} keeps this model's latents in fp8 whatever the KV dtype says")
    if layout is not None and layout.block_size > ask.block_size and any(row.state_bytes for row in rows):
        found.append(
            f"vLLM raises the block size from {ask.block_size} to {layout.block_size:,} tokens so that one "
            "attention page holds one state"
        )
    if layout is not None and any(group.padding_layers for group in layout.groups):
        padding = sum(group.padding_layers for group in layout.groups)
        found.append(f"vLLM adds {padding} padding layers to make its layer groups equal")
    if model.encoder is not None and not model.encoder.fixed_length:
        found.append(f"cross attention is sized for {ask.encoder_tokens:,} encoder tokens")
    return tuple(dict.fromkeys(found))


def _with_terms(report: SizeReport, model: ModelSpec) -> SizeReport:
    """Fill in the bill: every number with its formula."""
    from dataclasses import replace

    ask = report.request
    terms: list[Term] = []
    for row in report.rows:
        for store in row.stores:
            if store.reach == "encoder":
                continue
            bounded = "" if store.reach == "context" else f", {store.reach} {store.limit:,}"
            per = f" / {store.tokens_per_entry}" if store.tokens_per_entry > 1 else ""
            terms.append(
                Term(
                    f"{row.name}: {store.name} per token{bounded}",
                    f"{row.count} layers x {store.content.formula}{per}",
                    _number(row.count * store.bytes_per_token()),
                    source=store.source,
                )
            )
    terms.append(Term("KV per token", _token_formula(report), report.kv_bytes_per_token))
    for row in report.rows:
        for store in row.stores:
            kept = kept_tokens(store, ask.context_tokens, ask.retention, ask.in_flight)
            what = "encoder tokens" if store.reach == "encoder" else "tokens kept"
            terms.append(
                Term(
                    f"{row.name}: {store.name} per sequence",
                    f"{row.count} layers x {kept:,} {what}",
                    row.count * store.bytes(kept),
                    source=f"retention {ask.retention.name}",
                )
            )
    keeping = keeping_of(model, ask.form, ask.retention)
    for group, row in zip(_groups_of(model, ask.draft), report.rows, strict=True):
        if group.block.state is not None:
            parts = state_parts(group.block.state, keeping)
            formula = " + ".join(f"{part.name} {part.formula}" for part in parts)
            terms.append(
                Term(f"{row.name}: state", f"{row.count} layers x ({formula})", row.count * row.state_bytes)
            )
    terms.append(
        Term(
            "per sequence",
            f"{ask.context_tokens:,} tokens, before block rounding",
            report.kv_bytes_per_sequence,
        )
    )
    if report.state_bytes_per_sequence:
        terms.append(Term("state per sequence", "constant", report.state_bytes_per_sequence))
    terms.append(
        Term("allocated per sequence", _allocation_formula(report), report.allocated_bytes_per_sequence)
    )
    terms.append(Term("total", f"{ask.batch} sequences", report.total_bytes))
    parallel = ask.parallel
    if parallel.gpus > 1:
        words = f"tp {parallel.tp} x pp {parallel.pp} x cp {parallel.cp} x dp {parallel.dp}"
        terms.append(Term("per GPU", f"{words}, the fullest stage", report.bytes_per_gpu))
    if report.static_scale_bytes:
        terms.append(
            Term("static scales", "with the model, once, not per sequence", report.static_scale_bytes)
        )
    return replace(report, terms=tuple(terms))


def _token_formula(report: SizeReport) -> str:
    shown = [f"{row.count} x {_number(row.bytes_per_token):,}" for row in report.rows if row.bytes_per_token]
    return " + ".join(shown) or "no layer keeps the whole context"


def _allocation_formula(report: SizeReport) -> str:
    ask = report.request
    if ask.retention.name == "vllm":
        return f"blocks of {ask.block_size} tokens, vLLM page groups"
    if not ask.retention.pages:
        return "exact lengths, no blocks"
    return f"rounded up to blocks of {ask.block_size} tokens"


def _number(value: Fraction) -> int | float:
    """An integer when it is one; otherwise the (dyadic, hence exact) float."""
    return value.numerator if value.denominator == 1 else float(value)


__all__ = ["LayerRow", "SizeReport", "SizeRequest", "attention_stores", "size_model"]
