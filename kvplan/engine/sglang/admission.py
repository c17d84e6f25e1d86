"""``PrefillAdder``'s books: what one prefill batch may still take from the budgets of a step and the pool.

As ``schedule_policy.py`` and ``prefill_budget.py`` of 0.5.23; verified by recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from enum import Enum, auto

from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.pool import TokenPool

NEARLY_WHOLE = 1e-4
"""More than rounding adds up to in a sum of shares. They are compared with whole tokens only, so only next to
one of those does it matter how the sum was made."""


class Verdict(Enum):
    """Whether another request may be looked at (``AddReqResult``)."""

    CONTINUE = auto()
    NO_TOKEN = auto()
    OTHER = auto()


class PrefillBudget:
    """Budgets of one prefill batch.

    Decode growth is reserved, but only a share of it: ``ratio`` times what the answers of running requests
    may still take. SGLang multiplies request by request and adds up floats. Here the sum comes first, and
    ``shares`` is asked where the last bits decide.

    Args:
        reserved: tokens the answers of running requests may still take.
        mixed_decodes: decoding requests that share the batch (mixed chunks), else 0.
        shares: ``reserved * ratio``, added up as SGLang does.

    Attributes:
        whole: whether only prefills are let in that need not be cut.
    """

    __slots__ = (
        "_charged", "_mixed_decodes", "_shares", "chunk_tokens", "clip", "current_offset", "input_tokens",
        "most", "page", "pool", "total_offset", "whole",
    )  # fmt: skip

    def __init__(
        self,
        config: SglangConfig,
        pool: TokenPool,
        ratio: float,
        reserved: int,
        mixed_decodes: int,
        shares: Callable[[], float],
    ) -> None:
        self.page = config.page_size
        self.clip = config.clip_max_new_tokens
        self.most = config.prefill_max_requests
        self.pool = pool
        self.whole = False
        self.input_tokens = config.max_prefill_tokens - mixed_decodes
        chunk = config.chunk_tokens
        self.chunk_tokens = None if chunk is None else chunk - mixed_decodes
        self.total_offset = mixed_decodes + reserved * ratio
        self.current_offset = mixed_decodes
        self._mixed_decodes = mixed_decodes
        self._charged: list[int] = []
        self._shares = None if ratio == 1.0 else shares

    @property
    def total(self) -> float:
        """Tokens left when everything running has grown as expected (``rem_total_tokens``)."""
        total = self.pool.unreferenced - self.total_offset
        if self._shares is not None and abs(total - round(total)) < NEARLY_WHOLE:
            self._add_up(self._shares())
            return self.pool.unreferenced - self.total_offset
        return total

    def _add_up(self, shares: float) -> None:
        """What is reserved, in the engine's own order of additions."""
        self._shares = None
        self.total_offset = self._mixed_decodes + shares
        for tokens in self._charged:
            self.total_offset += tokens

    def settle(self) -> float:
        """``total`` as the engine adds it up, to the last bit."""
        if self._shares is not None:
            self._add_up(self._shares())
        return self.total

    def give_back(self, share: float) -> None:
        """Nothing is reserved any more for a running request that had ``share``; after ``settle``."""
        self.total_offset -= share

    def extend(self, tokens: int, held: int, cached: int, answer: int, others: Sized) -> int | Verdict:
        """Tokens the batch would compute for one more request, or why it is not taken in.

        Args:
            tokens: prompt and answer so far.
            held: leading tokens that are on the device, and held.
            cached: leading tokens that need not be computed; at least ``held``.
            answer: tokens its answer may still take.
            others: requests that the batch has already.
        """
        if self.most is not None and len(others) >= self.most:
            return Verdict.OTHER
        return self.fitting(tokens, held, cached, answer, others)

    def fitting(self, tokens: int, held: int, cached: int, answer: int, others: Sized) -> int | Verdict:
        """``extend`` of a request for which the batch has a place."""
        if answer > self.clip:
            answer = self.clip
        if tokens - held + answer + self.page >= self.total:
            return Verdict.NO_TOKEN
        return self.within(self.chunk_tokens, tokens, cached, others)

    def within(self, room: int | None, tokens: int, cached: int, others: Sized) -> int | Verdict:
        """What ``room`` tokens leave of a request's prefill, cut at a page; None: it is taken whole."""
        page, extend = self.page, tokens - cached
        padded = -(-extend // page) * page
        if room is None:
            return Verdict.OTHER if others and padded >= self.input_tokens else extend
        if padded <= room:
            return extend
        if self.whole:
            return Verdict.OTHER
        extend = (cached + room // page * page) // page * page - cached
        return extend if extend > 0 else Verdict.OTHER

    def chunk(self, left: int, answer: int, most: int | None) -> int:
        """Tokens of the next chunk of a request in prefill, charged (``add_chunked_req``).

        It must make progress whatever the pool holds, or its KV would never be freed.

        Args:
            left: tokens of it that are not computed yet.
            answer: tokens its answer may still take.
            most: tokens it leaves to others, if it does.
        """
        limit = self.chunk_tokens
        assert limit is not None
        room = min(limit, int(self.total))
        if room <= 0:
            room = limit
        if most is not None:
            room = min(room, most)
        extend = min(left, room)
        self.charge(extend, min(answer, self.clip) if extend == left else 0)
        return extend

    def charge(self, extend: int, max_new: int) -> None:
        """One more request is in the batch; it gets whole pages and one more for rounding."""
        padded = -(-extend // self.page) * self.page
        self.total_offset += padded + self.page + max_new
        if self._shares is not None:
            self._charged.append(padded + self.page + max_new)
        self.current_offset += padded + self.page
        self.input_tokens -= padded
        if self.chunk_tokens is not None:
            self.chunk_tokens -= padded

    def verdict(self) -> Verdict:
        """Whether there is anything left for another request."""
        if self.total <= 0 or self.pool.unreferenced <= self.current_offset:
            return Verdict.NO_TOKEN
        if self.input_tokens <= 0 or (self.chunk_tokens is not None and self.chunk_tokens <= 0):
            return Verdict.OTHER
        return Verdict.CONTINUE
