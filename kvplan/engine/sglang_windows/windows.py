"""A pool for sliding windows: how large it is, and how far its layers look back."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import UsageError

EVICTION_INTERVAL = 128
"""Default of the environment variable ``SGLANG_SWA_EVICTION_INTERVAL``."""


@dataclass(frozen=True, slots=True)
class SlidingWindows:
    """The pool beside the one for full attention.

    Attributes:
        span: tokens before a token that its layers look at (``sliding_window_size``), at least 1.
        pool_tokens: tokens that the pool holds (``swa_max_total_num_tokens``), cut to whole pages.
        interval: tokens that leave a window before a decoding request gives any back.
    """

    span: int
    pool_tokens: int
    interval: int = EVICTION_INTERVAL

    def __post_init__(self) -> None:
        if self.span < 1 or self.interval < 1:
            raise UsageError(
                f"a sliding window looks back {self.span} tokens and is given back by {self.interval}; "
                "both must be at least 1"
            )

    def check(self, config: SglangConfig) -> None:
        """Refuse what SGLang refuses at its start, and what is not simulated.

        Raises:
            UsageError: a pool that holds no request, or the classic radix cache.
        """
        page = config.page_size
        if self.tokens(page) <= self.span + page:
            raise UsageError(
                f"a pool of {self.pool_tokens} tokens for windows of {self.span} holds no request",
                where="engine.max_total_tokens",
                hint="give the pools more memory",
            )
        if config.tree != "unified":
            raise UsageError(
                "the classic radix cache knows no windows: their pool is part of the unified one",
                hint="leave the tree at unified",
            )

    def tokens(self, page: int) -> int:
        """Tokens in whole pages."""
        return self.pool_tokens - self.pool_tokens % page

    def kept(self, page: int) -> int:
        """Tokens at the end of a sequence that stay when it goes into the tree, whole pages."""
        return -(-self.span // page) * page
