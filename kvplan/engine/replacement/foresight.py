"""The requests to come: a trie of all prompts, and for every block in it the next request that has it."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from kvplan.engine.content import BlockKey, Content
from kvplan.errors import DataError, UsageError

NEVER = float("inf")

MAX_MARKS = 20_000_000
"""Most (prompt, node of the trie) pairs that are remembered; each is 4 bytes."""


class _Node:
    """Blocks ``start .. end`` of a sequence that the same prompts have; ``readers`` in arrival order."""

    __slots__ = ("children", "content", "end", "next", "readers", "start")

    def __init__(self, content: Content, start: int, end: int) -> None:
        self.content = content
        self.start = start
        self.end = end
        self.children: dict[BlockKey, _Node] = {}
        self.readers = array("I")
        self.next = 0


class Foresight:
    """Everything that will be asked for, in the order of arrival.

    Args:
        block_size: tokens per block.
        most: pairs of prompt and trie node to remember at most.
    """

    def __init__(self, block_size: int, *, most: int = MAX_MARKS) -> None:
        self._size = block_size
        self._root = _Node(Content((), ()), 0, 0)
        self._numbers: dict[str, int] = {}
        self._admitted = bytearray()
        self._paths: dict[Content, tuple[list[int], list[_Node]]] = {}
        self._marks = 0
        self._most = most

    def add(self, name: str, content: Content, blocks: int) -> None:
        """The next request to arrive reads the first ``blocks`` blocks of ``content``.

        Raises:
            DataError: there was a request of this name. UsageError: there are too many requests.
        """
        if name in self._numbers:
            raise DataError(f"two requests are called {name!r}", hint="ids must be unique to look ahead")
        number = self._numbers[name] = len(self._numbers)
        self._admitted.append(0)
        size = self._size
        node, depth = self._root, 0
        while depth < blocks:
            key = content.block_key(depth * size, size)
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = _Node(content, depth, blocks)
            stop = min(child.end, blocks)
            agreed = content.agrees_until(child.content, depth * size, stop * size) // size
            if agreed < child.end:
                child = self._split(node, child, key, agreed)
            child.readers.append(number)
            self._marks += 1
            node, depth = child, agreed
        if self._marks > self._most:
            raise UsageError(
                f"looking ahead over more than {number:,} requests with this much sharing takes too much "
                "memory",
                hint="limit the workload (--limit)",
            )

    def _split(self, parent: _Node, child: _Node, key: BlockKey, cut: int) -> _Node:
        upper = _Node(child.content, child.start, cut)
        parent.children[key] = upper
        upper.readers = child.readers[:]
        self._marks += len(upper.readers)
        child.start = cut
        upper.children[child.content.block_key(cut * self._size, self._size)] = child
        return upper

    def admitted(self, name: str) -> None:
        """The request was scheduled: what it reads it has read. One that was not announced is ignored."""
        number = self._numbers.get(name)
        if number is not None:
            self._admitted[number] = 1

    def next_use(self, content: Content, block: int) -> float:
        """Number, in order of arrival, of the first request not yet admitted that reads this block."""
        ends, nodes = self._path(content)
        place = bisect_right(ends, block)
        if place == len(ends):
            return NEVER
        node = nodes[place]
        readers, admitted = node.readers, self._admitted
        at, count = node.next, len(readers)
        while at < count and admitted[readers[at]]:
            at += 1
        node.next = at
        return readers[at] if at < count else NEVER

    def alike_from(self, content: Content, block: int) -> int:
        """The first of the blocks up to this one that are read by the very same requests."""
        ends, nodes = self._path(content)
        place = bisect_right(ends, block)
        if place == len(ends):
            return ends[-1] if ends else 0
        return nodes[place].start

    def _path(self, content: Content) -> tuple[list[int], list[_Node]]:
        """The trie's nodes along a content and where each ends for it; found once per content."""
        path = self._paths.get(content)
        if path is None:
            path = self._paths[content] = self._walk(content)
        return path

    def _walk(self, content: Content) -> tuple[list[int], list[_Node]]:
        size = self._size
        blocks = content.ends[-1] // size if content.ends else 0
        ends: list[int] = []
        nodes: list[_Node] = []
        node, depth = self._root, 0
        while depth < blocks:
            child = node.children.get(content.block_key(depth * size, size))
            if child is None:
                break
            stop = min(child.end, blocks)
            agreed = content.agrees_until(child.content, depth * size, stop * size) // size
            ends.append(agreed)
            nodes.append(child)
            if agreed < child.end:
                break
            node, depth = child, agreed
        return ends, nodes
