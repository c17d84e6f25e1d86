"""How vLLM lays layers out in one pool of equal blocks, and how many blocks a request takes.

A pool has one kind of block. Layers are gathered into groups; a block of the pool is one page of one group
(every layer of it side by side), and each group has its own block table. Hence hybrids pay: pages are made
equal by longer blocks or padding, attention blocks grow until they hold one state, and groups are filled up
with padding layers. Rules of vLLM 0.33 (``kv_cache_planning``, ``_align_hybrid_block_size``):

* layers that all need the same token slots are one group, whatever their pages (*uniform*);
* kernels that keep index pages beside latent pages in a block (DeepSeek-V4) let groups differ in width, and a
  block is as wide as the widest (``packing``);
* elsewhere pages become equal and groups have equally many layers. Latents cannot be padded: beside windows
  whose page they do not divide, the windows are kept as if they were full attention.

Groups are those of the whole model; a pipeline stage holds its own layers of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kvplan.sizing.packing import deal
from kvplan.sizing.retention import Retention, blocks
from kvplan.sizing.stores import Heads, Packed, Store

MambaMode = Literal["none", "align"]

Reach = tuple[str, int]


@dataclass(frozen=True, slots=True)
class LayerPages:
    """What one layer asks of the pool: a store (per token) or ``state_bytes`` (per sequence), never both.

    ``checkpoint``: its kernel writes the state at a block's end in the middle of a prefill, into a block of
    its own. ``drafts``: it is of a drafter's.
    """

    store: Store | None = None
    state_bytes: int = 0
    checkpoint: bool = False
    drafts: bool = False


@dataclass(frozen=True, slots=True)
class PageGroup:
    """Layers that share a block table.

    ``layers`` of this GPU, ``padding_layers`` included; ``page_bytes`` is the largest page of one layer,
    ``block_bytes`` of all. ``reach`` says which tokens the group keeps and its limit, as in ``Store``;
    ``state`` for recurrent state. ``drafts``: layers that draft are among them, on whatever GPU.
    """

    name: str
    layers: int
    padding_layers: int
    block_tokens: int
    page_bytes: int
    block_bytes: int
    blocks_per_request: int
    reach: Reach = ("context", 0)
    drafts: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The groups of one GPU. ``block_size`` is the resolved one: hybrids force it up."""

    block_size: int
    groups: tuple[PageGroup, ...]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of the pool: the widest group's, whichever group it goes to."""
        return max((group.block_bytes for group in self.groups), default=0)

    @property
    def blocks_per_request(self) -> int:
        """Blocks a request takes over all groups."""
        return sum(group.blocks_per_request for group in self.groups)

    @property
    def request_bytes(self) -> int:
        """Bytes of the pool that one request takes."""
        return self.blocks_per_request * self.block_bytes


@dataclass(frozen=True, slots=True)
class _Ask:
    """The request a layout is made for: its tokens, all of them and one context rank's share."""

    tokens: int
    shared: int
    retention: Retention
    in_flight: int
    mamba_mode: MambaMode
    drafts: int

    def states(self, checkpoint: bool) -> int:
        """Blocks of one layer's state: the last one kept, the open one, a checkpoint's, and each draft's."""
        return (2 + checkpoint if self.mamba_mode == "align" else 1) + self.drafts

    def need(self, store: Store, block_tokens: int) -> int:
        """Blocks of one layer of ``store``."""
        tokens = self.shared if store.reach == "context" else self.tokens
        return blocks(store, tokens, self.retention, self.in_flight, block_tokens)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Layers that are alike. ``members``: their places in the model; ``tokens`` 0 for state; ``drafters``: of
    all layers, those that draft."""

    name: str
    members: tuple[int, ...]
    page: int
    tokens: int
    need: int
    store: Store | None
    reach: Reach
    drafters: frozenset[int]

    @property
    def slots(self) -> tuple[int, Reach, int, int]:
        """Equal for kinds that always need the same number of blocks: they may share a block table."""
        page, need = (self.page, self.need) if self.store is None else (0, 0)
        return self.tokens, self.reach, page, need


def vllm_layout(
    layers: Sequence[LayerPages],
    tokens: int,
    *,
    retention: Retention,
    in_flight: int,
    block_size: int = 16,
    mamba_mode: MambaMode = "align",
    growth: int = 16,
    drafts: int = 0,
    cp: int = 1,
    own: range | None = None,
) -> Layout:
    """Group the layers of a model and count the blocks of a request that may grow to ``tokens`` tokens.

    Args:
        growth: tokens by which a block grows until it holds a state.
        drafts: of a step, each of which writes a state of its own.
        cp: ranks the context is divided over; windows and states are copied.
        own: places in ``layers`` of what this GPU holds; default all of it.
    """
    ask = _Ask(tokens, -(-tokens // cp), retention, in_flight, mamba_mode, drafts)
    own = range(len(layers)) if own is None else own
    stores = [item.store for item in layers if item.store is not None]
    states = [item.state_bytes for item in layers if item.state_bytes]
    state_page = 0
    block_size = _covering_block(stores, block_size)
    if states and stores:
        block_size, state_page = _grown_block(stores, max(states), block_size, growth)
    kinds = _kinds(layers, ask, block_size, state_page)
    if not kinds or not own:
        return Layout(block_size, ())
    if len({kind.slots for kind in kinds}) == 1:
        return Layout(block_size, (_side_by_side(kinds, own),))
    if any(store.name == "indexer keys" or store.page_alignment > 1 for store in stores):
        return Layout(block_size, _packed(kinds, own))
    kinds = _windows_beside_latents(kinds, ask)
    if len({kind.slots for kind in kinds}) == 1:
        return Layout(block_size, (_side_by_side(kinds, own),))
    return Layout(block_size, _equal_groups(kinds, ask, own))


def _covering_block(stores: Sequence[Store], block_size: int) -> int:
    """The block size at which a page of a packed format covers 16 tokens of the layers left plain."""
    packed: list[Store] = []
    plain: list[Store] = []
    for store in stores:
        if isinstance(store.content, Heads) and store.reach == "context":
            (packed if store.content.form.plain_ends > 0 else plain).append(store)
    if not packed or not plain:
        return block_size
    token, plain_token = (max(store.page_bytes(1) for store in kind) for kind in (packed, plain))
    if token == plain_token:
        return block_size
    alignment = max(16, block_size)
    return alignment * -(-16 * plain_token // (alignment * token))


def _grown_block(stores: Sequence[Store], state: int, block_size: int, growth: int) -> tuple[int, int]:
    """(block size, page): one page of attention holds one state, which is padded to it.

    Index keys and cross attention do not count.
    """
    apart = ("encoder", "remainder")
    attention = [item for item in stores if item.reach not in apart and item.name != "indexer keys"]
    per_token = max(store.page_bytes(block_size) for store in attention or stores) // block_size
    grown = max(block_size, growth * -(-state // (growth * per_token)))
    return grown, grown * per_token


def _kinds(layers: Sequence[LayerPages], ask: _Ask, block_size: int, state_page: int) -> list[_Kind]:
    alike: dict[Store, list[int]] = {}
    by_state: dict[tuple[int, bool], list[int]] = {}
    for index, item in enumerate(layers):
        if item.store is not None:
            alike.setdefault(item.store, []).append(index)
        elif item.state_bytes:
            by_state.setdefault((item.state_bytes, item.checkpoint), []).append(index)
    kinds = []
    drafters = frozenset(index for index, item in enumerate(layers) if item.drafts)
    for store, members in alike.items():
        size = store.block_tokens(block_size)
        page, need, reach = store.page_bytes(size), ask.need(store, block_size), (store.reach, store.limit)
        kinds.append(_Kind(store.name, tuple(members), page, size, need, store, reach, drafters))
    for (state, checkpoint), members in by_state.items():
        page, need = max(state, state_page), ask.states(checkpoint)
        kinds.append(_Kind("state", tuple(members), page, 0, need, None, ("state", 0), drafters))
    return kinds


def _held(members: Sequence[int], own: range) -> int:
    return sum(1 for index in members if index in own)


def _side_by_side(kinds: Sequence[_Kind], own: range) -> PageGroup:
    """Layers that need the same token slots: one block table, their pages side by side in a block."""
    counts = [_held(kind.members, own) for kind in kinds]
    width = sum(count * kind.page for count, kind in zip(counts, kinds, strict=True))
    name = " + ".join(dict.fromkeys(kind.name for kind in kinds))
    page = max(kind.page for kind in kinds)
    first = kinds[0]
    drafts = any(not kind.drafters.isdisjoint(kind.members) for kind in kinds)
    return PageGroup(name, sum(counts), 0, first.tokens, page, width, first.need, first.reach, drafts)


def _packed(kinds: Sequence[_Kind], own: range) -> tuple[PageGroup, ...]:
    """Groups of different widths, as many of one kind of slots as ``packing.deal`` finds."""
    buckets: dict[tuple[int, Reach, int, int], list[_Kind]] = {}
    for kind in kinds:
        buckets.setdefault(kind.slots, []).append(kind)
    widths = [[(kind.page, len(kind.members)) for kind in bucket] for bucket in buckets.values()]
    small = [bucket[0].reach[0] == "window" for bucket in buckets.values()]
    recurrent = [bucket[0].reach[0] in ("state", "remainder") for bucket in buckets.values()]
    groups = []
    for bucket, number in zip(buckets.values(), deal(widths, small, recurrent), strict=True):
        for index in range(number):
            part = [replace(kind, members=kind.members[index::number]) for kind in bucket]
            groups.append(_side_by_side([kind for kind in part if kind.members], own))
    return tuple(groups)


def _windows_beside_latents(kinds: list[_Kind], ask: _Ask) -> list[_Kind]:
    """Windows kept as full attention where latents, which cannot be padded, do not divide the page."""
    page = max(kind.page for kind in kinds)
    latents = [kind for kind in kinds if kind.store is not None and isinstance(kind.store.content, Packed)]
    if not any(kind.reach[0] == "context" and page % kind.page for kind in latents):
        return kinds
    sizes = {kind.tokens for kind in kinds if kind.reach[0] == "context"}
    return [_widened(kind, ask, sizes) for kind in kinds]


def _widened(kind: _Kind, ask: _Ask, sizes: set[int]) -> _Kind:
    if kind.store is None or kind.reach[0] != "window" or isinstance(kind.store.content, Packed):
        return kind
    size = next(iter(sizes)) if len(sizes) == 1 else kind.tokens
    full = replace(kind.store, reach="context", limit=0, page_tokens=size)
    return replace(
        kind,
        store=full,
        tokens=size,
        page=full.page_bytes(size),
        need=ask.need(full, size),
        reach=("context", 0),
    )


def _equal_groups(kinds: Sequence[_Kind], ask: _Ask, own: range) -> tuple[PageGroup, ...]:
    """Make pages equal (longer blocks, else padding) and deal layers into groups of one size."""
    page = max(kind.page for kind in kinds)
    unified = []
    for kind in kinds:
        if kind.store is not None and kind.page != page and page % kind.page == 0:
            longer = replace(kind.store, page_tokens=kind.tokens * (page // kind.page))
            kind = replace(kind, tokens=longer.page_tokens, need=ask.need(longer, 0))
        unified.append(replace(kind, page=page))
    counts = [len(kind.members) for kind in unified]
    size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
    dealt = []
    for kind in unified:
        number = -(-len(kind.members) // size)
        dealt += [replace(kind, members=kind.members[index::number]) for index in range(number)]
    counts = [_held(kind.members, own) for kind in dealt]
    width = max(counts)
    return tuple(
        PageGroup(
            kind.name, width, width - held, kind.tokens, page, width * page, kind.need, kind.reach,
            not kind.drafters.isdisjoint(kind.members),
        )
        for kind, held in zip(dealt, counts, strict=True)
    )  # fmt: skip
