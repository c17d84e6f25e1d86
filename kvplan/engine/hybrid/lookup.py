"""The longest cached prefix that all groups can serve (``HybridKVCacheCoordinator``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvplan.engine.content import Content
from kvplan.engine.hybrid.chunks import ChunkGroup
from kvplan.engine.hybrid.full import FullGroup
from kvplan.engine.hybrid.group import Entry, Group, Hit, Tail
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.sparse import SparseGroup
from kvplan.engine.hybrid.states import BoundaryStates
from kvplan.engine.hybrid.windows import WindowGroup


class Alike(Protocol):
    """Groups with one specification: a block counts if all of them have it."""

    downward_closed: bool
    """Whether a hit of n tokens implies hits of every shorter length."""

    open_end: bool
    """Whether what the last look-up found may grow without any other event."""

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """Tokens of the longest prefix of at most ``limit`` tokens that these groups can serve."""
        ...


class AlikeFull:
    """Groups of full attention with blocks of one size."""

    downward_closed = True

    def __init__(self, groups: Sequence[FullGroup], alignment: int) -> None:
        self._groups = groups
        self._size = groups[0].block_size
        self._alignment = alignment
        self.open_end = False

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """The longest run of cached blocks from the start."""
        blocks = limit // self._size
        self.open_end = False
        for group in self._groups:
            match = group.index.match(request.content, blocks)
            blocks = match.blocks
            self.open_end |= match.open_end
        tokens = blocks * self._size
        return tokens - tokens % self._alignment


class AlikeSparse:
    """Tables of one sparse kind; what the last look-up found stays in ``tails``, one for each of them."""

    downward_closed = False
    open_end = False

    def __init__(self, groups: Sequence[SparseGroup], alignment: int) -> None:
        self.groups = groups
        self.tails: list[Tail] = []
        self.size = groups[0].block_size
        self.alignment = alignment

    def find(self, request: HybridRequest, place: int) -> list[Entry] | None:
        """What each table has with the tokens of this entry, if all have something."""
        name = request.content.fingerprint((place + 1) * self.size)
        found = []
        for group in self.groups:
            entry = group.find(name)
            if entry is None:
                return None
            found.append(entry)
        return found

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """As ``Alike``."""
        raise NotImplementedError

    def keep(self, run: list[list[Entry]], skipped: int) -> None:
        """Remember what was found, entry by entry, without the first ``skipped`` entries."""
        self.tails = [[found[number] for found in run[skipped:]] for number in range(len(self.groups))]


class AlikeWindows(AlikeSparse):
    """Sliding windows of one length."""

    def __init__(self, groups: Sequence[WindowGroup], alignment: int) -> None:
        super().__init__(groups, alignment)
        self._first = groups[0]

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """The right-most run that covers a window and ends aligned; shorter at the start of the sequence."""
        wanted = self._first.blocks_for_hit
        run: list[list[Entry]] = []
        end = 0
        for entry in range(limit // self.size - 1, -1, -1):
            blocks = self.find(request, entry)
            if blocks is None:
                run = []
                continue
            if not run:
                if (entry + 1) * self.size % self.alignment:
                    continue
                end = entry + 1
            run.append(blocks)
            if len(run) >= wanted:
                return self._settle(run, end, entry)
        # What is left of the run begins with the sequence.
        whole = len(run) * self.size // self.alignment * self.alignment // self.size
        return self._settle(run[len(run) - whole :], whole, 0)

    def _settle(self, run: list[list[Entry]], end: int, first: int) -> int:
        tokens = end * self.size
        skipped = self._first.skipped_tokens(tokens) // self.size
        self.keep(run[::-1], max(skipped - first, 0))
        return tokens


class AlikeChunks:
    """Local chunks of one length."""

    downward_closed = False

    def __init__(self, groups: Sequence[ChunkGroup]) -> None:
        self._size = groups[0].block_size
        self._first = groups[0].first
        self._indexes = [index for group in groups for index in group.indexes]
        self.open_end = False

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """The longest run from the start of the chunk the limit lies in; chunks before are not needed."""
        start, blocks = self._first(limit), limit // self._size
        self.open_end = False
        for index in self._indexes:
            match = index.find(request.content, start, blocks)
            blocks = match.blocks
            self.open_end |= match.open_end
        return blocks * self._size


class AlikeStates(AlikeSparse):
    """States at the same boundaries."""

    def longest_hit(self, request: HybridRequest, limit: int) -> int:
        """The right-most cached state at an aligned boundary."""
        for entry in range(limit // self.size - 1, -1, -1):
            if (entry + 1) * self.size % self.alignment:
                continue
            blocks = self.find(request, entry)
            if blocks is not None:
                self.keep([blocks], 0)
                return (entry + 1) * self.size
        return 0


class Lookup:
    """What a cache with these groups finds for a request."""

    def __init__(self, groups: Sequence[Group], alignment: int) -> None:
        self._full = [group for group in groups if isinstance(group, FullGroup)]
        self._chunks = [group for group in groups if isinstance(group, ChunkGroup)]
        self._alignment = alignment
        self._kinds = _alike(groups, alignment)
        self._sparse = [kind for kind in self._kinds if isinstance(kind, AlikeSparse)]

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
            self._fill(hit, request.content)
        return hit

    def _fill(self, hit: Hit, content: Content) -> None:
        """Note what each group contributes to a hit."""
        tokens = hit.tokens
        hit.matches = [group.index.match(content, tokens // group.block_size) for group in self._full]
        hit.chunks = [group.matches(content, tokens) for group in self._chunks]
        tails: dict[int, Tail] = {}
        for kind in self._sparse:
            for group, tail in zip(kind.groups, kind.tails, strict=True):
                tails[group.place] = tail
        hit.tails = [tails[place] for place in sorted(tails)]


def _alike(groups: Sequence[Group], alignment: int) -> list[Alike]:
    """Gather groups with equal specification: full attention first, then in the order of their first."""
    full = [group for group in groups if isinstance(group, FullGroup)]
    found: list[Alike] = [AlikeFull(full, alignment)] if full else []
    gathered: dict[object, list[Group]] = {}
    for group in groups:
        if isinstance(group, SparseGroup | ChunkGroup):
            gathered.setdefault(group.group, []).append(group)
    for members in gathered.values():
        windows = [group for group in members if isinstance(group, WindowGroup)]
        chunks = [group for group in members if isinstance(group, ChunkGroup)]
        states = [group for group in members if isinstance(group, BoundaryStates)]
        if chunks:
            found.append(AlikeChunks(chunks))
        elif windows:
            found.append(AlikeWindows(windows, alignment))
        elif states:
            found.append(AlikeStates(states, alignment))
    return found
