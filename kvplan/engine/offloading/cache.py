"""What the host has: chunks, who reads and writes them, and which go."""

from __future__ import annotations

from kvplan.engine.offloading.chunk import ABSENT, IDLE, PENDING, ChunkTree
from kvplan.engine.offloading.memory import HostMemory
from kvplan.engine.offloading.order import EvictionPolicy, make_order
from kvplan.engine.offloading.spans import Span, length
from kvplan.engine.offloading.use import Use


class HostCache(HostMemory):
    """Chunks of one group in host memory, in runs along contents; vLLM's ``CPUOffloadingManager``.

    Args:
        capacity: chunks.
        chunk_tokens: tokens of one.
        policy: which go first.
    """

    def __init__(self, capacity: int, chunk_tokens: int, policy: EvictionPolicy) -> None:
        super().__init__(capacity)
        self.tree = ChunkTree(chunk_tokens)
        self.order = make_order(policy, capacity, self.tree)

    def prefix(self, use: Use, first: int, end: int) -> tuple[int, bool, bool]:
        """How many of chunks ``first .. end`` are there without a gap; whether one is pending; one read."""
        depth, pending, read = first, False, False
        for run, agreed in self.tree.walk(use.content, end):
            if agreed > first:
                readers = run.readers
                if readers == ABSENT:
                    break
                pending |= readers == PENDING
                read |= readers > 0
                depth = agreed
        return depth - first, pending, read

    def pin(self, use: Use, first: int, end: int) -> None:
        """A load reads chunks ``first .. end``, which are there; they do not go meanwhile."""
        self.version += 1
        for run in self.tree.known(use.content, first, end):
            if run.readers == IDLE:
                self.idle -= run.blocks
                self.read += run.blocks
            run.readers += 1
        self._meet(use, [(first, end)], [])
        self.tree.settle(self.tree.known(use.content, first, end))

    def unpin(self, use: Use, first: int, end: int) -> None:
        """A load has ended."""
        self.version += 1
        runs = self.tree.known(use.content, first, end)
        for run in runs:
            run.readers -= 1
            if run.readers == IDLE:
                self.read -= run.blocks
                self.idle += run.blocks
        self.tree.settle(runs)

    def offer(self, use: Use, first: int, end: int) -> list[Span] | None:
        """Take in those of chunks ``first .. end`` of a prompt that are missing.

        Returns the missing ones, which are pending now; None where they do not all find room.
        """
        tree, content = self.tree, use.content
        ready: list[Span] = []
        missing: list[Span] = []
        depth = first
        for run in tree.known(content, first, end):
            if run.readers != ABSENT:
                if depth < run.start:
                    missing.append((depth, run.start))
                if run.readers != PENDING:
                    ready.append((run.start, run.end))
                depth = run.end
        if depth < end:
            missing.append((depth, end))
        unknown = [span for each in missing for span in use.missed.lacking(*each)]
        if unknown:
            self.order.missed(use, unknown)
            for span in unknown:
                use.missed.add(*span)
        self._meet(use, ready, missing)
        chunks = length(missing)
        excess = chunks + self.resident - self.capacity
        if chunks and excess > 0:
            if excess > self.idle or not self.order.evict(excess, set(tree.known(content, first, end))):
                return None
            self.idle -= excess
            self.evicted += excess
        runs = tree.cover(content, first, end)
        if chunks:
            self.version += 1
            new = [run for run in runs if run.readers == ABSENT]
            for run in new:
                run.readers = PENDING
            self.order.insert(use, new)
            for span in missing:
                use.inserted.add(*span)
            self.pending += chunks
            self.stored += chunks
            self.peak = max(self.peak, self.resident)
        tree.settle(runs)
        return missing

    def written(self, use: Use, spans: list[Span]) -> None:
        """A store has ended."""
        self.version += 1
        for start, end in spans:
            runs = self.tree.known(use.content, start, end)
            for run in runs:
                run.readers = IDLE
            self.tree.settle(runs)
        chunks = length(spans)
        self.pending -= chunks
        self.idle += chunks

    def ended(self, use: Use) -> None:
        """A request is over: what it used was used now."""
        self.order.ended(use)

    def _meet(self, use: Use, ready: list[Span], missing: list[Span]) -> None:
        new = [span for each in ready for span in use.met.lacking(*each)]
        others = [span for each in missing for span in use.met.lacking(*each)]
        if new or others:
            self.order.met(use, new)
            for span in (*new, *others):
                use.met.add(*span)
        for each in ready:
            for span in use.inserted.lacking(*each):
                use.reused.add(*span)
