"""The longest cached prefix that all groups can serve (``HybridKVCacheCoordinator``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvplan.engine.content import Content
from kvplan.engine.hybrid.chunks import ChunkGroup
from kvplan.engine.hybrid.full import FullGroup
from kvplan.engine.hybrid.group import Group, Hit
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.sparse import SparseGroup
from kvplan.engine.prefix_node import Match


class Alike(Protocol):
    """Groups with one specification: a block counts if all of them have it."""

    downward_closed: bool
    """Whether a hit of n tokens implies hits of every shorter length."""

    open_end: bool
    """Whether what the last look-up found may grow without any other event."""

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """Tokens of the longest prefix of at most ``limit`` tokens that these groups can serve."""
        ...

    def contribute(self, hit: Hit, content: Content) -> None:
        """Note what these groups have of a hit, which is not longer than the last they were asked for."""
        ...


class AlikeFull:
    """Groups of full attention with blocks of one size."""

    downward_closed = True

    def __init__(self, groups: Sequence[FullGroup], alignment: int) -> None:
        self._groups = groups
        self._size = groups[0].block_size
        self._alignment = alignment
        self._found: list[Match] = []
        self.open_end = False

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """The longest run of cached blocks from the start."""
        blocks = limit // self._size
        self.open_end = False
        self._found = []
        for group in self._groups:
            match = group.index.match(request.content, blocks)
            blocks = match.blocks
            self.open_end |= match.open_end
            self._found.append(match)
        tokens = blocks * self._size
        return tokens - tokens % self._alignment

    def contribute(self, hit: Hit, content: Content) -> None:
        """As ``Alike``."""
        blocks = hit.tokens // self._size
        hit.matches = [
            match if match.blocks == blocks else group.index.match(content, blocks)
            for group, match in zip(self._groups, self._found, strict=True)
        ]


class AlikeSparse:
    """Windows of one length, or states at the same boundaries."""

    downward_closed = False
    open_end = False

    def __init__(self, groups: Sequence[SparseGroup], alignment: int) -> None:
        self._groups = groups
        self._indexes = [group.index for group in groups]
        self._size = groups[0].block_size
        self._unit = alignment // self._size
        self._wanted = groups[0].blocks_for_hit or 1

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """The right-most run that covers a window and ends aligned; shorter at the start of the sequence."""
        content, unit, wanted = request.content, self._unit, self._wanted
        end = limit // self._size // unit * unit
        while end:
            start, stop = 0, end
            for index in self._indexes:
                first, stop = index.run(content, end, wanted)
                if stop < end:
                    break
                start = max(start, first)
            else:
                if not start or end - start >= wanted:
                    return end * self._size
                stop = start
            end = stop // unit * unit
        return 0

    def contribute(self, hit: Hit, content: Content) -> None:
        """As ``Alike``."""
        for group in self._groups:
            hit.tails[group.place] = group.tail(content, hit.tokens)


class AlikeChunks:
    """Local chunks of one length."""

    downward_closed = False

    def __init__(self, groups: Sequence[ChunkGroup]) -> None:
        self._groups = groups
        self._size = groups[0].block_size
        self._first = groups[0].first
        self._indexes = [index for group in groups for index in group.indexes]
        self._start = 0
        self._found: list[Match] = []
        self.open_end = False

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """The longest run from the start of the chunk the limit lies in; chunks before are not needed."""
        start, blocks = self._first(limit), limit // self._size
        self._start = start
        self.open_end = False
        self._found = []
        for index in self._indexes:
            match = index.find(request.content, start, blocks)
            blocks = match.blocks
            self.open_end |= match.open_end
            self._found.append(match)
        return blocks * self._size

    def contribute(self, hit: Hit, content: Content) -> None:
        """As ``Alike``."""
        start, blocks, found = self._start, hit.tokens // self._size, iter(self._found)
        for group in self._groups:
            hit.chunks[group.place] = [
                match if match.blocks == blocks else index.find(content, start, blocks)
                for index, match in zip(group.indexes, found, strict=False)
            ]


class Lookup:
    """What a cache with these groups finds for a request."""

    def __init__(self, groups: Sequence[Group], alignment: int) -> None:
        self._alignment = alignment
        self._kinds = _alike(groups, alignment)

    def longest(self, request: HybridRequest, limit: int) -> Hit:
        """Let every kind of group accept or shorten the length until all accept it.

        Full attention is asked once: what it has up to some length it also has up to a shorter one. With
        one other kind beside it a single round settles the matter.
        """
        kinds = self._kinds
        one_round = len(kinds) == 1 or (len(kinds) == 2 and kinds[0].downward_closed)
        known = -1
        length, longest, open_end = limit, 0, False
        while True:
            candidate = length
            for kind in kinds:
                if kind.downward_closed and known >= 0:
                    candidate = min(candidate, known)
                    continue
                candidate = kind.longest_hit(request, candidate)
                open_end |= kind.open_end
                if kind.downward_closed:
                    known = candidate
                longest = max(longest, candidate)
            if candidate >= length:
                break
            length = candidate
            if one_round:
                break
        hit = Hit(length, length // self._alignment, longest=longest, open_end=open_end)
        if length:
            for kind in kinds:
                kind.contribute(hit, request.content)
        return hit


def _alike(groups: Sequence[Group], alignment: int) -> list[Alike]:
    """Gather groups with equal specification: full attention first, then in the order of their first."""
    full = [group for group in groups if isinstance(group, FullGroup)]
    found: list[Alike] = [AlikeFull(full, alignment)] if full else []
    gathered: dict[object, list[Group]] = {}
    for group in groups:
        if isinstance(group, SparseGroup | ChunkGroup):
            gathered.setdefault(group.group, []).append(group)
    for members in gathered.values():
        sparse = [group for group in members if isinstance(group, SparseGroup)]
        chunks = [group for group in members if isinstance(group, ChunkGroup)]
        found.append(AlikeSparse(sparse, alignment) if sparse else AlikeChunks(chunks))
    return found
