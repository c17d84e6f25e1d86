"""A prefill server: computes prompts whose KV has room elsewhere, sends it, keeps it until it has come.

As ``disaggregation/prefill.py`` of 0.5.23, verified by recordings. Its loops look at what has been sent at
the end of a round, here at the beginning of the next: at the same time.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

from kvplan.engine.disaggregation.sglang.instance import SglangInstance
from kvplan.engine.disaggregation.sglang.options import METADATA_BUFFERS
from kvplan.engine.disaggregation.sglang.transit import (
    HandedRequest,
    HandedSglangRequest,
    Transit,
    transit_of,
)
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig, sglang_rejection
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.scheduler import SglangScheduler
from kvplan.traces.request import Request


class PrefillEvents(Protocol):
    """What others need to know; called during ``advance``, for things that happen at the time given."""

    def computed(self, transit: Transit, tokens: int, now: float) -> None:
        """KV of the prompt's first ``tokens`` tokens is there; whole pages of it are sent, the last one's
        rest with the end of the prompt."""
        ...


class PrefillScheduler(SglangScheduler):
    """Nobody decodes here: whose prompt is computed keeps it until it has been sent.

    Attributes:
        bootstrapping: requests that have no room elsewhere yet (the bootstrap queue).
        inflight: those that are being sent (``disagg_prefill_inflight_queue``).
        held: requests that hold KV, each a row of the request table.
    """

    request_type: type[SglangRequest] = HandedSglangRequest

    def __init__(
        self, config: SglangConfig, pool: TokenPool | None = None, *, keep_schedule: bool = False
    ) -> None:
        super().__init__(config, pool, keep_schedule=keep_schedule)
        self.open_queues()

    def open_queues(self) -> None:
        """Begin with nobody in the queues around the plain engine's."""
        self.bootstrapping: dict[HandedRequest, None] = {}
        self.inflight: dict[HandedRequest, None] = {}
        self.held = 0
        self.buffers = METADATA_BUFFERS * self.config.max_running_requests
        """Buffers for what goes along with a cache; one from the waiting queue until all is sent."""
        self._ready: list[tuple[int, HandedRequest]] = []
        self._sent: list[HandedRequest] = []
        self._numbered = 0

    def add(self, request: SglangRequest) -> None:
        """See the base class; it waits for room elsewhere first."""
        assert isinstance(request, HandedRequest)
        self._numbered = request.number = self._numbered + 1
        self.bootstrapping[request] = None

    def bootstrapped(self, request: HandedRequest) -> None:
        """A request has room elsewhere."""
        heappush(self._ready, (request.number, request))

    def sent(self, request: HandedRequest) -> None:
        """All KV of a request has come where it is decoded."""
        self._sent.append(request)

    @property
    def awaits(self) -> SglangRequest | None:
        """See the base class."""
        return super().awaits or next(iter(self.inflight), None) or next(iter(self.bootstrapping), None)

    @property
    def has_requests(self) -> bool:
        """See the base class."""
        return bool(self.awaits or self.last)

    @property
    def running(self) -> int:
        """See the base class."""
        return self.held

    def schedule(self) -> SglangPlan:
        """See the base class (``get_next_disagg_prefill_batch_to_run``, and the queues around it)."""
        self._let_go_of_sent()
        self._pop_bootstrapped()
        before = self.settle()
        continued = self.chunked is not None
        plan = self._prefill_batch(before) or self.new_plan()
        self.held += len(plan.extends) - (continued and bool(plan.extends))
        self.last = plan if plan.extends else None
        return plan

    def settle(self) -> SglangPlan | None:
        """See the base class (``process_prefill_chunk``); nobody joins a running batch."""
        chunked = self.chunked
        if chunked is not None:
            # Where the pool had nothing for it, too: what it has in the tree is used again.
            self.pool.checkpoint(chunked, chunked.computed)
            chunked.prefix = chunked.computed
        return None

    def _let_go_of_sent(self) -> None:
        """``process_disagg_prefill_inflight_queue``: what has come elsewhere stays in the tree only."""
        if not self._sent:
            return
        gone = {*self._sent}
        for request in [request for request in self.inflight if request in gone]:
            del self.inflight[request]
            self.pool.release(request)
            self.held -= 1
            self.buffers += 1
        self._sent = []

    def _pop_bootstrapped(self) -> None:
        """``pop_bootstrapped``: in the order in which they came, as far as there are buffers."""
        while self._ready and self.buffers:
            _, request = heappop(self._ready)
            self.buffers -= 1
            del self.bootstrapping[request]
            self.waiting.enter(request, self.processed)

    def _rows(self) -> int:
        """See the base class."""
        return self.config.max_running_requests - self.held + (self.chunked is not None)

    def deliver(self, plan: SglangPlan) -> list[SglangRequest]:
        """See the base class (``process_batch_result_disagg_prefill``); nobody finishes here."""
        for request, end in zip(plan.extends, plan.ends, strict=True):
            if request is plan.chunked:
                continue
            assert isinstance(request, HandedRequest)
            request.outputs = 1
            self.pool.checkpoint(request, end)
            self.inflight[request] = None
        return []


class PrefillReplica(SglangInstance):
    """One instance of the prefill pool.

    ``advance`` ends when something is sent: it may come, and let go of memory here, before the next batch.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents
    ) -> None:
        super().__init__(config, latency, recorder)
        self.events = events

    def make_scheduler(self) -> PrefillScheduler:
        """See the base class."""
        self.prefill = PrefillScheduler(self.config, keep_schedule=self.logging)
        return self.prefill

    @property
    def requests(self) -> int:
        """As the base class, with those that wait for room elsewhere (and are counted there as waiting)."""
        return super().requests + len(self.prefill.bootstrapping)

    def refusal(self, request: Request) -> str | None:
        """Why it could never serve a request, or ``None``."""
        return sglang_rejection(request.prompt_tokens, 1, self.config)

    def begins(self, plan: SglangPlan, start: float) -> None:
        """As the base class; what was cached is sent while the rest is computed
        (``maybe_send_cached_prefix_chunk``)."""
        for request in plan.extends:
            if request.prefix:
                self._computed(request, request.prefix, start)

    def deliver(self, plan: SglangPlan, clock: float) -> bool:
        """As the base class; chunks are sent when they are computed."""
        self.scheduler.deliver(plan)
        for request, end in zip(plan.extends, plan.ends, strict=True):
            transit_of(request).prefilled_s = clock  # the last chunk's stays
            self._computed(request, end, clock)
        return False

    def _computed(self, request: SglangRequest, tokens: int, now: float) -> None:
        self.events.computed(transit_of(request), tokens, now)
        self.stopped = True
