"""A front end whose one thread takes requests in and hands tokens out: the way back from the engine, too.

vLLM's API server and SGLang's detokenizer and tokenizer manager hear of every step from the engine, one
message each, and work on every output in it (``output_s``: detokenizing, statistics). A task a request then
makes a chunk of what has come for its client and writes it to the connection (``chunk_s``: JSON, server-
sent events). The engine does not wait for either. A thread that is behind finds several messages at once,
and a stream has one slot, not a queue: its tokens of all of them leave as one chunk. So chunks bound
themselves (a round of ``n`` streams takes ``n * chunk_s``, however many steps it covers), work on outputs
does not: from ``output_s * n`` over a step on, what is behind grows.

Here the thread is one server, first come, first served: requests as of when they are sent, messages as of
when steps end; a message takes with it all those behind it that have come when its turn comes. Within a
round streams come in the order of the batch, the one that was let in first ahead. Costs are counted by
step, not by token: how many streams a round has follows from how many outputs each of its messages has, and
from how many of those are first ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from kvplan.engine.arrivals import Arrivals, Relayed
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.protocols import LatencyModel, StepBatch

_ROUNDING_S = 1e-9
_KEPT = 4096
"""Messages after which those are forgotten that nobody under way can have had a token of."""


class _Round:
    """Messages that are worked on at once, from ``begins_s`` on: their outputs, and the streams in them."""

    __slots__ = ("begins_s", "decodes", "outputs", "streams")

    def __init__(self, begins_s: float) -> None:
        self.begins_s = begins_s
        self.outputs = self.streams = 0
        self.decodes = False

    def join(self, outputs: int, first: int) -> None:
        """A message with so many outputs, ``first`` of them to streams that had none before."""
        self.outputs += outputs
        streams = outputs - first
        if self.decodes:
            # Whoever decodes is in the round since the message before.
            self.streams += first
            return
        # SGLang's prefills are steps of their own, and who was in one is in the decode step after it.
        self.streams = max(self.streams, streams) + first
        self.decodes = streams > 0


class Streamer(Relayed):
    """Requests reach the engine, and tokens their clients, when the front end's thread has worked on them.

    Latencies count from when requests were sent to when tokens are written.

    Args:
        inner: what clients send.
        service_s: seconds of work on a request with so many prompt tokens.
        output_s, chunk_s: seconds of work on an output of the engine, and on a chunk that a client is sent.

    Attributes:
        busy_s: seconds of the thread's work on messages.
        outputs, chunks: of those, what it worked on.
    """

    hears = True

    def __init__(
        self, inner: Arrivals, service_s: Callable[[int], float], output_s: float, chunk_s: float
    ) -> None:
        super().__init__(inner)
        self.streams = True
        self._service_s, self._output_s, self._chunk_s = service_s, output_s, chunk_s
        self._free_s = self._device_s = self._pushed_s = 0.0
        self._messages: deque[tuple[float, int, int]] = deque()
        self._round: _Round | None = None
        self._queue: deque[Request] = deque()
        self._ready: deque[Request] = deque()
        self._sent_s: dict[str, tuple[float, int]] = {}
        self._alive: list[int] = []
        self._begun_s: list[float] = []
        self._taken = self._ending = 0
        self._ending_s = -inf
        # Of every message heard: when its step ended; when its chunks begin, streams up to it, first ones.
        self._ended_s: list[float] = []
        self._written: list[tuple[float, int, int]] = []
        self.held_s = self.busy_s = 0.0
        self.outputs = self.chunks = 0

    # -- the engine's steps ------------------------------------------------------------------------------

    def stepped(self, seconds: float, batch: StepBatch, early_s: float) -> None:
        """See the base class."""
        begun_s = self._device_s if self._device_s > self._pushed_s else self._pushed_s
        self._device_s = begun_s + seconds
        outputs = batch.sampled_requests
        if outputs:
            first = outputs - batch.decode_requests if batch.prefill_chunks else 0
            self._messages.append((self._device_s - early_s, outputs, max(first, 0)))

    def passed(self, now: float) -> None:
        """See the base class."""
        messages, inner = self._messages, self.inner
        while True:
            ended_s = messages[0][0] if messages else inf
            sent_s = inner.next_s
            if sent_s <= ended_s:
                if sent_s > now:
                    break
                self._queue.append(inner.take())
                if self._round is None:
                    self._admit()
            elif ended_s > now:
                break
            else:
                self._hear(*messages.popleft())
        if self._round is not None and self._round.begins_s <= now:
            self._close()

    def _hear(self, ended_s: float, outputs: int, first: int) -> None:
        """A message's turn in time, not at the thread."""
        current = self._round
        if current is not None and ended_s > current.begins_s:
            self._close()
            current = None
        if current is None:
            current = self._round = _Round(max(self._free_s, ended_s))
        current.join(outputs, first)
        self._ended_s.append(ended_s)
        written_s = current.begins_s + self._output_s * current.outputs
        self._written.append((written_s, current.streams, first))

    def _close(self) -> None:
        """Nothing joins the round any more: what comes behind it has its turn."""
        current = self._round
        assert current is not None
        self._round = None
        work_s = self._work_s(current)
        self._free_s = current.begins_s + work_s
        self.busy_s += work_s
        self.outputs += current.outputs
        self.chunks += current.streams
        self._admit()

    def _work_s(self, current: _Round) -> float:
        return self._output_s * current.outputs + self._chunk_s * current.streams

    def _admit(self) -> None:
        """Requests whose turn has come, in the order in which they were sent."""
        while self._queue:
            request = self._queue.popleft()
            self._free_s = max(self._free_s, request.arrival_s) + self._service_s(request.prompt_tokens)
            self._sent_s[request.id] = (request.arrival_s, self._taken)
            self._taken += 1
            self._ready.append(request._replace(arrival_s=self._free_s))

    # -- requests ----------------------------------------------------------------------------------------

    @property
    def _behind_s(self) -> float:
        """When the thread is through with what is known of, at the earliest."""
        current = self._round
        return self._free_s if current is None else current.begins_s + self._work_s(current)

    @property
    def next_s(self) -> float:
        """See the base class; no later than it turns out to be, and sure once ``passed`` was told of it."""
        if self._ready:
            return self._ready[0].arrival_s
        if self._queue:
            head = self._queue[0]
            return max(self._behind_s, head.arrival_s) + self._service_s(head.prompt_tokens)
        sent_s = self.inner.next_s
        if sent_s == inf:
            return inf
        return max(self._behind_s, sent_s) + self._service_s(self.inner.next_prompt_tokens)

    @property
    def next_prompt_tokens(self) -> int:
        """See the base class."""
        waiting = self._ready or self._queue
        return waiting[0].prompt_tokens if waiting else self.inner.next_prompt_tokens

    @property
    def over(self) -> bool:
        """See the base class."""
        return not self._ready and not self._queue and self.inner.over

    def take(self) -> Request:
        """See the base class."""
        request = self._ready.popleft()
        self._pushed_s = request.arrival_s
        self._alive.append(self._sent_s[request.id][1])
        self._begun_s.append(request.arrival_s)
        return request

    def first_sent_s(self, request_id: str) -> float | None:
        """See the base class."""
        return self._sent_s[request_id][0]

    def delivered(self, request_id: str, first_s: float, finish_s: float) -> tuple[float, float]:
        """See the base class."""
        self.passed(finish_s)
        written_s, streams, first = self._of(first_s)
        seen_s = max(first_s, written_s + self._chunk_s * (streams - (first - 1) / 2 if first else streams))
        self.held_s = seen_s - first_s
        if finish_s == first_s:
            return seen_s, seen_s
        written_s, streams, _ = self._of(finish_s)
        if finish_s != self._ending_s:
            self._ending_s, self._ending = finish_s, 0
        # Whoever had the last token of the same step before it was ahead of it in the batch.
        self._ending += 1
        place = bisect_left(self._alive, self._sent_s[request_id][1]) + self._ending
        return seen_s, max(seen_s, finish_s, written_s + self._chunk_s * min(place, streams))

    def _of(self, time_s: float) -> tuple[float, int, int]:
        """What was written of the message of the step that ended then."""
        index = bisect_right(self._ended_s, time_s + _ROUNDING_S) - 1
        return self._written[index] if index >= 0 else (time_s, 0, 0)

    def answered(self, request_id: str, time_s: float) -> None:
        """See the base class."""
        self._leave(request_id)
        super().answered(request_id, time_s)

    def turned_away(self, request_id: str) -> None:
        """See the base class; the next one may have been sent since this one was."""
        self.answered(request_id, self._pushed_s)

    def _leave(self, request_id: str) -> None:
        _, number = self._sent_s.pop(request_id)
        index = bisect_left(self._alive, number)
        del self._alive[index], self._begun_s[index]
        if len(self._ended_s) > _KEPT:
            kept = (
                bisect_left(self._ended_s, self._begun_s[0]) - 1 if self._begun_s else len(self._ended_s) - 1
            )
            if kept > _KEPT // 2:
                del self._ended_s[:kept], self._written[:kept]


class Streamed:
    """A latency model that answers as ``model`` does, and tells a ``Streamer`` of every step.

    Args:
        stepped: told how long a step takes, and how much before its end outputs leave.
        early: outputs leave before drafts are made.

    Attributes:
        unheard: ``model``, for whoever asks what a step would take that is not taken.
    """

    def __init__(
        self, model: LatencyModel, stepped: Callable[[float, StepBatch, float], None], *, early: bool = False
    ) -> None:
        self.unheard = getattr(model, "unheard", model)
        answer = model.step_seconds

        def step_seconds(batch: StepBatch) -> float:
            seconds = answer(batch)
            stepped(seconds, batch, batch.drafting_s if early else 0.0)
            return seconds

        self.step_seconds = step_seconds
