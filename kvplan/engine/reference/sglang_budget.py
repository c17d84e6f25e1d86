"""What a prefill batch of SGLang may still take: the oracle's books, request by request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.engine.reference.sglang import ReferenceSglangScheduler
    from kvplan.engine.reference.sglang_state import SglangState


class Budget:
    """``PrefillAdder``'s books for one prefill batch."""

    def __init__(self, scheduler: ReferenceSglangScheduler, mixed_decodes: int) -> None:
        config = scheduler.config
        self.scheduler = scheduler
        self.page = config.page_size
        self.input_tokens = config.max_prefill_tokens - mixed_decodes
        self.chunk_tokens = None if config.chunk_tokens is None else config.chunk_tokens - mixed_decodes
        shares = 0.0
        # Not with ``sum``, which newer Pythons make more exact than the engine's.
        for state in scheduler.running:
            shares += self.offset(state)
        self.whole = False
        """Whether only prefills are let in that need not be cut."""
        self.total_offset = mixed_decodes + shares
        self.current_offset = mixed_decodes

    def offset(self, state: SglangState) -> float:
        """Tokens that are reserved for what a running request may still answer."""
        left = min(state.max_new_tokens - state.outputs, self.scheduler.config.clip_max_new_tokens)
        return left * self.scheduler.ratio

    @property
    def total(self) -> float:
        """Tokens left when everything running has grown as expected."""
        return self.scheduler.free + self.scheduler.tree.evictable - self.total_offset

    @property
    def current(self) -> int:
        """Tokens left right now."""
        return self.scheduler.free + self.scheduler.tree.evictable - self.current_offset

    def extend(self, state: SglangState, hit: int, batch: list[SglangState]) -> int | str:
        """``add_one_req``: tokens it would compute behind ``hit`` cached ones, or why it is not taken in."""
        most = self.scheduler.config.clip_max_new_tokens
        answer = min(max(state.max_new_tokens - state.outputs, 0), most)
        if state.tokens - hit + answer + self.page >= self.total:
            return "no token"
        return self._within(self.chunk_tokens, state, hit, batch)

    def _within(self, room: int | None, state: SglangState, hit: int, batch: list[SglangState]) -> int | str:
        extend = state.tokens - hit
        padded = -(-extend // self.page) * self.page
        if room is None:
            return "other" if batch and padded >= self.input_tokens else extend
        if padded <= room:
            return extend
        if self.whole:
            return "other"
        extend = (hit + room // self.page * self.page) // self.page * self.page - hit
        return extend if extend > 0 else "other"

    def chunk_room(self) -> int:
        """``add_chunked_req``: tokens for the next chunk of a request in prefill, whatever the pool has."""
        assert self.chunk_tokens is not None
        room = min(self.chunk_tokens, int(self.total))
        return room if room > 0 else self.chunk_tokens

    def charge(self, extend: int, max_new: int) -> None:
        """One more request in the batch."""
        padded = -(-extend // self.page) * self.page
        self.total_offset += padded + self.page + max_new
        self.current_offset += padded + self.page
        self.input_tokens -= padded
        if self.chunk_tokens is not None:
            self.chunk_tokens -= padded

    def verdict(self) -> str:
        """``budget_state``."""
        if self.total <= 0 or self.current <= 0:
            return "no token"
        if self.input_tokens <= 0 or (self.chunk_tokens is not None and self.chunk_tokens <= 0):
            return "other"
        return "continue"
