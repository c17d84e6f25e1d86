"""``PrefillAdder``'s books where windows have a pool of their own (``SWAPrefillBudget``)."""

from __future__ import annotations

from collections.abc import Callable, Sized

from kvplan.engine.sglang.admission import PrefillBudget, Verdict
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang_windows.pool import WindowPool


class WindowBudget(PrefillBudget):
    """Budgets of one prefill batch, of both pools.

    Of the window pool a request is charged what its prefill takes beyond a window, and a window: running
    requests have theirs already, so nothing is reserved for them.

    Args:
        config, ratio, reserved, mixed_decodes, shares: as of ``PrefillBudget``.
        pool: both pools.
    """

    __slots__ = ("_windows", "window_offset")

    def __init__(
        self, config: SglangConfig, pool: TokenPool, ratio: float, reserved: int, mixed_decodes: int,
        shares: Callable[[], float],
    ) -> None:  # fmt: skip
        super().__init__(config, pool, ratio, reserved, mixed_decodes, shares)
        assert isinstance(pool, WindowPool)
        self._windows = pool
        self.window_offset = 0

    @property
    def windows_left(self) -> int:
        """Tokens of the window pool for whoever else comes in (``remaining_swa``)."""
        return self._windows.unreferenced_windows - self.window_offset

    def windows_of(self, extend: int, answer: int) -> int:
        """Most tokens of the window pool that a request takes: what one batch computes of it, no more than a
        window beside (``estimate_swa_kv_tokens``)."""
        span, room = self._windows.span, self.chunk_tokens
        computed = extend if room is None or extend < room else room
        return max(computed - span, 0) + min(extend + answer, span) + self.page

    def fitting(self, tokens: int, held: int, cached: int, answer: int, others: Sized) -> int | Verdict:
        """As the base class. A prefill that will never fit whole is cut to what the window pool has now; one
        that does not fit yet waits."""
        page, room = self.page, self.chunk_tokens
        if answer > self.clip:
            answer = self.clip
        if tokens - held + answer + page >= self.total:
            return Verdict.NO_TOKEN
        padded = -(-(tokens - cached) // page) * page
        needed = self.windows_of(padded, answer)
        if needed >= self.windows_left:
            if room is None or needed < self._windows.window_tokens:
                return Verdict.NO_TOKEN
            most = (self.windows_left - self.windows_of(0, answer)) // page * page
            if most <= 0:
                return Verdict.NO_TOKEN
            room = min(room, most)
        return self.within(room, tokens, cached, others)

    def chunk(self, left: int, answer: int, most: int | None) -> int:
        """As the base class; 0 where the pools have nothing for it now: it stays where it is."""
        assert self.chunk_tokens is not None
        room = min(self.chunk_tokens, int(self.total), self.windows_left - self.page)
        if room <= 0:
            return 0
        if most is not None:
            room = min(room, most)
        extend = min(left, room)
        self.charge(extend, min(answer, self.clip) if extend == left else 0)
        return extend

    def charge(self, extend: int, max_new: int) -> None:
        """As the base class, of both pools."""
        padded = -(-extend // self.page) * self.page
        self.window_offset += self.windows_of(padded, max_new)
        super().charge(extend, max_new)

    def verdict(self) -> Verdict:
        """As the base class."""
        return Verdict.NO_TOKEN if self.windows_left <= 0 else super().verdict()
