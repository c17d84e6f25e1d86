"""A run of cached blocks in the prefix index, who publishes into it, and what a look-up answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kvplan.engine.content import BlockKey, Content

if TYPE_CHECKING:
    from kvplan.engine.blocks import Segment


class Owner(Protocol):
    """Somebody who publishes content and holds what is found; attributes as in ``LiveRequest``."""

    content: Content
    held: list[tuple[Segment, int]]
    tail: Node
    in_tree: int
    published: int

    def published_blocks(self) -> int:
        """Blocks findable now, as of the last ``schedule()``."""
        ...

    def expect_publication(self) -> None:
        """Its open node was closed: the next block that fills has to be published."""
        ...


class Node:
    """Blocks ``start .. end`` (numbered from the beginning of the sequence) after the parent's."""

    __slots__ = ("children", "content", "copies", "end", "key", "owner", "parent", "start")

    def __init__(self, content: Content, start: int, end: int, parent: Node | None, key: BlockKey) -> None:
        self.content = content
        self.start = start
        self.end = end
        self.parent = parent
        self.key = key
        self.children: dict[BlockKey, Node] = {}
        self.copies: list[Segment] = []
        self.owner: Owner | None = None


class Match:
    """A look-up's answer: ``blocks`` cached blocks along ``path``; nothing was changed.

    ``unheld`` of them are in the free queue and would leave it. ``open_end``: the match ended where a
    running request's content goes on, so that it may grow without any other event.
    """

    __slots__ = ("blocks", "open_end", "path", "unheld")

    def __init__(self) -> None:
        self.blocks = 0
        self.unheld = 0
        self.path: list[Node] = []
        self.open_end = False
