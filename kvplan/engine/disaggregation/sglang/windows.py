"""Sliding windows on SGLang's prefill and decode servers.

A prefill server has both pools as one engine has. A decode server, in pages of more than a token, gives a
prompt that comes only the windows that its last token looks at (``_uses_swa_tail_prealloc``), and asks each
pool for what it keeps for those that run: of windows no more than they may still grow to. In pages of one
token every token of a prompt has a window until the request decodes, and the smaller pool is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from kvplan.engine.disaggregation.sglang.decode import (
    DecodeEvents,
    DecodeReplica,
    DecodeScheduler,
    Retractable,
)
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.prefill import PrefillEvents, PrefillReplica, PrefillScheduler
from kvplan.engine.disaggregation.sglang.transit import HANDED_COUNTERS, HandedRequest
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang_windows.pool import WindowPool
from kvplan.engine.sglang_windows.replica import WindowReplica
from kvplan.engine.sglang_windows.request import WindowRequest
from kvplan.engine.sglang_windows.scheduler import WindowScheduler
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.traces.request import Request


class WindowHandedRequest(WindowRequest, HandedRequest):
    """A request with windows as one of the two servers sees it."""

    __slots__ = HANDED_COUNTERS


class WindowPrefillScheduler(PrefillScheduler, WindowScheduler):
    """Nobody decodes here; windows go on with the chunks of a prompt."""

    request_type: type[SglangRequest] = WindowHandedRequest

    def __init__(self, config: SglangConfig, pool: WindowPool, *, keep_schedule: bool) -> None:
        WindowScheduler.__init__(self, config, pool, keep_schedule=keep_schedule)
        self.open_queues()


class WindowPrefillReplica(PrefillReplica, WindowReplica):
    """One instance of a prefill pool whose tokens have places in two pools."""

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents,
        windows: SlidingWindows,
    ) -> None:  # fmt: skip
        WindowReplica.__init__(self, config, latency, recorder, windows)
        self.events = events

    def make_scheduler(self) -> WindowPrefillScheduler:
        """See the base class."""
        pool = WindowPool(self.config, self.windows)
        made = WindowPrefillScheduler(self.config, pool, keep_schedule=self.logging)
        self.prefill = self.windowed = made
        return made


@dataclass(frozen=True, slots=True)
class RetractableWindows(Retractable):
    """Of both pools.

    Attributes:
        windows, longest_windows: as of the full pool, where of prompts only the last windows count.
    """

    windows: int
    longest_windows: int


class WindowDecodeScheduler(DecodeScheduler, WindowScheduler):
    """Both pools must have room."""

    request_type: type[SglangRequest] = WindowHandedRequest

    def __init__(
        self, config: SglangConfig, options: DecodeOptions, pool: WindowPool, *, keep_schedule: bool
    ) -> None:
        WindowScheduler.__init__(self, config, pool, keep_schedule=keep_schedule)
        self.open_queues(options)

    def never_fits(self, request: Request) -> bool:
        """As the base class, of either pool."""
        prompt, windows = request.prompt_tokens, self.pool.window_tokens
        if super().never_fits(request):
            return True
        answer = min(request.output_tokens, self.config.clip_max_new_tokens)
        if self.page > 1:
            tail = self._tail(prompt)
            return max(self._pages(tail), tail + answer) > windows
        return max(prompt + self.options.num_reserved_decode_tokens, prompt + answer) > windows

    def _tail(self, tokens: int) -> int:
        """Of a sequence of ``tokens`` tokens those that have windows when it comes (``_swa_tail_len``)."""
        if self.page == 1:
            return tokens
        start = max(0, tokens - self.pool.span)
        return tokens - (start - start % self.page)

    def _unreferenced(self) -> int:
        """As the base class; in pages of one token what both pools have."""
        return self.pool.room if self.page == 1 else self.pool.free

    def _resumes(self, request: SglangRequest, more: int) -> bool:
        """As the base class, in both pools."""
        if not super()._resumes(request, more):
            return False
        return self.page == 1 or self._pages(self._tail(request.tokens - 1)) <= self._windows(more, 0)

    def _retractable(self) -> RetractableWindows:
        """As the base class, of both pools."""
        found, clip = super()._retractable(), self.config.clip_max_new_tokens
        if self.page == 1:
            return RetractableWindows(found.tokens, found.longest, 0, 0)
        tail = self._tail
        running = self.decoding.members
        windows = found.tokens - sum(
            request.prompt_tokens - tail(request.prompt_tokens) for request in (*running, *self._gone)
        )
        longest = max(
            (tail(request.prompt_tokens) + min(request.max_new_tokens, clip) for request in running),
            default=0,
        )
        return RetractableWindows(found.tokens, found.longest, windows, longest - windows)

    def _admits(self, request: SglangRequest, more: int, running: Retractable) -> bool:
        """As the base class, in both pools; of windows no more is asked for than its prompt has, unless its
        answer could not go on with all others retracted."""
        if not super()._admits(request, more, running):
            return False
        if self.page == 1:
            return True
        assert isinstance(running, RetractableWindows)
        tail = self._tail(request.prompt_tokens)
        answer = tail + min(request.max_new_tokens, self.config.clip_max_new_tokens) - running.windows
        return max(self._pages(tail), answer) <= self._windows(more, running.longest_windows)

    def _windows(self, more: int, longest: int) -> int:
        """``_swa_tail_allocatable_token_budget``: as ``_allocatable``; those that run or will need no more
        than their windows, of which some have all already."""
        pool, active = self.pool, self._active(more)
        used = pool.window_tokens - pool.free_windows
        reserved = min(self.options.num_reserved_decode_tokens * active, max(0, active * pool.span - used))
        return pool.free_windows - max(reserved, longest)

    def _take(self, request: SglangRequest, tokens: int) -> int:
        """As the base class; what lies before the last window is taken to have left it."""
        if self.page == 1:
            return super()._take(request, tokens)
        room, tail = self._pages(tokens), self._tail(tokens)
        self.pool.take_tail(room, self._pages(tail), "preallocation")
        cast(WindowRequest, request).slid = tokens - tail
        return room


class WindowDecodeReplica(DecodeReplica, WindowReplica):
    """One instance of a decode pool whose tokens have places in two pools."""

    def __init__(
        self, config: SglangConfig, options: DecodeOptions, latency: LatencyModel, recorder: Recorder,
        events: DecodeEvents, windows: SlidingWindows,
    ) -> None:  # fmt: skip
        self.options = options
        WindowReplica.__init__(self, config, latency, recorder, windows)
        self.events = events

    def make_scheduler(self) -> WindowDecodeScheduler:
        """See the base class."""
        pool = WindowPool(self.config, self.windows)
        made = WindowDecodeScheduler(self.config, self.options, pool, keep_schedule=self.logging)
        self.decode = self.windowed = made
        return made
