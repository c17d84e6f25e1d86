"""The cache pool of one GPU: which pages its layers ask for, and what a request takes of it.

vLLM deals its pool out in blocks (``pages.vllm_layout``); SGLang in tokens, with separate pools for the state
of recurrent layers and for the windows of some models (``sglang.pool``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from kvplan.sizing.attention import Keeping, layer_keeping, layer_stores
from kvplan.sizing.head_kernels import head_block, kept_heads
from kvplan.sizing.latent_block import latent_block
from kvplan.sizing.pages import LayerPages, Layout, vllm_layout
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.prefix_caching import caches_prefixes
from kvplan.sizing.retention import Retention
from kvplan.sizing.serving import Serving
from kvplan.sizing.sglang.page import sglang_page
from kvplan.sizing.sglang.pool import (
    WINDOW_RATIO,
    slots_per_request,
    state_slots,
    window_ratio,
    windows_apart,
)
from kvplan.sizing.sharding import rank_store
from kvplan.sizing.stages import stages
from kvplan.sizing.state import exports_checkpoints, state_bytes
from kvplan.sizing.state_block import draft_columns, served_state, state_growth
from kvplan.specs.schema import Block, CompressedAttention, LatentAttention, ModelSpec

HYBRID_GROUPS = (0, 9, 1)
"""vLLM before this billed interleaved sliding layers as if they kept the whole context."""

SETTLES_BATCHES = (0, 26, 0)
"""vLLM from here on holds windows open for every batch that may be under way, before for one."""

NULL_BLOCK = (0, 8, 0)
"""vLLM from here on keeps one block of the pool for itself."""

LOGS_CONCURRENCY = (0, 20, 1)
"""vLLM from here on logs its cache in tokens as concurrency times the longest request."""

COMPRESSED_BLOCK = 256
"""Tokens of a block of vLLM's where attention compresses tokens (DeepSeek-V4)."""

ENCODER_BUDGET = (0, 10, 2)
"""vLLM from here on caches cross attention in its pool (V1)."""

STATES_BY_STAGE = (0, 5, 17)
"""SGLang from here on counts a state's layers by stage."""

STATE_CHECKPOINTS = (0, 33, 0)
"""vLLM from here on may write a third one on the way through a prefill."""


@dataclass(frozen=True)
class RankPool:
    """What the layers of one rank keep, under one engine's rules.

    ``model_pages``: of every layer of the model, as vLLM plans its groups; ``own``: the places there of what
    this pipeline stage holds. ``in_flight``: tokens scheduled but not settled, for which windows are held
    open. ``growth``: tokens by which blocks grow until they hold a state.
    ``caches_prefixes``: those of states, too, of which a request then holds more than its last one.
    SGLang's pool for windows has ``window_ratio`` tokens for each of the full pool, and it counts on
    ``state_slots`` of the one for recurrent state for each request, each of ``slot_bytes``, which it
    reserves on every stage alike.
    """

    model_pages: tuple[LayerPages, ...]
    own: range
    serving: Serving
    in_flight: int
    block_size: int
    growth: int
    caches_prefixes: bool
    shards: int
    window_ratio: Fraction = WINDOW_RATIO
    state_slots: int = 1
    slot_bytes: int = 0

    @property
    def pages(self) -> tuple[LayerPages, ...]:
        """What the layers of this rank ask for."""
        return self.model_pages[self.own.start : self.own.stop]

    def layout(self, tokens: int) -> Layout:
        """The vLLM layout when a request may grow to ``tokens`` tokens."""
        retention = Retention("vllm", "vllm")
        return vllm_layout(
            self.model_pages,
            tokens,
            retention=retention,
            in_flight=self.in_flight,
            block_size=self.block_size,
            growth=self.growth,
            drafts=self.serving.decode_tokens - 1,
            mamba_mode="align" if self.caches_prefixes else "none",
            cp=self.shards,
            own=self.own,
        )

    def request_bytes(self, tokens: int) -> int:
        """Bytes of the pool that a sequence of ``tokens`` tokens takes, rounding included."""
        if self.serving.kind == "vllm":
            return self.layout(tokens).request_bytes
        cells = -(-tokens // self.block_size) * self.block_size * self.token_bytes
        return -(-cells.numerator // cells.denominator) + self.state_bytes

    @property
    def reserved_bytes(self) -> int:
        """The null block: one that vLLM counts and no request gets (V1, and checked at its start)."""
        if self.serving.kind != "vllm" or self.serving.version < NULL_BLOCK:
            return 0
        return self.layout(1).block_bytes

    @cached_property
    def token_bytes(self) -> Fraction:
        """SGLang's cell: bytes of one token of the full pool with its share of the window pool."""
        return self._cell(self.pages)

    @property
    def target_token_bytes(self) -> Fraction:
        """The same without the layers that draft."""
        return self._cell(page for page in self.pages if not page.drafts)

    @cached_property
    def bytes_apart(self) -> tuple[Fraction, Fraction]:
        """Bytes of one token in SGLang's full pool, and in its pool for windows."""
        return self._apart(self.pages)

    @property
    def target_bytes_apart(self) -> tuple[Fraction, Fraction]:
        """The same without the layers that draft."""
        return self._apart(page for page in self.pages if not page.drafts)

    def _cell(self, pages: Iterable[LayerPages]) -> Fraction:
        total, windows = self._apart(pages)
        return total + windows * self.window_ratio if total else windows

    @staticmethod
    def _apart(pages: Iterable[LayerPages]) -> tuple[Fraction, Fraction]:
        total = Fraction(0)
        windows = Fraction(0)
        for page in pages:
            if page.store is None or page.store.reach == "remainder":
                continue
            if page.store.reach in ("window", "chunk"):
                windows += page.store.bytes_per_token()
            else:
                total += page.store.bytes_per_token()
        return total, windows

    @property
    def holds_windows(self) -> bool:
        """Whether layers forget, but not before the steps in flight are settled."""
        windows = (page.store is not None and page.store.reach in ("window", "chunk") for page in self.pages)
        return self.serving.kind == "vllm" and any(windows)

    @cached_property
    def state_bytes(self) -> int:
        """Constant state of one sequence on this rank."""
        return sum(page.state_bytes for page in self.pages)


def rank_pool(
    model: ModelSpec,
    layers: range,
    keeping: Keeping,
    parallel: Parallel,
    serving: Serving,
    *,
    drafters: Sequence[Block] = (),
) -> RankPool:
    """The pool description of one pipeline stage.

    Args:
        drafters: layers that draft and share the pool; the last stage holds them.

    Raises:
        UsageError: a latent-only number format on a model that keeps heads.
    """
    encoder_tokens = _encoder_tokens(model, serving)
    blocks = model.layers()
    pages: list[LayerPages] = []
    starts = []
    for index, block in enumerate((*blocks, *drafters)):
        starts.append(len(pages))
        drafts = index >= len(blocks)
        for store in layer_stores(block, layer_keeping(model, keeping, index), encoder_tokens):
            pages.append(LayerPages(store=rank_store(store, parallel), drafts=drafts))
        if block.state is not None:
            drafted = replace(keeping, drafts=draft_columns(block.state, serving))
            size = state_bytes(served_state(block.state, serving), drafted, parallel.attention_tp)
            checkpoint = serving.version >= STATE_CHECKPOINTS and exports_checkpoints(
                block.state, serving.capability
            )
            pages.append(LayerPages(state_bytes=size, checkpoint=checkpoint, drafts=drafts))
    starts.append(len(pages))
    stop = len(starts) - 1 if layers.stop == len(blocks) else layers.stop
    if serving.kind == "vllm":
        mixed = any(page.store is not None and page.store.reach == "context" for page in pages)
        widened = mixed and serving.version < HYBRID_GROUPS
    else:
        widened = not windows_apart(model, serving.version)
    if widened:
        pages = _all_full(pages)
    latents = [block.attention for block in blocks if isinstance(block.attention, LatentAttention)]
    compressed = any(isinstance(block.attention, CompressedAttention) for block in blocks)
    head_dims = {getattr(block.attention, "head_dim", 0) for block in blocks}
    heads = kept_heads(model, drafters, keeping.form.name, keeping.dtype)
    block_size = head_block(heads, serving)
    kept = [item for item in latents if serving.kind not in item.expanded_in]
    if serving.kind == "vllm" and kept and not compressed:
        narrow = keeping.form.bits < 16
        block_size = max(latent_block(item, serving, narrow=narrow) for item in kept)
    if serving.kind == "vllm" and compressed and "block_size" not in serving.given:
        block_size = COMPRESSED_BLOCK
    if serving.kind == "sglang":
        block_size = sglang_page(model, serving, drafts=bool(drafters))
    cached = _caches_prefixes(model, serving)
    states = [block.state for block in blocks if block.state is not None]
    growth = state_growth(
        states, serving, block_size=block_size, latent=bool(latents), cached=cached,
        head_dims=head_dims,
    )  # fmt: skip
    batches = 1
    if serving.version >= SETTLES_BATCHES or serving.kind != "vllm":
        batches = parallel.pp + (1 if serving.async_scheduling else 0)
    return RankPool(
        model_pages=tuple(pages),
        own=range(starts[layers.start], starts[stop]),
        serving=serving,
        in_flight=serving.max_num_batched_tokens * batches,
        block_size=block_size,
        growth=growth,
        caches_prefixes=cached,
        shards=parallel.cp,
        window_ratio=window_ratio(model, serving.version),
        state_slots=slots_per_request(model, serving, block_size),
        slot_bytes=_slot_bytes(pages, starts[: len(blocks) + 1], parallel.pp, serving),
    )


def _slot_bytes(pages: Sequence[LayerPages], starts: Sequence[int], pp: int, serving: Serving) -> int:
    """What SGLang reserves on each stage for one state: the most a stage has, before all of the model's."""
    layers = len(starts) - 1
    by_stage = serving.version >= STATES_BY_STAGE
    parts = stages(layers, pp if by_stage else 1, serving.kind, serving.version)
    return max(
        sum(page.state_bytes for page in pages[starts[part.start] : starts[part.stop]]) for part in parts
    )


def _caches_prefixes(model: ModelSpec, serving: Serving) -> bool:
    said = serving.prefix_caching
    return caches_prefixes(model, serving.version) if said is None else said


def _encoder_tokens(model: ModelSpec, serving: Serving) -> int:
    """Tokens a request's cross attention is given room for.

    vLLM plans for as many as one step may encode (``max_num_encoder_input_tokens``), not for the model's.
    """
    if model.encoder is None:
        return 0
    if serving.kind == "vllm" and serving.version >= ENCODER_BUDGET:
        return serving.max_num_batched_tokens
    return model.encoder.max_tokens or 0


def _all_full(pages: list[LayerPages]) -> list[LayerPages]:
    """Windows widened to the whole context."""
    return [
        replace(page, store=replace(page.store, reach="context", limit=0))
        if page.store is not None and page.store.reach in ("window", "chunk")
        else page
        for page in pages
    ]


@dataclass(frozen=True, slots=True)
class PoolCapacity:
    """What fits in a pool: the numbers the engine prints.

    ``kv_tokens`` follows the engine's own meaning (see :func:`pool_capacity`); ``concurrency`` is requests of
    the maximum length at once. ``states``: slots of SGLang's pool of states, and ``sequences``: how many
    requests it has enough of them for; None without one.
    """

    num_blocks: int
    block_bytes: int
    kv_tokens: int
    concurrency: Fraction
    sequences: int | None = None
    states: int | None = None


def pool_capacity(pool: RankPool, pool_bytes: int, max_model_len: int) -> PoolCapacity:
    """Blocks, tokens and concurrency of a pool of ``pool_bytes``, as the engine would print them.

    vLLM's "GPU KV cache size" is ``blocks // groups x block size`` up to 0.20.0, and
    ``int(concurrency x max_model_len)`` since 0.20.1; both agree for uniform models up to rounding. SGLang's
    ``max_total_num_tokens`` is the full pool's tokens.
    """
    pool_bytes = max(pool_bytes, 0)
    if pool.serving.kind == "sglang":
        return _sglang_capacity(pool, pool_bytes, max_model_len)
    layout = pool.layout(max_model_len)
    if not layout.groups:
        return PoolCapacity(0, 0, 0, Fraction(0))
    blocks = pool_bytes // layout.block_bytes
    concurrency = Fraction(blocks, layout.blocks_per_request)
    if pool.serving.version >= LOGS_CONCURRENCY:
        tokens = int(concurrency * max_model_len)
    else:
        tokens = blocks // len(layout.groups) * layout.block_size * pool.shards
    return PoolCapacity(blocks, layout.block_bytes, tokens, concurrency)


def _sglang_capacity(pool: RankPool, pool_bytes: int, max_model_len: int) -> PoolCapacity:
    sequences = slots = None
    if pool.slot_bytes:
        if pool.token_bytes:
            slots, taken = state_slots(pool.serving, pool_bytes, pool.slot_bytes, pool.state_slots)
            pool_bytes = max(pool_bytes - taken, 0)
        else:
            slots = pool_bytes // pool.slot_bytes
        sequences = slots // pool.state_slots
    if not pool.token_bytes:
        return PoolCapacity(0, 0, 0, Fraction(sequences or 0), sequences, slots)
    page = pool.block_size
    blocks = int(pool_bytes / pool.token_bytes) // page
    concurrency = Fraction(blocks, -(-max_model_len // page))
    if sequences is not None:
        concurrency = min(concurrency, Fraction(sequences))
    block_bytes = pool.token_bytes * page
    return PoolCapacity(
        blocks, -(-block_bytes.numerator // block_bytes.denominator), blocks * page, concurrency, sequences,
        slots,
    )  # fmt: skip


def longest(cost: Callable[[int], int], pool_bytes: int, limit: int) -> int:
    """The most tokens, at most ``limit``, whose ``cost`` fits in ``pool_bytes``; 0 when not even one does.

    ``cost`` must not decrease. ``cost(longest(...)) <= pool_bytes < cost(longest(...) + 1)`` below the limit.
    """
    if cost(1) > pool_bytes:
        return 0
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        if cost(middle) <= pool_bytes:
            low = middle
        else:
            high = middle - 1
    return low
