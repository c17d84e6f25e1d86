"""A decode server: reserves KV for prompts, waits until it has come, and decodes.

As ``disaggregation/decode.py`` of 0.5.23, verified by recordings. What is held for requests on their way
cannot be taken back, so what runs must be able to go on without it: every request that runs or will has
``num_reserved_decode_tokens``, and the longest one its whole answer, once all others were retracted.

Where the next step finds no memory while the batch in flight ends somebody, it is meant to wait for that
(``update_running_batch``); 0.5.23's loop for disaggregation stops with an error, which is not simulated. With
drafts (``speculation.sglang.pools``) that is more often so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from kvplan.engine.disaggregation.sglang.instance import SglangInstance
from kvplan.engine.disaggregation.sglang.options import METADATA_BUFFERS, DecodeOptions
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
from kvplan.engine.sglang.radix_tree import Holding
from kvplan.engine.sglang.scheduler import SglangScheduler
from kvplan.traces.request import Request


class DecodeEvents(Protocol):
    """What others need to know; called during ``advance``, for things that happen at the time given."""

    def reserved(self, transit: Transit, now: float) -> None:
        """There is room for the prompt's KV."""
        ...

    def finished(self, transit: Transit, now: float) -> None:
        """The last token was handed out."""
        ...

    def aborted(self, transit: Transit, now: float) -> None:
        """It is dropped: nothing more can be decoded of it beside what cannot be taken back."""
        ...


@dataclass(frozen=True, slots=True)
class Retractable:
    """What could be taken back from requests that run.

    Attributes:
        tokens: that they have.
        longest: that the longest of their answers may still take when all others are retracted; it may be
            negative.
    """

    tokens: int
    longest: int


class DecodeScheduler(SglangScheduler):
    """Nobody computes prompts here: the waiting queue has those whose KV is there, to join the batch.

    Attributes:
        expected: requests without room for their prompt (``DecodePreallocQueue``).
        coming: those whose KV is on its way (``DecodeTransferQueue``), and whether it has come.
        retracted: those whose KV lies in the host; they come first.
        reserved: those that got room in this call.
        handed_out: those whose first token left in this call; ended: those of them for which it was the last.
    """

    request_type: type[SglangRequest] = HandedSglangRequest

    def __init__(self, config: SglangConfig, options: DecodeOptions, *, keep_schedule: bool) -> None:
        super().__init__(config, keep_schedule=keep_schedule)
        self.open_queues(options)

    def open_queues(self, options: DecodeOptions) -> None:
        """Begin with nobody in the queues around the plain engine's."""
        config = self.config
        self.options = options
        self.expected: deque[HandedRequest] = deque()
        self.coming: dict[HandedRequest, bool] = {}
        self.retracted: list[SglangRequest] = []
        self.reserved: list[HandedRequest] = []
        self.handed_out: list[SglangRequest] = []
        self.ended: list[SglangRequest] = []
        self.rows = config.max_running_requests + options.extra_slots
        """Free rows of the request table."""
        self.buffers = METADATA_BUFFERS * config.max_running_requests
        """Free buffers for what comes along with a cache."""
        self.looks = 0
        self._come = 0
        self._gone: list[SglangRequest] = []
        self._joined: list[SglangRequest] = []

    def add(self, request: SglangRequest) -> None:
        """See the base class; it waits for room."""
        assert isinstance(request, HandedRequest)
        request.looked = self.looks
        self.expected.append(request)

    def arrived(self, request: HandedRequest) -> None:
        """All KV of a request has come."""
        self.coming[request] = True
        self._come += 1

    @property
    def queued(self) -> int:
        """See the base class."""
        return len(self.expected) + len(self.retracted) + len(self.waiting) + len(self.coming)

    @property
    def awaits(self) -> SglangRequest | None:
        """See the base class."""
        return super().awaits or next(
            iter(self.retracted), next(iter(self.coming), next(iter(self.expected), None))
        )

    @property
    def has_requests(self) -> bool:
        """See the base class."""
        return bool(self.awaits or self.decoding.count or self.left_over or self.last)

    @property
    def blocked(self) -> bool:
        """Whether nothing that waits can move before something comes or somebody finishes."""
        if self.retracted or self._come:
            return False
        if self.waiting and self.decoding.count < self.config.max_running_requests:
            return False
        return not (self.expected and self.rows and self.buffers)

    def never_fits(self, request: Request) -> bool:
        """Whether not even an empty server has what is asked for before a prompt's KV is reserved."""
        return self.options.never_fits(request.prompt_tokens, request.output_tokens, self.config)

    # -- queues -----------------------------------------------------------------------------------------

    def schedule(self) -> SglangPlan:
        """See the base class (``process_decode_queue``, ``get_next_disagg_decode_batch_to_run``)."""
        self.looks += 1
        self.reserved, self.handed_out, self.ended = [], [], []
        if self.retracted:
            self._resume()
        if not self.retracted:
            if self.expected:
                self._preallocate()
            if self._come:
                self._take_transferred()
        self._joined = []
        if self.waiting:
            self._join_batch()
        self.left_over = 0
        before, self.last = self.last, None
        plan = self._decode_batch(before)
        self._gone = []
        plan.ended = self.ended
        if plan.batch.scheduled_tokens:
            self.last = plan
        return plan

    def _resume(self) -> None:
        """``resume_retracted_reqs``: in order, as far as there is memory for them and for decoding on."""
        resumed = 0
        for request in self.retracted:
            if not self.rows or not self._resumes(request, resumed):
                break
            resumed += 1
            self._allocate(request, request.tokens - 1)
        for request in self.retracted[:resumed]:
            self.waiting.enter(request, self.processed)
        del self.retracted[:resumed]

    def _resumes(self, request: SglangRequest, more: int) -> bool:
        """Whether what was retracted has room again, beside ``more`` that got some in this call."""
        tokens = self._pages(request.tokens - 1)
        return tokens + self.options.num_reserved_decode_tokens <= self._allocatable(more, 0)

    def _preallocate(self) -> None:
        """``pop_preallocated``: room for prompts, in the order in which they came."""
        running = self._retractable()
        while self.expected and self.buffers and self.rows:
            request = self.expected[0]
            if not self._admits(request, len(self.reserved), running):
                break
            self.expected.popleft()
            self._allocate(request, request.prompt_tokens)
            self.buffers -= 1
            self.reserved.append(request)
        self.coming.update(dict.fromkeys(self.reserved, False))

    def _retractable(self) -> Retractable:
        """What could be taken back from those that run; who has just finished is counted still."""
        decoding, clip = self.decoding, self.config.clip_max_new_tokens
        tokens = decoding.tokens + sum(request.tokens for request in self._gone)
        longest = max((_at_most(request, clip) for request in decoding.members), default=0) - tokens
        return Retractable(tokens, longest)

    def _admits(self, request: SglangRequest, more: int, running: Retractable) -> bool:
        """Whether there is room for a prompt, beside ``more`` that got some in this call."""
        tokens = self._pages(request.prompt_tokens)
        answer = _at_most(request, self.config.clip_max_new_tokens) - running.tokens
        needed = max(tokens + self.options.num_reserved_decode_tokens, answer)
        return needed <= self._allocatable(more, running.longest)

    def _allocatable(self, more: int, longest: int) -> int:
        """``_allocatable_token_budgets``: free tokens but those kept for requests that run or will.

        Args:
            more: requests that got room in this call.
            longest: tokens the longest answer may still take, all other requests retracted.
        """
        reserved = self.options.num_reserved_decode_tokens * self._active(more)
        return self._unreferenced() - max(reserved, longest)

    def _active(self, more: int) -> int:
        """Requests that run or will, ``more`` of them since this call (``_active_req_count``)."""
        return self.decoding.count + len(self._gone) + len(self.coming) + len(self.waiting) + more

    def _unreferenced(self) -> int:
        """Tokens that prompts can be given."""
        return self.pool.unreferenced

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self.page) * self.page

    def _allocate(self, request: SglangRequest, tokens: int) -> None:
        """``_pre_alloc``."""
        room = self._take(request, tokens)
        tree, known = self.pool.tree, self.pool.known(request.prompt_tokens)
        request.holding = Holding(request.content, known, request.request.priority, tree.root)
        request.holding.allocated = room
        request.computed = tokens
        self.rows -= 1

    def _take(self, request: SglangRequest, tokens: int) -> int:
        """Room for the first ``tokens`` tokens of a request; returns it, whole pages."""
        room = self._pages(tokens)
        self.pool.take(room, room, "preallocation")
        return room

    def _take_transferred(self) -> None:
        """``pop_transferred``: whose KV has come waits for a place in the batch, its first token known."""
        for request in [request for request, come in self.coming.items() if come]:
            del self.coming[request]
            request.outputs = 1
            self.buffers += 1
            self.waiting.enter(request, self.processed)
        self._come = 0

    def _join_batch(self) -> None:
        """``get_new_prebuilt_batch``: as many as may run; the first token is handed out."""
        places = self.config.max_running_requests - self.decoding.count - self.left_over
        taken = [self.waiting.take() for _ in range(min(places, len(self.waiting)))]
        for request in taken:
            self.pool.checkpoint(request, request.computed)
        joining: list[SglangRequest] = []
        for request in taken:
            if request.first_token_s < 0:
                self.handed_out.append(request)
            if request.outputs >= request.max_new_tokens:
                self._release(request)
                self.ended.append(request)
            else:
                joining.append(request)
        self.decoding.append(joining, 0)
        self._joined = joining

    def _release(self, request: SglangRequest) -> None:
        self.pool.release(request)
        self.rows += 1

    # -- decode -----------------------------------------------------------------------------------------

    def _finishes_in_flight(self) -> bool:
        """As the base class; who has finished with more drafts than were counted on is in that batch, too."""
        return super()._finishes_in_flight() or (self.overlap and bool(self._gone))

    def _known_outputs(self) -> dict[SglangRequest, int]:
        """As the base class; who has just joined has nothing in flight."""
        outputs = super()._known_outputs()
        ahead = self.decoding.tick - self.decoding.known
        for request in self._joined:
            outputs[request] += ahead
        return outputs

    def _let_go(self, request: SglangRequest, outputs: int, remaining: int) -> None:
        """As the base class; its KV is copied to the host."""
        super()._let_go(request, outputs, remaining)
        self.rows += 1

    def _requeue(self, retracted: list[SglangRequest]) -> None:
        """See the base class."""
        self.retracted.extend(retracted)

    def deliver(self, plan: SglangPlan) -> list[SglangRequest]:
        """See the base class."""
        finished = super().deliver(plan)
        self.rows += len(finished)
        left = {*plan.leaving}
        self._gone = [request for request in finished if request not in left]
        return finished


def _at_most(request: SglangRequest, clip: int) -> int:
    """Tokens of prompt and answer, the answer clipped."""
    return request.prompt_tokens + min(request.max_new_tokens, clip)


class DecodeReplica(SglangInstance):
    """One instance of the decode pool.

    ``advance`` ends when there is room for a prompt: who computes it may have waited.
    """

    def __init__(
        self,
        config: SglangConfig,
        options: DecodeOptions,
        latency: LatencyModel,
        recorder: Recorder,
        events: DecodeEvents,
    ) -> None:
        self.options = options
        super().__init__(config, latency, recorder)
        self.events = events

    def make_scheduler(self) -> DecodeScheduler:
        """See the base class."""
        self.decode = DecodeScheduler(self.config, self.options, keep_schedule=self.logging)
        return self.decode

    @property
    def noticeable(self) -> bool:
        """See the base class; clients that wait for answers wait for whatever it can do."""
        return bool(self.decode.expected or self.stops)

    def refusal(self, request: Request) -> str | None:
        """Why it could never serve a request, or ``None``."""
        reason = sglang_rejection(request.prompt_tokens, request.output_tokens, self.config)
        if reason is None and self.decode.never_fits(request):
            return "prompt and num_reserved_decode_tokens larger than the pool: it would wait for ever"
        return reason

    def coasted(self, done: int, taken: int) -> SglangPlan:
        """As the base class; whoever waits was refused in each of these steps."""
        self.decode.looks += done
        return super().coasted(done, taken)

    @property
    def waits(self) -> bool:
        """As the base class; whoever is in a queue may wait, too. The round that ends that refuses the others
        once more, so that steps passed by need not be counted as looks."""
        return not self.computes and not self.decode.left_over and self.decode.blocked

    def quiet(self) -> bool:
        """As the base class; nothing in the queues may move either."""
        scheduler = self.decode
        return bool(scheduler.decoding.count) and not scheduler.left_over and scheduler.blocked

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        """As the base class; others hear of what was found room for."""
        plan, clock = super()._plan(clock)
        scheduler = self.decode
        for request in scheduler.reserved:
            transit = request.transit
            transit.sent_pages = request.held.shared // scheduler.page
            transit.refused = scheduler.looks - request.looked > 1
            self.events.reserved(transit, clock)
            self.stopped = True
        for joined in scheduler.handed_out:
            joined.first_token_s = clock
        self._finish(scheduler.ended, clock)
        return plan, clock

    def _refuse(self, request: SglangRequest, clock: float) -> None:
        """As the base class; its whole way ends here."""
        self.events.aborted(transit_of(request), clock)
        self.stopped = self.stopped or self.stops

    def deliver(self, plan: SglangPlan, clock: float) -> bool:
        """As the base class; rows are written of whole ways, not of what happens here."""
        finished = self.scheduler.deliver(plan)
        self._finish(finished, clock)
        return bool(finished)

    def _finish(self, requests: Iterable[SglangRequest], clock: float) -> None:
        for request in requests:
            self.events.finished(transit_of(request), clock)
            self.stopped = self.stopped or self.stops
