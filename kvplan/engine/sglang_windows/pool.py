"""SGLang's KV memory where windows have a pool of their own: a token has a place in both, until it has left
the window (``SWATokenToKVPoolAllocator``)."""

from __future__ import annotations

from typing import cast

from kvplan.engine.errors import OutOfKvMemory
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang_windows.index import WindowIndex
from kvplan.engine.sglang_windows.request import WindowRequest
from kvplan.engine.sglang_windows.windows import SlidingWindows


class WindowPool(TokenPool):
    """Both pools of one engine instance. ``free`` and ``unreferenced`` are of the full one.

    Attributes:
        windows: how far layers look back, and how often windows are given back.
        free_windows: tokens of the window pool in which nothing is stored.
        slid: tokens that requests gave back as their window went on.
    """

    __slots__ = ("cache", "free_windows", "slid", "span", "window_tokens", "windows")

    def __init__(
        self, config: SglangConfig, windows: SlidingWindows, cache: WindowIndex | None = None
    ) -> None:
        if cache is None:
            cache = WindowIndex(config.page_size, config.leaf_key, windows)
        self.cache = cache
        super().__init__(config, self.cache)
        self.windows = windows
        self.span = windows.span
        self.free_windows = self.window_tokens = windows.tokens(config.page_size)
        self.slid = 0

    @property
    def unreferenced_windows(self) -> int:
        """Tokens of the window pool that nobody references, cached ones included."""
        return self.free_windows + self.cache.evictable_windows

    @property
    def used_windows(self) -> int:
        """Tokens of the window pool that requests hold."""
        return self.window_tokens - self.unreferenced_windows

    @property
    def room(self) -> int:
        """As the base class: what both pools have."""
        return min(self.free, self.free_windows)

    def make_room(self, tokens: int) -> None:
        """As the base class, in both pools (``evict_to_free_tokens``)."""
        self.make_rooms(tokens, tokens)

    def make_rooms(self, tokens: int, windows: int) -> None:
        """Evict what is short of so many tokens in each pool."""
        short, short_windows = tokens - self.free, windows - self.free_windows
        if short > 0 or short_windows > 0:
            freed, freed_windows = self.cache.reclaim(short, short_windows)
            self.free += freed
            self.free_windows += freed_windows

    def hand_out(self, tokens: int) -> None:
        """As the base class, of both pools."""
        super().hand_out(tokens)
        self.free_windows -= tokens

    def take_tail(self, tokens: int, windows: int, purpose: str) -> None:
        """Hand out ``tokens`` of the full pool, and windows only for the last ``windows`` of them
        (``alloc_extend_swa_tail``); nothing is evicted for them.

        Raises:
            OutOfKvMemory: a pool does not have them.
        """
        for asked, there in ((tokens, self.free), (windows, self.free_windows)):
            if asked > there:
                raise OutOfKvMemory(purpose, asked, there)
        super().hand_out(tokens)
        self.free_windows -= windows

    def slide(self, request: WindowRequest, computed: int) -> None:
        """Give back the request's own windows that nobody looks at who comes behind ``computed`` tokens
        (``free_swa_out_of_window_slots``)."""
        span, page = self.span, self.page
        if computed - span < request.slid + 1:
            return
        # Without a tree the last page may lose its window, too.
        kept = self.cache.kept if self.caching else span
        start = max(request.slid, request.held.shared)
        end = max(start, computed - kept)
        end -= end % page
        request.slid = start
        if end > start:
            self.free_windows += end - start
            self.slid += end - start
            request.slid = end

    def checkpoint(self, request: SglangRequest, tokens: int) -> None:
        """As the base class; what is out of the window is given back first."""
        if not self.caching:
            return
        request = cast(WindowRequest, request)
        tokens = self.known(tokens)
        end, branch = self._cacheable(request, tokens)
        self.slide(request, end - 1)
        self._insert(request, end)
        if branch:
            request.branch = 0
            self.slide(request, tokens - 1)

    def release(self, request: SglangRequest) -> None:
        """As the base class."""
        request = cast(WindowRequest, request)
        holding = request.held
        holding.allocated = self.places(request)
        if self.caching:
            self._insert(request, self._cacheable(request, self.known(request.computed))[0])
        self._give_back(request)

    def drop(self, request: SglangRequest) -> None:
        """As the base class."""
        request = cast(WindowRequest, request)
        request.held.allocated = self.places(request)
        self._give_back(request)
        request.prefix = request.computed = 0

    def _cacheable(self, request: WindowRequest, tokens: int) -> tuple[int, bool]:
        """Of the first ``tokens`` tokens those that go into the tree now, and whether they end early, at the
        branch."""
        branch = request.branch
        if request.held.shared < branch <= tokens:
            return branch, True
        return tokens, False

    def _insert(self, request: WindowRequest, tokens: int) -> None:
        """The first ``tokens`` tokens are the tree's now, and held."""
        cache, holding = self.cache, request.held
        aligned = tokens - tokens % self.page
        node, freed, freed_windows = cache.add(
            holding.content, tokens, holding.priority,
            counted=holding.counted, owned=holding.shared, live=request.slid,
        )  # fmt: skip
        self.free += freed
        self.free_windows += freed_windows
        cache.let_go(request.window_node, request.held_from)
        request.held_from = cache.hold(node)
        holding.node = node
        holding.shared = aligned
        holding.counted = max(holding.counted, aligned)

    def _give_back(self, request: WindowRequest) -> None:
        """Free what is the request's own, and let go of the tree."""
        holding = request.held
        self.free += holding.private
        self.free_windows += holding.allocated - max(holding.shared, request.slid)
        self.cache.let_go(request.window_node, request.held_from)
        request.holding = None
        request.start_over()
