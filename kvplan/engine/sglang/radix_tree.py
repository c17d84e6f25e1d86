"""The contract of a radix prefix cache, and what a request does with one.

Two implementations: ``prefix_radix.RadixIndex`` (segments; cost independent of tokens) and
``reference.radix.TokenTree`` (token by token, the oracle).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

from kvplan.traces.request import Request

NodeT = TypeVar("NodeT")
ContentT = TypeVar("ContentT")

TreeKind: TypeAlias = Literal["unified", "radix"]
"""Which of SGLang's classes to follow: ``unified`` is ``UnifiedRadixCache``, what every ordinary model gets
since 0.5; ``radix`` is the classic ``RadixCache``. Recorded decisions differ under ``filo`` only: a split
keeps the creation time in the first and renews it in the second. See ``RadixIndex`` for the clocks."""

TREE_KINDS: tuple[TreeKind, ...] = ("unified", "radix")


class RadixTree(Protocol[NodeT, ContentT]):
    """Cached prefixes, in whole pages. Lengths are tokens and always multiples of ``page_size``.

    Attributes:
        evictable: tokens in nodes that no request holds.
        protected: tokens in nodes that some request holds.
    """

    page_size: int
    root: NodeT
    evictable: int
    protected: int

    def content(self, request: Request) -> ContentT:
        """Prompt and answer of a request, as the tree wants to see them."""
        ...

    def match(self, content: ContentT, limit: int) -> tuple[int, NodeT]:
        """Longest cached prefix of at most ``limit`` tokens, and the node it ends with.

        Not a pure look-up: the nodes passed become recently used, and a node is split where the match ends
        inside it.
        """
        ...

    def insert(self, content: ContentT, length: int, priority: int, counted: int) -> int:
        """Add the first ``length`` tokens; returns how many were there already.

        Nodes that end within the first ``counted`` tokens were counted for this request before: their
        ``hit_count`` stays.
        """
        ...

    def advance(
        self, node: NodeT, content: ContentT, length: int, priority: int, counted: int
    ) -> tuple[int, NodeT]:
        """What a request does after each part of its prefill: insert ``length`` tokens, match them, and hold
        the node found instead of ``node``, which it held so far. Returns how many tokens were there already,
        and the node."""
        ...

    def conclude(
        self, node: NodeT, content: ContentT, length: int, prompt: int, priority: int, counted: int
    ) -> int:
        """What a request that holds ``node`` does at its end: insert ``length`` tokens, then its ``prompt``
        tokens (0: not again) at a priority higher by one. Returns how many of the former were there already.
        """
        ...

    def lock(self, node: NodeT) -> None:
        """Hold the node and its ancestors: they cannot be evicted."""
        ...

    def unlock(self, node: NodeT) -> None:
        """Undo one ``lock``."""
        ...

    def evict(self, tokens: int) -> int:
        """Evict leaves until at least ``tokens`` tokens are free or nothing is evictable; returns how many
        were freed. Leaves go whole, so that can be more."""
        ...

    def unheld(self, node: NodeT) -> int:
        """Tokens on the path to the node that nobody holds."""
        ...


@dataclass(slots=True, eq=False)
class Holding(Generic[NodeT, ContentT]):
    """What one request has in the pool and in the tree.

    Attributes:
        content: prompt and answer.
        prompt_tokens, priority: of the request.
        node: the node it holds; the path to it covers ``shared`` tokens.
        shared: tokens whose KV belongs to the tree; the rest up to ``allocated`` is the request's own.
        allocated: tokens it has room for, whole pages.
        counted: tokens it has inserted so far.
    """

    content: ContentT
    prompt_tokens: int
    priority: int
    node: NodeT
    shared: int = 0
    allocated: int = 0
    counted: int = 0

    @property
    def private(self) -> int:
        """Tokens of the pool only this request accounts for."""
        return self.allocated - self.shared


def checkpoint(tree: RadixTree[NodeT, ContentT], holding: Holding[NodeT, ContentT], tokens: int) -> int:
    """Put the request's first ``tokens`` computed tokens into the tree and hold them; returns tokens freed.

    What the tree had already is not needed twice, so the request's copy is freed.
    """
    page = tree.page_size
    aligned = tokens // page * page
    content, node, priority = holding.content, holding.node, holding.priority
    if _answer_has_a_page(holding, tokens, page):
        present = tree.conclude(node, content, tokens, holding.prompt_tokens, priority, holding.counted)
        _, holding.node = tree.match(content, tokens)
        tree.unlock(node)
        tree.lock(holding.node)
    else:
        present, holding.node = tree.advance(node, content, tokens, priority, holding.counted)
    freed = present - holding.shared
    holding.shared = aligned
    holding.counted = max(holding.counted, aligned)
    return freed


def release(tree: RadixTree[NodeT, ContentT], holding: Holding[NodeT, ContentT], tokens: int) -> int:
    """The request is finished: leave its first ``tokens`` tokens in the tree, free the rest, let go.

    Returns tokens freed.
    """
    page = tree.page_size
    prompt = holding.prompt_tokens if _answer_has_a_page(holding, tokens, page) else 0
    present = tree.conclude(holding.node, holding.content, tokens, prompt, holding.priority, holding.counted)
    freed = present - holding.shared + holding.allocated - tokens // page * page
    drop(tree, holding)
    return freed


def drop(tree: RadixTree[NodeT, ContentT], holding: Holding[NodeT, ContentT]) -> None:
    """Let go of the tree and forget the request's own tokens, which the caller takes back."""
    tree.unlock(holding.node)
    holding.node = tree.root
    holding.shared = holding.allocated = 0


def _answer_has_a_page(holding: Holding[NodeT, ContentT], tokens: int, page: int) -> bool:
    """Whether the answer reaches a page beyond the prompt's: then the prompt is inserted once more, at a
    priority higher by one. That cuts the leaf where the answer begins, and the answer goes before the
    prompt. (The condition follows the recordings; without it ``priority`` decides differently.)"""
    return holding.prompt_tokens // page < tokens // page
