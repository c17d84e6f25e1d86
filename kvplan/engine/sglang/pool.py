"""SGLang's KV memory: one pool of tokens, of which the radix tree keeps what requests have left."""

from __future__ import annotations

from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.prefix_radix import RadixIndex
from kvplan.engine.sglang.radix_tree import checkpoint, drop, release


class TokenPool:
    """The tokens of one engine instance, and the tree. Sizes are tokens, whole pages.

    Attributes:
        free: tokens in which nothing is stored; cached ones that nobody holds come on top.
        allocated: tokens handed out so far.
        tree: what is cached.
    """

    __slots__ = ("allocated", "caching", "free", "page", "tree")

    def __init__(self, config: SglangConfig, tree: RadixIndex | None = None) -> None:
        self.page = config.page_size
        self.caching = not config.disable_radix_cache
        if tree is None:
            tree = RadixIndex(config.page_size, config.leaf_key, config.tree)
        self.tree = tree
        self.free = config.pool_tokens
        self.allocated = 0

    @property
    def unreferenced(self) -> int:
        """Tokens nobody references, cached ones included."""
        return self.free + self.tree.evictable

    @property
    def room(self) -> int:
        """Tokens that can be handed out without evicting."""
        return self.free

    def known(self, tokens: int) -> int:
        """Of the first ``tokens`` tokens of a sequence, those that the tree can know."""
        return tokens

    def places(self, request: SglangRequest) -> int:
        """Tokens, whole pages, that a request which is about to go has room for."""
        return -(-request.computed // self.page) * self.page

    def make_room(self, tokens: int) -> None:
        """Evict what is short of ``tokens``; whole leaves, so it may be more."""
        if self.free < tokens:
            self.free += self.tree.evict(tokens - self.free)

    def fits(self, tokens: int) -> bool:
        """``check_decode_mem``: evict for them, and say whether they are there."""
        self.make_room(tokens)
        return self.room >= tokens

    def take(self, tokens: int, asked: int, purpose: str) -> None:
        """Hand out ``tokens``, after evicting for what the allocator asks for, which is never less.

        Raises:
            OutOfKvMemory: they are not there.
        """
        self.make_room(asked)
        if tokens > self.room:
            raise OutOfKvMemory(purpose, tokens, self.room)
        self.hand_out(tokens)

    def hand_out(self, tokens: int) -> None:
        """Requests get ``tokens``, which are there."""
        self.free -= tokens
        self.allocated += tokens

    def checkpoint(self, request: SglangRequest, tokens: int) -> None:
        """The first ``tokens`` tokens of a request that goes on are computed."""
        if self.caching:
            self.free += checkpoint(self.tree, request.held, self.known(tokens))

    def release(self, request: SglangRequest) -> None:
        """A request is finished: what it computed stays in the tree."""
        holding = request.held
        holding.allocated = self.places(request)
        if self.caching:
            self.free += release(self.tree, holding, self.known(request.computed))
        else:
            self.free += holding.allocated
        request.holding = None

    def drop(self, request: SglangRequest) -> None:
        """Free what a request has, leaving nothing new in the tree; it starts over."""
        holding = request.held
        self.free += self.places(request) - holding.shared
        drop(self.tree, holding)
        request.holding = None
        request.prefix = request.computed = 0
