"""The batch that decodes, and who of it will give windows back next."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import cast

from kvplan.engine.sglang.live import DecodeBatch, SglangRequest
from kvplan.engine.sglang_windows.request import WindowRequest
from kvplan.engine.sglang_windows.windows import SlidingWindows


class WindowBatch(DecodeBatch):
    """A decode batch whose members give back windows every so many tokens.

    Args:
        page_size, clip: as of the base class.
        windows: how far layers look back, and how often windows are given back.
    """

    __slots__ = ("_ahead", "_sliding")

    def __init__(self, page_size: int, clip: int, windows: SlidingWindows) -> None:
        super().__init__(page_size, clip)
        self._ahead = windows.span + windows.interval + 1
        # By the decode step whose output must be known.
        self._sliding: list[tuple[int, int, WindowRequest]] = []

    def _join(self, request: SglangRequest, order: int, in_flight: int) -> None:
        super()._join(request, order, in_flight)
        joining = cast(WindowRequest, request)
        joining.joined = self.tick
        self.watch(joining)

    def watch(self, request: WindowRequest) -> None:
        """Have a member looked at when enough tokens have left its window."""
        heappush(self._sliding, (self._due(request), request.ticket, request))

    def _due(self, request: WindowRequest) -> int:
        outputs = request.slid + self._ahead - request.prompt_tokens
        return outputs - request.max_new_tokens + request.finish_tick

    def sliding(self) -> list[WindowRequest]:
        """Members that are due with the next step; whoever is to go on must be watched again."""
        found: list[WindowRequest] = []
        early: list[tuple[int, int, WindowRequest]] = []
        heap, known = self._sliding, self.known
        while heap and heap[0][0] <= known:
            entry = heappop(heap)
            request = entry[2]
            if request.ticket != entry[1]:
                continue
            if request.joined == self.tick:
                # Its prefill may be in flight, and read what would be given back.
                early.append(entry)
            elif self._due(request) > known:
                self.watch(request)
            else:
                found.append(request)
        for entry in early:
            heappush(heap, entry)
        return found

    @property
    def quiet_steps(self) -> int:
        """As the base class; nobody gives back windows either."""
        heap = self._sliding
        while heap and heap[0][2].ticket != heap[0][1]:
            heappop(heap)
        steps = super().quiet_steps
        return min(steps, heap[0][0] - self.known) if heap else steps
