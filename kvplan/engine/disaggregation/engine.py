"""Both pools on one clock.

Instances act one after the other, always the one that can first be noticed by others (``next_s``), and no
further than to where another one, an arrival or an event could be noticed by it. So whatever reaches an
instance at time t meets it with every step planned before t and none after. What an instance brings about
when it plans a step is therefore done at once; what a step brings when it ends is an event, as others may
come before that. Parts of a prompt that stream out reach nobody until the last one has come: they wait in a
queue of their own and take their turn on the links when somebody looks at these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import inf, nextafter

from kvplan.engine.after_arrivals import AfterArrivals
from kvplan.engine.arrivals import Arrivals, arrivals_of
from kvplan.engine.disaggregation.breakdown import Breakdown, link_metrics
from kvplan.engine.disaggregation.decode import DecodeReplica
from kvplan.engine.disaggregation.fabric import Fabric, Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import UNSET, Chunk, FirstToken, Journey
from kvplan.engine.disaggregation.pool import Pool
from kvplan.engine.disaggregation.prefill import PrefillReplica
from kvplan.engine.errors import EngineStuck
from kvplan.engine.live import LiveRequest
from kvplan.engine.recorder import Metric, Recorder, RequestRow, SeriesPoint
from kvplan.traces.request import Request

_SUMMED = (
    "steps", "preemptions", "evicted_blocks", "allocated_blocks", "peak_used_blocks", "peak_running",
    "peak_waiting",
)  # fmt: skip
_OF_PREFILL = ("queried_tokens", "hit_tokens")


class DisaggregatedEngine:
    """See the package.

    Rows go to the one recorder, one a request; ``cached_tokens`` are those the prefill instance found.
    Decision lines carry ``P`` or ``D``, the instance's number and a tab in front. Totals are sums over all
    instances (peaks: of their own peaks), but tokens queried and hit are those of the prefill pool: what the
    decode pool finds in its caches saves no computing, only bytes to send.

    Args:
        prefill, decode: the pools.
        route: stages from a prefill to a decode instance.
        layers: pieces a step's KV is sent in while it is computed; 0: the whole cache is sent when the prompt
            is computed.
        block_bytes: KV bytes of one block, all layers and ranks together, as stored.
        handover: of prompts that a prefill instance would preempt while they end.
    """

    def __init__(
        self,
        prefill: Pool,
        decode: Pool,
        recorder: Recorder,
        *,
        route: tuple[Stage, ...],
        layers: int,
        block_bytes: int,
        first_token: FirstToken,
        handover: Handover = Handover.KEPT,
    ) -> None:
        self.recorder = recorder
        self.handover = handover
        self.pools = prefill, decode
        self.layers = layers
        self.block_bytes = block_bytes
        self.first_token = first_token
        self.block_size = prefill.config.block_size
        self.prefills = [
            self.prefill_instance(prefill, self._recorder_of("P", index))
            for index in range(prefill.instances)
        ]
        self.decodes = [
            self.decode_instance(decode, self._recorder_of("D", index)) for index in range(decode.instances)
        ]
        self.fabric = Fabric(route, prefill.instances, decode.instances)
        self.breakdown = Breakdown(first_token)
        self.kept_blocks = 0
        self._events: list[tuple[float, int, Callable[[Journey, float], None], Journey]] = []
        self._streamed: list[tuple[float, int, Journey, int, int, int, float]] = []
        self._posted = 0
        self._points: AfterArrivals | None = None
        self._touched = True

    def prefill_instance(self, pool: Pool, recorder: Recorder) -> PrefillReplica:
        """One instance of the prefill pool."""
        return PrefillReplica(
            pool.config, pool.latency, recorder, self, layers=bool(self.layers), handover=self.handover
        )

    def decode_instance(self, pool: Pool, recorder: Recorder) -> DecodeReplica:
        """One instance of the decode pool."""
        return DecodeReplica(pool.config, pool.latency, recorder, self)

    def _recorder_of(self, kind: str, index: int) -> Recorder:
        log = self.recorder.on_decision
        return Recorder(
            on_decision=None if log is None else (lambda line: log(f"{kind}{index}\t{line}")),
            series=False,  # it is that of all instances together
        )

    # -- order ------------------------------------------------------------------------------------------

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, which arrive in the order given."""
        recorder = self.recorder
        arrivals = arrivals_of(requests, recorder)
        begun_s = arrivals.next_s
        number = 0
        events = self._events
        actors: list[PrefillReplica | DecodeReplica] = [*self.prefills, *self.decodes]
        for decode in self.decodes:
            decode.stops = arrivals.waits
        noticed: list[float] = []
        while True:
            event_s = events[0][0] if events else inf
            arrival_s = arrivals.next_s
            due = event_s if event_s < arrival_s else arrival_s
            if self._touched:
                self._touched = False
                noticed = [actor.next_s for actor in actors]
            first = min(noticed)
            if first < due:
                index = noticed.index(first)
                noticed[index] = inf
                horizon = min(noticed)
                if due < horizon:
                    horizon = due
                actor = actors[index]
                actor.advance(horizon if horizon > first else nextafter(first, inf))
                noticed[index] = actor.next_s
                continue
            if due == inf:
                break
            self._touched = True
            if event_s <= arrival_s:
                time_s, posted, act, journey = heappop(events)
                self._stream(time_s, posted)
                act(journey, time_s)
            else:
                journey = self._arrive(arrivals.take(), number)
                number += 1
                if arrivals.over:
                    self._points = AfterArrivals(number, begun_s, arrival_s)
                    self._expect_point(journey)
        for decode in self.decodes:
            decode.advance(inf)
        for replica in actors:
            if replica.scheduler.has_requests:
                raise EngineStuck(replica.clock, replica.some_request())
        recorder.settle()
        if recorder.series:
            recorder.point(self._point(max(recorder.series[-1].t_s, recorder.totals.makespan_s)))

    def _post(self, time_s: float, act: Callable[[Journey, float], None], journey: Journey) -> None:
        heappush(self._events, (time_s, self._posted, act, journey))
        self._posted += 1

    # -- a request's way --------------------------------------------------------------------------------

    def _expect_point(self, journey: Journey) -> None:
        assert self._points is not None
        self._post(self._points.next_s(self.recorder.series_stride), self._sample, journey)

    def _sample(self, journey: Journey, now: float) -> None:
        """A point of the series after the last arrival, and the next one while anything goes on."""
        for decode in self.decodes:
            decode.catch_up(now)
        decoding = any(decode.scheduler.running or decode.in_flight for decode in self.decodes)
        actors: list[PrefillReplica | DecodeReplica] = [*self.prefills, *self.decodes]
        if decoding or self._events or any(actor.next_s < inf for actor in actors):
            self.recorder.point(self._point(now))
            self._expect_point(journey)

    def _arrive(self, request: Request, number: int) -> Journey:
        recorder, now = self.recorder, request.arrival_s
        recorder.totals.requests += 1
        for prefill in self.prefills:
            prefill.catch_up(now)
        if recorder.wants_point(number):
            for decode in self.decodes:
                decode.catch_up(now)
            recorder.point(self._point(now))
        journey = Journey(request, -1)
        before = journey.before()
        reason = self._rejection(request, before)
        if reason is not None:
            recorder.rejected(request.id, reason)
            return journey
        journey.prefill = self.pools[0].router.choose(request, self.prefills)
        self.prefills[journey.prefill].push(before)
        return journey

    def _rejection(self, request: Request, before: Request) -> str | None:
        """Why one of the pools could never serve this request."""
        reason = self.decodes[0].refusal(request)
        if reason is not None:
            return reason if self.pools[0].config == self.pools[1].config else f"decode pool: {reason}"
        reason = self.prefills[0].refusal(before)
        return None if reason is None else f"prefill pool: {reason}"

    def scheduled(self, journey: Journey, now: float) -> None:
        """See ``PrefillEvents``: with streaming by layer the receiver is chosen when the sender begins."""
        if not self._ends_here(journey):
            self._offer(journey, now)

    def preempted(self, journey: Journey, now: float) -> None:
        """See ``PrefillEvents``: the receiver gives back what it reserved for what is gone."""
        self._stream(now, self._posted)
        journey.attempt += 1
        journey.chunks = []
        if journey.offered is None:
            return
        decode = self.decodes[journey.decode]
        decode.catch_up(now)
        decode.withdraw(journey.offered)
        journey.offered, journey.decode, journey.reserved_s = None, -1, UNSET
        self._touched = True

    def computed(
        self, journey: Journey, attempt: int, tokens: int, cached: int, begun: float, ended: float
    ) -> None:
        """See ``PrefillEvents``."""
        heappush(self._streamed, (ended, self._posted, journey, attempt, tokens, cached, begun))
        self._posted += 1

    def prefilled(self, journey: Journey, now: float) -> None:
        """See ``PrefillEvents``."""
        journey.prefilled_s = now
        if self.first_token is FirstToken.PREFILL:
            journey.first_token_s = now
        self._post(now, self._prefilled, journey)

    def reserved(self, journey: Journey, hit_blocks: int, refused: bool, now: float) -> None:
        """See ``DecodeEvents``."""
        self._stream(now, self._posted)
        journey.refused = refused
        journey.reserved_s = now
        journey.hit_blocks = journey.sent_blocks = hit_blocks
        self._send(journey)

    def finished(self, journey: Journey, request: LiveRequest, now: float) -> None:
        """See ``DecodeEvents``."""
        if self.first_token is FirstToken.DECODE:
            journey.first_token_s = request.first_token_s
        journey.preemptions += request.preemptions
        self.breakdown.add(journey, request.first_token_s)
        self._row(journey, now)
        journey.offered = None  # two that know each other would outlive the run's use for them

    def _row(self, journey: Journey, now: float) -> None:
        facts = journey.request
        self.recorder.finished(
            RequestRow(
                facts.id, facts.arrival_s, journey.scheduled_s, journey.first_token_s, now,
                facts.prompt_tokens, facts.output_tokens, journey.cached_tokens, journey.preemptions,
            )
        )  # fmt: skip

    # -- handing over -----------------------------------------------------------------------------------

    def _offer(self, journey: Journey, now: float) -> None:
        """Choose a decode instance and queue the request there."""
        for replica in self.decodes:
            replica.catch_up(now)
        facts = journey.after(now, self.first_token)
        journey.decode = self.pools[1].router.choose(facts, self.decodes)
        self.decodes[journey.decode].offer(journey, facts)
        self._touched = True

    def _stream(self, time_s: float, posted: int) -> None:
        """Every step's KV that has come by then, and before event number ``posted``, streams out."""
        streamed, layers = self._streamed, self.layers
        while streamed and streamed[0] < (time_s, posted):
            ended, _, journey, attempt, tokens, cached, begun = heappop(streamed)
            if attempt != journey.attempt:
                continue
            if cached:
                journey.chunks.append(Chunk(begun, begun, layers, cached // self.block_size, False))
            final = tokens >= journey.request.prompt_tokens
            blocks = self._prompt_blocks(journey) if final else tokens // self.block_size
            journey.chunks.append(Chunk(begun + (ended - begun) / layers, ended, layers, blocks, final))
            if journey.reserved_s >= 0:
                self._send(journey)

    def _prefilled(self, journey: Journey, now: float) -> None:
        if self._ends_here(journey):
            self._alone(journey, now)
            return
        if journey.held is None:
            journey.lost = True
            journey.reserved_s = journey.arrived_s = now
            self._offer(journey, now)
        elif not self.layers:
            journey.chunks.append(Chunk(now, now, 1, self._prompt_blocks(journey), True))
            self._offer(journey, now)

    def _alone(self, journey: Journey, now: float) -> None:
        """One token was asked for, and the client has it."""
        if journey.held is not None:
            prefill = self.prefills[journey.prefill]
            prefill.catch_up(now)
            prefill.release(journey.held)
        self.breakdown.alone += 1
        self._row(journey, now)

    def _send(self, journey: Journey) -> None:
        """Send what is computed, if the receiver has blocks for it."""
        ready, fabric = journey.reserved_s, self.fabric
        if ready < 0:
            return
        for first, last, pieces, upto, final in journey.chunks:
            blocks = max(0, upto - journey.sent_blocks)
            done = fabric.send(
                journey.prefill,
                journey.decode,
                blocks * self.block_bytes,
                first if first > ready else ready,
                last if last > ready else ready,
                pieces,
            )
            if final:
                self.kept_blocks += journey.hit_blocks
                self._post(done, self._arrived, journey)
            journey.sent_blocks += blocks
        journey.chunks.clear()

    def _arrived(self, journey: Journey, now: float) -> None:
        """All of it is there: the sender's blocks are free, the receiver decodes."""
        journey.arrived_s = now
        prefill, decode = self.prefills[journey.prefill], self.decodes[journey.decode]
        assert journey.held is not None
        assert journey.offered is not None
        prefill.catch_up(now)
        prefill.release(journey.held)
        journey.held = None
        decode.catch_up(now)
        decode.arrived(journey.offered, now)

    def _ends_here(self, journey: Journey) -> bool:
        """Whether the token that the prefill instance samples is the last one."""
        return self.first_token is FirstToken.PREFILL and journey.request.output_tokens == 1

    def _prompt_blocks(self, journey: Journey) -> int:
        return -(-journey.request.prompt_tokens // self.block_size)

    # -- what is written down ---------------------------------------------------------------------------

    def _point(self, now: float) -> SeriesPoint:
        replicas = (*self.prefills, *self.decodes)
        schedulers = [replica.scheduler for replica in replicas]
        return SeriesPoint(
            now,
            sum(replica.used_blocks for replica in replicas),
            sum(scheduler.pool.cached for scheduler in schedulers),
            sum(len(scheduler.running) for scheduler in schedulers),
            sum(len(scheduler.waiting) for scheduler in schedulers),
            sum(prefill.scheduler.queried_tokens for prefill in self.prefills),
            sum(prefill.scheduler.hit_tokens for prefill in self.prefills),
            sum(scheduler.preemptions for scheduler in schedulers),
        )

    def close(self) -> None:
        """Bring totals and metrics up to date; also after an interrupted run."""
        totals = self.recorder.totals
        replicas = (*self.prefills, *self.decodes)
        for replica in replicas:
            replica.close()
        for name in _SUMMED:
            setattr(totals, name, sum(getattr(replica.recorder.totals, name) for replica in replicas))
        for name in _OF_PREFILL:
            setattr(totals, name, sum(getattr(prefill.recorder.totals, name) for prefill in self.prefills))
        self.recorder.settle()
        self.recorder.sections["disaggregation"] = list(self._metrics())

    def _metrics(self) -> Iterable[Metric]:
        yield from self.breakdown.metrics()
        yield from link_metrics(
            self.fabric, self.recorder.totals.makespan_s, self.kept_blocks * self.block_bytes
        )
        stalled = sum(prefill.stalled_s for prefill in self.prefills)
        yield Metric(
            "prefill_stalled", stalled, "s",
            "prefill instances had requests and no blocks for them, because computed ones were not yet sent",
        )  # fmt: skip
        held = sum(prefill.peak_held for prefill in self.prefills)
        yield Metric("prefill_peak_held", held, "requests", "computed and not yet sent; sum of peaks")
        for name, pool in (("prefill", self.prefills), ("decode", self.decodes)):
            for field, unit, meaning in (
                ("peak_used_blocks", "blocks", "referenced blocks; sum of the instances' peaks"),
                ("preemptions", "1", "requests preempted"),
                ("steps", "1", "engine steps"),
            ):
                value = sum(getattr(replica.recorder.totals, field) for replica in pool)
                yield Metric(f"{name}_{field}", value, unit, f"{meaning}, {name} pool")
