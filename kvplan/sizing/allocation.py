"""Bytes one GPU sets aside for one sequence: pages of vLLM's pool, or blocks, or exact lengths."""

from __future__ import annotations

from kvplan.sizing.attention import Keeping, keeping_of, layer_keeping, layer_stores
from kvplan.sizing.pages import LayerPages, Layout, vllm_layout
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.report import SizeRequest
from kvplan.sizing.retention import kept_tokens
from kvplan.sizing.sharding import rank_store, rank_tokens
from kvplan.sizing.stages import stages
from kvplan.sizing.state import exports_checkpoints, state_bytes
from kvplan.sizing.state_block import beside_drafts, newest_growth
from kvplan.sizing.stores import Heads, Store
from kvplan.specs.attention import LatentAttention
from kvplan.specs.model import Block, ModelSpec


def per_gpu(model: ModelSpec, ask: SizeRequest) -> tuple[tuple[int, ...], Layout | None]:
    """Bytes of one sequence on a GPU of each pipeline stage, and the page groups of the largest."""
    layers = list(model.layers())
    drafting = [model.draft.block] * model.draft.layers if ask.draft and model.draft is not None else []
    found = []
    for stage in stages(len(layers), ask.parallel.pp, ask.retention.engine):
        stop = stage.stop + (len(drafting) if stage.stop == len(layers) else 0)
        own = range(stage.start, stop)
        found.append(allocated([*layers, *drafting], ask, model, ask.parallel, own))
    largest = max(found, key=lambda item: item[0])
    return tuple(size for size, _ in found), largest[1]


def allocated(
    layers: list[Block], ask: SizeRequest, model: ModelSpec, parallel: Parallel, own: range | None = None
) -> tuple[int, Layout | None]:
    """Allocated bytes of one sequence on one rank, and vLLM's page groups.

    Args:
        layers: of the whole model, by which vLLM plans its groups.
        own: the layers that this rank holds; default all.
    """
    keeping = keeping_of(model, ask.form, ask.retention.engine)
    pages: list[LayerPages] = []
    starts = []
    shares: dict[tuple[int, str], list[LayerPages]] = {}
    for index, block in enumerate(layers):
        kept = layer_keeping(model, keeping, index)
        key = id(block), kept.form.name
        if key not in shares:
            shares[key] = _rank_pages(block, kept, ask, parallel)
        starts.append(len(pages))
        pages += shares[key]
    starts.append(len(pages))
    held = range(len(pages)) if own is None else range(starts[own.start], starts[own.stop])
    if ask.retention.name == "vllm":
        latent = any(isinstance(block.attention, LatentAttention) for block in layers)
        layout = vllm_layout(
            pages,
            ask.context_tokens,
            cp=parallel.cp,
            retention=ask.retention,
            in_flight=ask.in_flight,
            block_size=ask.block_size,
            mamba_mode=ask.mamba_mode,
            growth=newest_growth(ask.block_size, latent=latent),
            drafts=int(ask.draft),
            own=held,
        )
        stores = [page.store for page in pages[held.start : held.stop] if page.store is not None]
        return layout.request_bytes + sum(_residual(store, ask.context_tokens) for store in stores), layout
    return _unpooled(pages[held.start : held.stop], ask, parallel), None


def _unpooled(pages: list[LayerPages], ask: SizeRequest, parallel: Parallel) -> int:
    """Blocks or exact lengths of each layer by itself."""
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
    return total


def _rank_pages(block: Block, keeping: Keeping, ask: SizeRequest, parallel: Parallel) -> list[LayerPages]:
    stores = layer_stores(block, keeping, ask.encoder_tokens)
    pages = [LayerPages(store=rank_store(store, parallel)) for store in stores]
    if block.state is not None:
        kept = beside_drafts(block.state, keeping, int(ask.draft))
        size = state_bytes(block.state, kept, parallel.attention_tp)
        pages.append(LayerPages(state_bytes=size, checkpoint=exports_checkpoints(block.state)))
    return pages


def _residual(store: Store, tokens: int) -> int:
    """Most bytes the full-precision residual of a format adds to one sequence, beside its pages."""
    if not isinstance(store.content, Heads):
        return 0
    content, total = store.content, 0
    for side, dim in ((content.form.k, content.k_dim), (content.form.v, content.v_dim)):
        total += min(side.residual, tokens) * content.count * dim * side.residual_bits // 8
    return total
