"""One request inside the fast SGLang engine, and the batch that decodes in step."""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from kvplan.engine.content import Content
from kvplan.engine.sglang.radix_tree import Holding

if TYPE_CHECKING:
    from kvplan.engine.sglang.prefix_radix import RadixNode
    from kvplan.traces.request import Request


MIXED_IN: tuple[str, ...] = ()
"""Slots of a class that is mixed into others: none, as only one base of a class may have some."""


class SglangRequest:
    """Counters of one request. While it decodes in step its progress is ``base`` plus the shared tick, and
    ``computed`` and ``outputs`` are stale until ``DecodeBatch.leave`` writes them down.

    Attributes:
        content: its tokens, as the cache knows them; plain: as they are.
        computed: tokens with KV once the current step is done.
        prefix: tokens with KV before the current prefill step.
        outputs: answer tokens sampled so far.
        order: position in the running batch.
        finish_tick: the tick with which its last output comes.
        aborted: whether its client has given up.
        queued: position among all that have entered the queue, the last time it did.
        queued_after: prompt tokens computed before that, as ``hrrn`` counts them.
        missing: tokens of it that were not on the device when it was last looked at for a batch; all of them
            once it is in one, and 0 before.
    """

    __slots__ = (
        "aborted", "base", "cached_tokens", "computed", "content", "finish_tick", "first_token_s", "holding",
        "max_new_tokens", "missing", "order", "outputs", "plain", "preemptions", "prefix", "prompt_tokens",
        "queued", "queued_after", "request", "scheduled_s", "ticket",
    )  # fmt: skip

    def __init__(self, request: Request) -> None:
        self.request = request
        self.content = self.plain = Content(request.prompt, request.output)
        self.prompt_tokens = request.prompt_tokens
        self.max_new_tokens = request.output_tokens
        self.outputs = 0
        self.aborted = False
        self.holding: Holding[RadixNode, Content] | None = None
        self.prefix = 0
        self.computed = 0
        self.base = 0
        self.finish_tick = 0
        self.order = 0
        self.ticket = 0
        self.queued = self.queued_after = 0
        self.missing = 0
        self.cached_tokens = -1
        self.preemptions = 0
        self.scheduled_s = -1.0
        self.first_token_s = -1.0

    @property
    def tokens(self) -> int:
        """Known tokens: prompt and outputs."""
        return self.prompt_tokens + self.outputs

    @property
    def held(self) -> Holding[RadixNode, Content]:
        """What it has in pool and tree, while it has something."""
        assert self.holding is not None
        return self.holding


class DecodeBatch:
    """Requests that take one token each in every decode step, advanced together.

    Attributes:
        count: how many.
        tick: decode steps since the engine started.
        known: decode steps whose outputs are known: one fewer while a step is in flight.
        base_sum: context of a step = base_sum + count * tick.
        boundaries: how many members need a page in the next step, by ``tick % page_size``.
    """

    __slots__ = (
        "_calendar", "_far", "_near_count", "_near_finish_sum", "_tickets", "base_sum", "boundaries", "clip",
        "count", "first_order", "known", "last_order", "members", "page_size", "tick",
    )  # fmt: skip

    def __init__(self, page_size: int, clip: int) -> None:
        self.page_size = page_size
        self.clip = clip
        self.count = 0
        self.tick = 0
        self.known = 0
        self.base_sum = 0
        self.boundaries = [0] * page_size
        self.members: dict[SglangRequest, None] = {}
        self.first_order = self.last_order = 0
        self._calendar: list[tuple[int, int, SglangRequest]] = []
        self._tickets = 0
        # Members whose answer may still take more than the clip, and the sum over the others.
        self._far: list[tuple[int, int, SglangRequest]] = []
        self._near_count = 0
        self._near_finish_sum = 0

    def append(self, requests: list[SglangRequest], in_flight: int) -> None:
        """Prefilled requests join at the end; ``in_flight`` of their outputs (0 or 1) are not known yet."""
        for request in requests:
            self.last_order += 1
            self._join(request, self.last_order, in_flight)

    def prepend(self, requests: list[SglangRequest], in_flight: int) -> None:
        """They join at the beginning (a mixed batch: prefill first)."""
        for request in reversed(requests):
            self.first_order -= 1
            self._join(request, self.first_order, in_flight)

    def _join(self, request: SglangRequest, order: int, in_flight: int) -> None:
        tick = self.tick
        request.order = order
        request.base = request.computed - tick
        request.finish_tick = tick + request.max_new_tokens - request.outputs - in_flight
        self._tickets = request.ticket = self._tickets + 1
        self.count += 1
        self.base_sum += request.base
        self.boundaries[-request.base % self.page_size] += 1
        self.members[request] = None
        heappush(self._calendar, (request.finish_tick, request.ticket, request))
        self._settle_far()
        near_from = request.finish_tick - self.clip
        if near_from > self.known:
            heappush(self._far, (near_from, request.ticket, request))
        else:
            self._near_count += 1
            self._near_finish_sum += request.finish_tick

    def leave(self, request: SglangRequest) -> None:
        """Write the request's counters down, as far as they are known, and take it out."""
        self._settle_far()
        if request.finish_tick - self.clip <= self.known:
            self._near_count -= 1
            self._near_finish_sum -= request.finish_tick
        base = request.base
        request.computed = base + self.tick
        request.outputs = self.outputs_of(request)
        request.ticket = 0
        self.count -= 1
        self.base_sum -= base
        self.boundaries[-base % self.page_size] -= 1
        del self.members[request]

    def outputs_of(self, request: SglangRequest) -> int:
        """Outputs of a member, those of steps in flight left out."""
        outputs = request.max_new_tokens - (request.finish_tick - self.known)
        return outputs if outputs < request.max_new_tokens else request.max_new_tokens

    @property
    def tokens(self) -> int:
        """Prompts and answers of all members together, without outputs of steps in flight: a token more each
        than has KV. Who has just joined has none in flight."""
        return self.base_sum + self.count * (self.known + 1)

    @property
    def boundary_pages(self) -> int:
        """Pages the next decode step needs."""
        return self.boundaries[self.tick % self.page_size]

    @property
    def reserved(self) -> int:
        """Sum over the members of what their answers may still take, each clipped."""
        self._settle_far()
        near = self._near_finish_sum - self._near_count * self.known
        return near + (self.count - self._near_count) * self.clip

    def shares(self, ratio: float, fresh: Collection[SglangRequest]) -> float:
        """``ratio`` times what each member's answer may still take, added up in batch order; of the outputs
        of ``fresh`` members one more is not known."""
        total = 0.0
        for request in self.in_order():
            left = request.finish_tick - self.known + (request in fresh)
            total += min(left, self.clip) * ratio
        return total

    def _settle_far(self) -> None:
        far = self._far
        while far and far[0][0] <= self.known:
            _, ticket, request = heappop(far)
            if request.ticket == ticket:
                self._near_count += 1
                self._near_finish_sum += request.finish_tick

    def next_finish(self) -> int:
        """The tick with which the next member finishes; huge without members."""
        calendar = self._calendar
        while calendar and calendar[0][2].ticket != calendar[0][1]:
            heappop(calendar)
        return calendar[0][0] if calendar else 1 << 62

    @property
    def quiet_steps(self) -> int:
        """Steps before anything is due with a member."""
        return self.next_finish() - 1 - self.tick

    def finishing(self, tick: int) -> list[SglangRequest]:
        """Take out the members whose last output came with this tick, in batch order."""
        found: list[SglangRequest] = []
        while self.next_finish() <= tick:
            request = heappop(self._calendar)[2]
            self.leave(request)
            found.append(request)
        found.sort(key=batch_order)
        return found

    def in_order(self) -> list[SglangRequest]:
        """All members in batch order."""
        return sorted(self.members, key=batch_order)

    def reorder(self, requests: list[SglangRequest]) -> None:
        """Give the members, all of them listed, a new order."""
        for request in requests:
            self.last_order += 1
            request.order = self.last_order


def batch_order(request: SglangRequest) -> int:
    """Sort key: position in the running batch."""
    return request.order
