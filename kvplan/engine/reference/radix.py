"""The oracle of the radix cache: every node keeps its tokens, eviction looks at every leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.radix_tree import TreeKind
from kvplan.traces.request import Request, iterate_tokens

Tokens: TypeAlias = tuple[int, ...]


class TokenNode:
    """A run of tokens after the parent's (``TreeNode``)."""

    def __init__(self, tokens: Tokens, parent: TokenNode | None, now: float) -> None:
        self.tokens = tokens
        self.parent = parent
        self.children: dict[Tokens, TokenNode] = {}
        self.lock_ref = 0
        self.last_access = self.creation = now
        self.hit_count = 0
        self.priority = 0
        self.history = self.start + len(tokens)
        above = parent
        while above is not None:
            above.history = max(above.history, self.history)
            above = above.parent

    @property
    def start(self) -> int:
        """Tokens before it (``_tlru_cached_prefix_len`` without its own)."""
        return 0 if self.parent is None else self.parent.start + len(self.parent.tokens)


class Seen(NamedTuple):
    """What a look-up found: tokens that can be used, the node they end with, and tokens that agree."""

    usable: int
    node: TokenNode
    passed: int


class TokenTree:
    """A radix cache with SGLang's rules, token by token.

    Args:
        page_size: tokens per page; everything is cut to whole pages.
        policy: which leaf is evicted first.
        kind: whose clock to follow.
    """

    node_class = TokenNode

    def __init__(self, page_size: int, policy: EvictionPolicy, kind: TreeKind = "unified") -> None:
        self.page_size = page_size
        self.kind = kind
        self.key = policy
        self.ticks = 0
        self.root = self.node_class((), None, self._tick())
        self.evictable = 0
        self.protected = 0
        self.evicted = 0

    def content(self, request: Request) -> Tokens:
        """All tokens of prompt and answer."""
        return (*iterate_tokens(request.prompt), *iterate_tokens(request.output))

    def match(self, content: Tokens, limit: int) -> tuple[int, TokenNode]:
        """See ``RadixTree.match``."""
        return self.look(content, limit)[:2]

    def look(self, content: Tokens, limit: int) -> Seen:
        """``match_prefix``."""
        wanted = self._floor(content[:limit])
        if not wanted:
            return Seen(0, self.root, 0)
        now = self._tick() if self.kind == "radix" else None
        passed = self._passed(wanted, now)
        usable = passed[: self._last_usable(passed) + 1]
        if now is None:
            self._used(usable)
        else:
            self.root.last_access = now
        return Seen(tokens_of(usable), usable[-1], tokens_of(passed))

    def _last_usable(self, passed: list[TokenNode]) -> int:
        """Which of the nodes, from the root on, is the last one with which a prefix can end."""
        return len(passed) - 1

    def _passed(self, wanted: Tokens, now: float | None = None) -> list[TokenNode]:
        """The nodes that hold ``wanted`` as far as it is known, from the root on; the last one is cut there.

        ``RadixCache`` writes the time of a match down on its way, before it cuts.
        """
        node, passed = self.root, [self.root]
        while wanted:
            child = node.children.get(wanted[: self.page_size])
            if child is None:
                break
            if now is not None:
                child.last_access = now
            agreed = self._agreement(child.tokens, wanted)
            node = child if agreed == len(child.tokens) else self._split(child, agreed)
            passed.append(node)
            if node is not child:
                break
            wanted = wanted[agreed:]
        return passed

    def _used(self, passed: list[TokenNode]) -> None:
        """``UnifiedRadixCache``: the deepest node is the most recent, each ancestor a trifle older."""
        now = self._tick()
        for back, seen in enumerate(reversed(passed)):
            seen.last_access = now - back * 1e-5

    def insert(self, content: Tokens, length: int, priority: int, counted: int) -> int:
        """See ``RadixTree.insert``."""
        wanted = self._floor(content[:length])
        now = self._tick()
        node, present = self.root, 0
        while wanted:
            child = node.children.get(wanted[: self.page_size])
            if child is None:
                break
            child.last_access = now if self.kind == "radix" else self._tick()
            agreed = self._agreement(child.tokens, wanted)
            node = child if agreed == len(child.tokens) else self._split(child, agreed)
            node.priority = max(node.priority, priority)
            present += agreed
            wanted = wanted[agreed:]
            if present > counted:
                node.hit_count += 1
        if wanted:
            leaf = self.node_class(wanted, node, self._tick())
            leaf.priority = priority
            if present + len(wanted) > counted:
                leaf.hit_count = 1
            node.children[wanted[: self.page_size]] = leaf
            self.evictable += len(wanted)
        return present

    def advance(
        self, node: TokenNode, content: Tokens, length: int, priority: int, counted: int
    ) -> tuple[int, TokenNode]:
        """See ``RadixTree.advance``."""
        present = self.insert(content, length, priority, counted)
        hit, found = self.match(content, length)
        assert hit == length // self.page_size * self.page_size
        self.unlock(node)
        self.lock(found)
        return present, found

    def conclude(
        self, node: TokenNode, content: Tokens, length: int, prompt: int, priority: int, counted: int
    ) -> int:
        """See ``RadixTree.conclude``."""
        del node
        present = self.insert(content, length, priority, counted)
        if prompt:
            self.insert(
                content, prompt, priority + 1, max(counted, length // self.page_size * self.page_size)
            )
        return present

    def lock(self, node: TokenNode) -> None:
        """See ``RadixTree.lock``."""
        while node.parent is not None:
            if node.lock_ref == 0:
                self.evictable -= len(node.tokens)
                self.protected += len(node.tokens)
            node.lock_ref += 1
            node = node.parent

    def hold(self, node: TokenNode) -> int:
        """``inc_lock_ref``: lock a node; returns what ``let_go`` wants to hear."""
        self.lock(node)
        return 0

    def let_go(self, node: TokenNode, mark: int) -> None:
        """``dec_lock_ref``: undo one ``hold``."""
        del mark
        self.unlock(node)

    def unlock(self, node: TokenNode) -> None:
        """See ``RadixTree.unlock``."""
        while node.parent is not None:
            node.lock_ref -= 1
            assert node.lock_ref >= 0
            if node.lock_ref == 0:
                self.evictable += len(node.tokens)
                self.protected -= len(node.tokens)
            node = node.parent

    def evict(self, tokens: int) -> int:
        """See ``RadixTree.evict``."""
        freed = 0
        while freed < tokens:
            leaves = [node for node in self.nodes() if node.lock_ref == 0 and not node.children]
            if not leaves:
                break
            leaf = min(leaves, key=self.key)
            assert leaf.parent is not None
            del leaf.parent.children[leaf.tokens[: self.page_size]]
            freed += len(leaf.tokens)
            self.evictable -= len(leaf.tokens)
        self.evicted += freed
        return freed

    def unheld(self, node: TokenNode) -> int:
        """See ``RadixTree.unheld``."""
        tokens = 0
        while node.parent is not None:
            if node.lock_ref == 0:
                tokens += len(node.tokens)
            node = node.parent
        return tokens

    def nodes(self) -> list[TokenNode]:
        """Every node but the root."""
        found: list[TokenNode] = []
        left = list(self.root.children.values())
        while left:
            node = left.pop()
            found.append(node)
            left.extend(node.children.values())
        return found

    def check(self) -> None:
        """Assert that the books agree with the tree."""
        nodes = self.nodes()
        assert self.protected == sum(len(node.tokens) for node in nodes if node.lock_ref)
        assert self.evictable == sum(len(node.tokens) for node in nodes if not node.lock_ref)
        for node in nodes:
            assert node.parent is not None
            assert len(node.tokens) % self.page_size == 0
            assert node.parent.children[node.tokens[: self.page_size]] is node
            # Whoever holds a node holds its ancestors.
            assert node.parent.parent is None or node.parent.lock_ref >= node.lock_ref

    def _split(self, child: TokenNode, keep: int) -> TokenNode:
        parent = child.parent
        assert parent is not None
        upper = self.node_class(child.tokens[:keep], parent, self._tick())
        upper.lock_ref, upper.hit_count, upper.priority = child.lock_ref, child.hit_count, child.priority
        upper.history = child.history
        if self.kind == "unified":
            upper.creation = child.creation
        parent.children[child.tokens[: self.page_size]] = upper
        child.tokens = child.tokens[keep:]
        child.parent = upper
        upper.children[child.tokens[: self.page_size]] = child
        if self.kind == "unified":
            child.last_access = self._tick()
        return upper

    def _tick(self) -> float:
        self.ticks += 1
        return float(self.ticks)

    def _floor(self, tokens: Tokens) -> Tokens:
        return tokens[: len(tokens) // self.page_size * self.page_size]

    def _agreement(self, ours: Tokens, theirs: Tokens) -> int:
        agreed = 0
        for mine, other in zip(ours, theirs, strict=False):
            if mine != other:
                break
            agreed += 1
        return agreed // self.page_size * self.page_size


def tokens_of(nodes: Sequence[TokenNode]) -> int:
    """Tokens of all of them together."""
    return sum(len(node.tokens) for node in nodes)
