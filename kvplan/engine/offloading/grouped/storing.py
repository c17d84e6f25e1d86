"""Which chunks of a request are offered to the host, and from which blocks they are copied."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.engine.offloading.grouped.chunk import Key
from kvplan.engine.offloading.grouped.fences import Fences
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.grouped.layout import GroupLayout
from kvplan.engine.offloading.grouped.offloaded import ChunkStore, Offloaded


class Storing:
    """Offers of chunks.

    Args:
        groups: of the cache; host: who takes the chunks; fences: for those that are copied.

    Attributes:
        refused: offers that found no room, once for every step that computed more for them.
    """

    def __init__(self, groups: Sequence[GroupLayout], host: HostChunks, fences: Fences) -> None:
        self.groups = groups
        self.host = host
        self.fences = fences
        self.refused = 0

    def offer(self, known: Offloaded, tokens: int) -> ChunkStore | None:
        """Store what is computed and was not offered yet, if all that is missing of it finds room."""
        spans = [self._span(known, group, tokens) for group in self.groups]
        wanted: dict[Key, int] = {}
        for group, (start, stop) in zip(self.groups, spans, strict=True):
            if start < stop and not group.hands_on:
                keys, size = known.chunks(group, stop), group.chunk_tokens
                for place in self._storable(known, group, start, stop):
                    wanted[keys[place]] = (place + 1) * size
        missing: list[Key] | None = []
        if wanted:
            missing = self.host.offer(known.use, wanted)
            if missing is None:
                stops = [stop for _, stop in spans]
                self.refused += known.refused != stops
                known.refused = stops
                return None
        store = self._store(known, spans, missing) if missing else None
        for place, (_, stop) in enumerate(spans):
            known.offered[place] = max(known.offered[place], stop)
        return store

    def hand(self, known: Offloaded, group: GroupLayout, block: int, tokens: int) -> ChunkStore | None:
        """Store the state after the first ``tokens`` tokens, if a chunk of the prompt ends there."""
        if tokens > known.request.prompt_tokens or tokens % group.chunk_tokens:
            return None
        place = tokens // group.chunk_tokens
        key = known.chunks(group, place)[place - 1]
        missing = self.host.offer(known.use, {key: tokens})
        if missing is None:
            self.refused += 1
        if not missing:
            return None
        store = ChunkStore(known.request, missing, [block], [])
        self._begin(known, store)
        return store

    # -- which ------------------------------------------------------------------------------------------

    def _span(self, known: Offloaded, group: GroupLayout, tokens: int) -> tuple[int, int]:
        """Chunks that are computed and were not offered yet; of who is over, some may count again."""
        start = known.offered[group.index]
        stop = min(tokens // group.chunk_tokens, len(known.views[group.index]) // group.chunk_blocks)
        if self._ends_early(known, group, stop):
            assert group.alignment is not None
            segment = group.alignment // group.group.block_size
            blocks = stop * group.chunk_blocks
            start = min(start, (blocks - blocks % segment) // group.chunk_blocks)
        return start, stop

    def _ends_early(self, known: Offloaded, group: GroupLayout, stop: int) -> bool:
        """Whether its request was given up before a window was all computed: vLLM looks at it again."""
        return known.gone and stop != known.whole[group.index] and group.sparse and group.interval is None

    def _storable(self, known: Offloaded, group: GroupLayout, start: int, stop: int) -> list[int]:
        """Those of chunks ``start .. stop`` that a load could need and that are there."""
        view, size = known.views[group.index], group.chunk_blocks
        needed = self._reachable(known, group, start, stop, stop if known.gone else None)
        offered, before = known.offered[group.index], None
        if self._ends_early(known, group, stop):
            before = self._reachable(known, group, start, stop, None)
        found = []
        for place in range(start, stop):
            blocks = range(place * size, (place + 1) * size)
            if not view[blocks[-1]]:
                continue
            if before is not None and place < offered and any(block in before for block in blocks):
                continue
            wanted = blocks if needed is None else [block for block in blocks if block in needed]
            if wanted and all(view[block] for block in wanted):
                found.append(place)
        return found

    def _reachable(
        self, known: Offloaded, group: GroupLayout, start: int, stop: int, end: int | None
    ) -> set[int] | None:
        """Blocks that a load could need, if the prompt ends with chunk ``end``; None: all."""
        if not group.sparse:
            return None
        size, horizon = group.chunk_blocks, None
        if group.interval is None:
            horizon = (known.whole[group.index] if end is None else end) * size
        boundaries = [known.request.prompt_tokens - 1]
        if known.request.shared_prefix_boundary:
            boundaries.append(known.request.shared_prefix_boundary)
        return group.reachable(start * size, stop * size, horizon, boundaries)

    # -- from where -------------------------------------------------------------------------------------

    def _store(self, known: Offloaded, spans: Sequence[tuple[int, int]], missing: list[Key]) -> ChunkStore:
        new = set(missing)
        watched: list[int] = []
        source: list[int] = []
        for group, (start, stop) in zip(self.groups, spans, strict=True):
            view, size = known.views[group.index], group.chunk_blocks
            blocks = source if group.window_chunks is None else watched
            keys = known.chunks(group, stop) if start < stop else []
            for place in range(start, stop):
                if keys[place] in new:
                    blocks += [block for block in view[place * size : (place + 1) * size] if block]
        store = ChunkStore(known.request, missing, watched, source)
        self._begin(known, store)
        return store

    def _begin(self, known: Offloaded, store: ChunkStore) -> None:
        known.stores[store] = None
        self.fences.add(store, store.watched)
        if known.gone:
            self.fences.add(store, store.source)
