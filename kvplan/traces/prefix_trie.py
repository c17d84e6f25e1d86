"""A trie over token runs: how long a prefix of a prompt has been seen before, for any content.

Edges are runs of consecutive integers, so a 100,000-token prompt is a handful of edges, and a child is
found by the first token of its run.

    node --(start, length)--> node     children keyed by start; splitting an edge keeps its two parts
"""

from __future__ import annotations

from kvplan.traces.request import TokenRuns


class _Node:
    __slots__ = ("children", "length", "start", "tails")

    def __init__(self, start: int, length: int) -> None:
        self.start = start
        self.length = length
        self.children: dict[int, _Node] | None = None
        self.tails: set[TokenRuns] | None = None


class PrefixTrie:
    """Every prompt prefix seen, without any bound on its size (an infinite cache)."""

    def __init__(self) -> None:
        self._root = _Node(0, 0)

    def extend(self, runs: TokenRuns, whole: int, tail: TokenRuns) -> tuple[int, bool]:
        """Add the first ``whole`` tokens of a prompt and, as a block of its own, its partial ``tail``.

        Returns:
            Tokens of the first ``whole`` that were there already (a prefix), and whether the same tail
            after the same whole prefix was there.
        """
        node = self._root
        known = 0
        left = whole
        matching = True
        for start, length in runs:
            if left <= 0:
                break
            if length > left:
                length = left
            left -= length
            while length:
                children = node.children
                child = children.get(start) if children is not None else None
                if child is None:
                    child = _Node(start, length)
                    if children is None:
                        node.children = {start: child}
                    else:
                        children[start] = child
                    matching = False
                    node = child
                    break
                common = child.length if child.length <= length else length
                if common < child.length:
                    child = self._split(node, child, common)
                if matching:
                    known += common
                start += common
                length -= common
                node = child
        if not tail:
            return known, False
        # A tail hangs on the node where the whole blocks end: that is exactly where the walk stopped.
        if node.tails is None:
            node.tails = {tail}
        elif tail in node.tails:
            return known, True
        else:
            node.tails.add(tail)
        return known, False

    @staticmethod
    def _split(parent: _Node, child: _Node, at: int) -> _Node:
        """Cut the edge to ``child`` after ``at`` tokens; returns the new node in between."""
        middle = _Node(child.start, at)
        assert parent.children is not None
        parent.children[child.start] = middle
        child.start += at
        child.length -= at
        middle.children = {child.start: child}
        return middle
