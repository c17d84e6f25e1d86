"""What the connector knows of one request whose cache has several groups."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.offloading.copies import Store
from kvplan.engine.offloading.grouped.chunk import Key, Use
from kvplan.engine.offloading.grouped.layout import GroupLayout
from kvplan.engine.reference.state import PrefixChain


class ChunkStore(Store):
    """Chunks of one request on their way to the host.

    Attributes:
        keys: which; watched: blocks that may be given away while it goes on; source: blocks that may be when
            the request is gone.
    """

    __slots__ = ("keys", "source", "watched")

    def __init__(
        self, owner: NumberedRequest, keys: Sequence[Key], watched: list[int], source: list[int]
    ) -> None:
        super().__init__(owner, len(watched) + len(source))
        self.keys = keys
        self.watched = watched
        self.source = source


class Offloaded:
    """Of one request.

    Attributes:
        use: what it has done with the host's cache.
        whole: chunks that its prompt fills, by group; offered: how many were stored, or need not be.
        views: its blocks as the connector saw them come, by group, as far as the prompt fills chunks; 0 for
            one that was given to somebody else before it was stored.
        refused: up to where they were offered when there was no room, by group.
        loading: chunks its load reads, and the tokens they end with, if one is on its way; load_blocks: what
            it copies.
        stores: those on their way.
        limit: tokens that are computed, once it is over; gone: whether it is.
    """

    __slots__ = (
        "chain", "gone", "keys", "limit", "load_blocks", "loading", "offered", "refused", "request", "stores",
        "use", "views", "whole",
    )  # fmt: skip

    def __init__(self, request: NumberedRequest, groups: Sequence[GroupLayout], chain: PrefixChain) -> None:
        self.request = request
        self.chain = chain
        self.use = Use()
        self.keys: list[list[Key]] = [[] for _ in groups]
        self.whole = [request.prompt_tokens // group.chunk_tokens for group in groups]
        self.offered = [0 for _ in groups]
        self.views: list[list[int]] = [[] for _ in groups]
        self.refused: list[int] = []
        self.limit = self.load_blocks = 0
        self.loading: dict[Key, int] = {}
        self.stores: dict[ChunkStore, None] = {}
        self.gone = False

    @property
    def busy(self) -> bool:
        """Whether copies of it are on their way."""
        return bool(self.loading or self.stores)

    def chunks(self, group: GroupLayout, stop: int) -> list[Key]:
        """Names of a group's first chunks, ``stop`` or more of them, all of whose tokens are known."""
        keys, size = self.keys[group.index], group.chunk_tokens
        for place in range(len(keys) + 1, stop + 1):
            keys.append((group.index, self.request.state.prefix_id(self.chain, place * size)))
        return keys

    def names(self, groups: Sequence[GroupLayout]) -> set[Key]:
        """Of all chunks whose tokens are known."""
        known = self.request.num_tokens
        return {key for group in groups for key in self.chunks(group, known // group.chunk_tokens)}

    def start_over(self) -> None:
        """It waits to be let in: it has no blocks, and all chunks are offered again."""
        for place, view in enumerate(self.views):
            view.clear()
            self.offered[place] = 0

    def see(self, group: GroupLayout, blocks: Sequence[int], *, anew: bool) -> int:
        """It was given these blocks; returns how many it had before."""
        view = self.views[group.index]
        if anew:
            view.clear()
        before = len(view)
        room = self.whole[group.index] * group.chunk_blocks - before
        if room > 0:
            view.extend(blocks[:room])
        return before
