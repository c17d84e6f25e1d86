"""How vLLM lays layers out in one pool of equal blocks, and how many blocks a request takes.

A pool has one kind of block. Layers are gathered into groups of equally many layers; a block of the pool is
one page of one group (every layer of it side by side), and each group has its own block table. Hence hybrids
pay: pages are made equal by longer blocks or padding, attention blocks grow until they hold one state, and
groups are filled up with padding layers. Rules of vLLM 0.33 (``kv_cache_planning``,
``update_block_size_for_mamba``), layer-outermost layout; layouts of DeepSeek-V4 pack pages of different
sizes and are counted page by page without padding layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Literal

from kvplan.sizing.retention import Retention, blocks
from kvplan.sizing.stores import Store

MambaMode = Literal["none", "align"]


@dataclass(frozen=True, slots=True)
class LayerPages:
    """What one layer asks of the pool: a store (per token) or ``state_bytes`` (per sequence), never both."""

    store: Store | None = None
    state_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PageGroup:
    """Layers that share a block table.

    ``layers`` includes padding layers; ``page_bytes`` is the page of one layer, ``block_bytes`` of all.
    ``reach`` says which tokens the group keeps and its limit, as in ``Store``; ``state`` for recurrent state.
    """

    name: str
    layers: int
    padding_layers: int
    block_tokens: int
    page_bytes: int
    block_bytes: int
    blocks_per_request: int
    reach: tuple[str, int] = ("context", 0)


@dataclass(frozen=True, slots=True)
class Layout:
    """The groups of one GPU. ``block_size`` is the resolved one: hybrids force it up."""

    block_size: int
    groups: tuple[PageGroup, ...]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of the pool."""
        return max((group.block_bytes for group in self.groups), default=0)

    @property
    def blocks_per_request(self) -> int:
        """Blocks a request takes over all groups."""
        return sum(group.blocks_per_request for group in self.groups)

    @property
    def request_bytes(self) -> int:
        """Bytes of the pool that one request takes."""
        return sum(group.blocks_per_request * group.block_bytes for group in self.groups)


def vllm_layout(
    layers: Sequence[LayerPages],
    tokens: int,
    *,
    retention: Retention,
    in_flight: int,
    block_size: int = 16,
    mamba_mode: MambaMode = "align",
    latent: bool = False,
    cp: int = 1,
) -> Layout:
    """Group the layers of one GPU and count the blocks of a request that may grow to ``tokens`` tokens.

    Args:
        latent: the attention layers keep MLA latents (their kernels want blocks in multiples of 128 when
            the block size has to grow for a state).
        cp: ranks the context is divided over; windows and states are copied.
    """
    shared = -(-tokens // cp)
    stores = [item.store for item in layers if item.store is not None]
    states = [item.state_bytes for item in layers if item.state_bytes]
    if any(store.page_alignment > 1 for store in stores):
        return _packed(stores, (tokens, shared), retention, in_flight, block_size)
    if states and stores:
        block_size = _grown_block(stores, max(states), block_size, latent)
    state_blocks = 2 if mamba_mode == "align" else 1
    kinds = _kinds(stores, states, (tokens, shared), retention, in_flight, block_size, state_blocks)
    if not kinds:
        return Layout(block_size, ())
    if len({(kind.tokens, kind.need, kind.reach) for kind in kinds}) == 1:
        return Layout(block_size, (_one_group(kinds),))
    return Layout(block_size, _equal_groups(kinds, (tokens, shared), retention, in_flight))


def _tokens(store: Store, tokens: tuple[int, int]) -> int:
    """All tokens, or this context rank's share of them."""
    return tokens[1] if store.reach == "context" and store.name != "indexer keys" else tokens[0]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Layers that are alike: page bytes, tokens a block covers (0 for state), blocks a request needs."""

    name: str
    count: int
    page: int
    tokens: int
    need: int
    store: Store | None
    reach: tuple[str, int]


def _grown_block(stores: Sequence[Store], state: int, block_size: int, latent: bool) -> int:
    per_token = max(store.page_bytes(block_size) for store in stores if store.reach != "encoder") / block_size
    alignment = max(block_size, 128) if latent else block_size
    return max(block_size, alignment * -(-state // int(alignment * per_token)))


def _kinds(
    stores: Sequence[Store],
    states: Sequence[int],
    tokens: tuple[int, int],
    retention: Retention,
    in_flight: int,
    block_size: int,
    state_blocks: int,
) -> list[_Kind]:
    alike: dict[Store, int] = {}
    for store in stores:
        alike[store] = alike.get(store, 0) + 1
    kinds = []
    for store, count in alike.items():
        size = store.block_tokens(block_size)
        need = blocks(store, _tokens(store, tokens), retention, in_flight, block_size)
        reach = (store.reach, store.limit)
        kinds.append(_Kind(store.name, count, store.page_bytes(size), size, need, store, reach))
    by_state: dict[int, int] = {}
    for state in states:
        by_state[state] = by_state.get(state, 0) + 1
    for state, count in by_state.items():
        kinds.append(_Kind("state", count, state, 0, state_blocks, None, ("state", 0)))
    return kinds


def _one_group(kinds: Sequence[_Kind]) -> PageGroup:
    """All layers need the same token slots: one block table, pages side by side."""
    total = sum(kind.count for kind in kinds)
    width = sum(kind.count * kind.page for kind in kinds)
    name = " + ".join(dict.fromkeys(kind.name for kind in kinds))
    page = max(kind.page for kind in kinds)
    return PageGroup(name, total, 0, kinds[0].tokens, page, width, kinds[0].need, kinds[0].reach)


def _equal_groups(
    kinds: Sequence[_Kind], tokens: tuple[int, int], retention: Retention, in_flight: int
) -> tuple[PageGroup, ...]:
    """Make pages equal (longer blocks, else padding) and deal layers into groups of one size."""
    page = max(kind.page for kind in kinds)
    unified = []
    for kind in kinds:
        if kind.store is not None and kind.page != page and page % kind.page == 0:
            longer = replace(kind.store, page_tokens=kind.tokens * (page // kind.page))
            need = blocks(longer, _tokens(longer, tokens), retention, in_flight, 0)
            kind = replace(kind, tokens=longer.page_tokens, need=need)
        unified.append(replace(kind, page=page))
    counts = [kind.count for kind in unified]
    size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
    groups = []
    for kind in unified:
        number = -(-kind.count // size)
        for index in range(number):
            real = len(range(index, kind.count, number))
            groups.append(
                PageGroup(kind.name, size, size - real, kind.tokens, page, size * page, kind.need, kind.reach)
            )
    return tuple(groups)


def _packed(
    stores: Sequence[Store], tokens: tuple[int, int], retention: Retention, in_flight: int, block_size: int
) -> Layout:
    alike: dict[Store, int] = {}
    for store in stores:
        alike[store] = alike.get(store, 0) + 1
    groups = []
    for store, count in alike.items():
        size = store.block_tokens(block_size)
        page = store.page_bytes(size)
        need = blocks(store, _tokens(store, tokens), retention, in_flight, block_size)
        reach = (store.reach, store.limit)
        groups.append(PageGroup(store.name, count, 0, size, page, count * page, need, reach))
    return Layout(lcm(*(group.block_tokens for group in groups)), tuple(groups))
