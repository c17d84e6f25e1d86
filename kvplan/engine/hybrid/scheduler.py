"""vLLM's scheduler on a cache of several groups: who runs, and when, is decided as in the base class."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import cast

from kvplan.engine.chunking import boundary_aligned
from kvplan.engine.config import EngineConfig
from kvplan.engine.hybrid.cache import HybridCache
from kvplan.engine.hybrid.group import Hit
from kvplan.engine.hybrid.plan import HybridPlan
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.hybrid.rhythm import Beat, Rhythm
from kvplan.engine.hybrid.steady import HybridDecodes
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.scheduler_vllm import VllmScheduler
from kvplan.traces.request import Request


class HybridScheduler(VllmScheduler):
    """Queues and cache of one engine instance; ``block_size`` is the scheduler's, the groups' least
    common multiple."""

    def __init__(self, config: EngineConfig, *, keep_schedule: bool = False) -> None:
        super().__init__(config, keep_schedule=keep_schedule)
        self.block_size = config.hit_alignment
        self.cache = self.make_cache()
        self.pool = self.cache.pool
        self.steady = self.decodes = HybridDecodes(self.cache, self._closed)
        self._stateful = config.state_block_size is not None
        self._granted: dict[HybridRequest, int] = {}
        self._found = self.cache.no_hit
        self._blocked_until = self._blocked_stock = 0
        self._short: tuple[LiveRequest, int, int] | None = None
        """Whose first chunk would not reach a boundary, the ``version`` at which that was found, and the
        budget that was too small."""

    def make_cache(self) -> HybridCache:
        """What requests hold; for subclasses that keep it in another way."""
        return HybridCache(self.config)

    def live(self, request: Request) -> LiveRequest:
        """As the base class."""
        live = HybridRequest(request, self.index.root)
        self.cache.enter(live)
        return live

    def found_blocks(self, request: Request) -> int:
        """As the base class, in blocks of the scheduler."""
        return self.cache.lookup(cast(HybridRequest, self.live(request))).blocks if self.caching else 0

    def new_plan(self) -> StepPlan:
        """An empty plan that knows what is in flight one by one."""
        return HybridPlan()

    # -- schedule ---------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """As the base class."""
        flying = self._begin()
        plan = super().schedule()
        self._note_flights(plan, flying)
        return plan

    def proceed(self, in_flight: int) -> StepPlan | None:
        """As the base class."""
        flying = self._begin()
        plan = super().proceed(in_flight)
        if plan is not None:
            self._note_flights(plan, flying)
        return plan

    def _begin(self) -> StepPlan | None:
        self.cache.start_step()
        self._granted = {}
        self.decodes.left.clear()
        return self.last_plan

    def _note_flights(self, plan: StepPlan, flying: StepPlan | None) -> None:
        """What is now in flight, and with which step it will be delivered."""
        for request in self.decodes.left:
            # It left the others to be looked at one by one; its last token is in the step before.
            if flying is not None:
                granted = cast(HybridPlan, flying).granted
                granted[request] = granted.get(request, 0) + 1
        for request, tokens in self._granted.items():
            request.in_flight += tokens
        cast(HybridPlan, plan).granted = self._granted

    def undecided(self) -> bool:
        """As the base class; also where somebody needs a block, gives one back or publishes one."""
        if self.prefills:
            # A prompt that stops at a state to be kept leaves tokens to others.
            return self._stateful or super().undecided()
        self._look_again()
        return self.decodes.quiet_steps() < 1 or super().undecided()

    def wanted(self, request: LiveRequest, threshold: int, budget: int) -> int:
        """As the base class; recurrent states are kept at block boundaries only."""
        tokens = super().wanted(request, threshold, budget)
        return self.chunk(request, tokens, request.computed)

    def chunk(self, request: LiveRequest, tokens: int, start: int) -> int:
        """As the base class; recurrent states are kept at block boundaries only."""
        if not self._stateful:
            return tokens
        return boundary_aligned(cast(HybridRequest, request), tokens, start, self.config)

    def regular(self, plan: StepPlan, threshold: int, defer_prefills: bool) -> bool:
        """As the base class; if somebody finds no room, those before it in line have theirs already."""
        decodes = self.decodes
        count = decodes.count
        budget = self.config.max_num_batched_tokens - count
        if budget < 0:
            return False
        found = self.chunks(budget, threshold) if self.prefills and not defer_prefills else []
        if found is None:
            return False
        chunks = {cast(HybridRequest, request): tokens for request, tokens, _ in found}
        if chunks and not self.tail_prefills:
            self.take_turns()
        due = decodes.looks() if count else []
        beats = decodes.beats() if count else []
        looked: list[HybridRequest] = [*due, *chunks]
        if len(looked) > 1:
            looked.sort(key=_order)
        if not self._supply(looked, chunks, beats):
            decodes.retry(due)
            return False
        if self.keep_schedule:
            self._log_regular(plan, cast(dict[LiveRequest, int], chunks))
        if count:
            decodes.tick += 1
            batch = plan.batch
            batch.scheduled_tokens = batch.decode_requests = batch.sampled_requests = count
            batch.decode_context = batch.decode_kv_tokens = decodes.context()
        for request in looked:
            tokens = chunks.get(request)
            if tokens is None:
                if request.publishes:
                    self.publish_until(request, request.base + decodes.tick - decodes.lag)
                continue
            plan.add(request, request.computed, tokens)
            plan.carries_prefill = True
            request.computed += tokens
            self._granted[request] = tokens
            self.publish(request)
        decodes.looked(due)
        if decodes.next_finish() <= decodes.tick:
            for ending in decodes.due()[1]:
                decodes.leave(ending, 1)
                plan.finish.append(ending)
        return True

    def _supply(
        self, looked: list[HybridRequest], chunks: dict[HybridRequest, int], beats: Sequence[Beat]
    ) -> bool:
        """Give everybody the blocks of the next step, in the order of admission; False where they run out."""
        if not beats:
            return all(self._look(request, chunks.get(request)) for request in looked)
        rhythm, tick = self.decodes.rhythm, self.decodes.tick
        assert rhythm is not None
        if rhythm.needs[tick % rhythm.size] <= self.cache.pool.free and (
            not looked or looked[0].order > beats[-1][0]
        ):
            rhythm.step(tick)
            if not all(self._look(request, chunks.get(request)) for request in looked):
                self.decodes.retry(rhythm.break_off(beats, None, tick))
                return False
        else:
            line = [(request.order, request, None) for request in looked]
            turns = sorted([*line, *((beat[0], beat[1], beat) for beat in beats)], key=itemgetter(0))
            for place, (_, request, beat) in enumerate(turns):
                if beat is None:
                    fits = self._look(request, chunks.get(request))
                else:
                    fits = rhythm.play(beat, tick)
                if not fits:
                    played = [turn[2] for turn in turns[:place] if turn[2] is not None]
                    self.decodes.retry(rhythm.break_off(played, beat, tick))
                    return False
        return True

    def _look(self, request: HybridRequest, chunk: int | None) -> bool:
        """Give one request the blocks of the next step: for a chunk of its prompt, or for one token."""
        if chunk is not None:
            return self.cache.extend(request, request.computed, chunk, request.in_flight)
        decodes = self.decodes
        return self.cache.extend(request, request.base + decodes.tick, 1, decodes.in_flight_tokens(request))

    def close(self, request: LiveRequest) -> None:
        """As the base class, in every group."""
        self.cache.close(cast(HybridRequest, request))

    def _look_again(self) -> None:
        """Whether who did not fit may fit now.

        Nothing a blocked request would need gets less before something is published, released or admitted,
        except where blocks of what it hits were evicted: then it may hit less of what nobody holds.
        """
        if self.blocked is None:
            return
        pool = self.cache.pool
        if pool.free >= self._blocked_until or pool.evicted > self._blocked_stock:
            self.blocked = None

    def _closed(self, rhythm: Rhythm) -> int:
        """Steps that certainly let nobody in who waits, if there is nothing but the rhythm in them."""
        tick = self.decodes.tick
        if not self.waiting.items or len(self.running) >= self.config.max_num_seqs:
            return 1 << 62
        if self.blocked is None or self.blocked != (self.waiting.head(), self.version):
            return rhythm.next(tick) - tick
        pool = self.cache.pool
        return rhythm.steps_below(tick, self._blocked_until - pool.free, self._blocked_stock - pool.evicted)

    def take(self, blocks: int) -> int:
        """As the base class; they were taken step by step."""
        return self.decodes.most_used

    def allocate(self, request: LiveRequest, tokens: int) -> bool:
        """As the base class."""
        request = cast(HybridRequest, request)
        if not self.cache.extend(request, request.computed, tokens, request.in_flight):
            return False
        request.computed += tokens
        self._granted[request] = tokens
        self.publish(request)
        return True

    def publish_until(self, request: LiveRequest, tokens: int) -> None:
        """As the base class."""
        if self.caching and self.cache.publish(cast(HybridRequest, request), tokens):
            self.version += 1

    def publish(self, request: LiveRequest) -> None:
        """As the base class."""
        self.publish_until(request, min(request.computed, request.num_tokens))

    def give_back(self, request: LiveRequest) -> None:
        """As the base class."""
        self.cache.release(cast(HybridRequest, request))

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """As the base class."""
        self._granted.pop(cast(HybridRequest, request), None)
        super().preempt(request, taken_back)

    def _fall_into_step(self, request: LiveRequest) -> None:
        self.steady.join(request)

    def deliver(self, plan: StepPlan) -> None:
        """As the base class."""
        for request, tokens in cast(HybridPlan, plan).granted.items():
            request.in_flight -= tokens
        super().deliver(plan)

    # -- admission --------------------------------------------------------------------------------------

    def _admit_waiting(self, plan: StepPlan, budget: int, threshold: int, defer_prefills: bool) -> None:
        self._look_again()
        if not self._falls_short(budget):
            super()._admit_waiting(plan, budget, threshold, defer_prefills)

    def _falls_short(self, budget: int) -> bool:
        """Whether who waits at the head cannot reach a boundary with this budget, as it could not before.

        While nothing is published its hit can only get shorter, which leaves it more tokens to compute.
        """
        short, items = self._short, self.waiting.items
        return (
            short is not None
            and bool(items)
            and budget <= short[2]
            and self.version == short[1]
            and self.waiting.head() is short[0]
        )

    def _first_chunk(
        self, request: LiveRequest, start: int, budget: int, threshold: int, defer_prefills: bool
    ) -> int | None:
        tokens = super()._first_chunk(request, start, budget, threshold, defer_prefills)
        if tokens == 0 and not self._found.open_end:
            self._short = (request, self.version, budget)
        return tokens

    def _match(self, request: LiveRequest) -> Match:
        cache = self.cache
        return self._take(cache.lookup(cast(HybridRequest, request)) if self.caching else cache.no_hit)

    def _take(self, hit: Hit) -> Match:
        """What a look-up found is what the request will begin with."""
        self._found = hit
        match = Match()
        match.blocks = hit.blocks
        match.open_end = hit.open_end
        return match

    def _fits(self, request: LiveRequest, match: Match, tokens: int) -> bool:
        config, cache, hit = self.config, self.cache, self._found
        waiting = cast(HybridRequest, request)
        if config.scheduler_reserve_full_isl:
            needed = cache.needs(waiting, None, hit) + self.reserve
            if needed > cache.pool.free:
                if not match.open_end and not cache.begins_fresh(hit):
                    self.blocked = (request, self.version)
                    self._blocked_until = needed
                    self._blocked_stock = cache.pool.evicted + cache.sheltering(hit)
                return False
        return cache.needs(waiting, tokens, hit) + self.reserve <= cache.pool.free

    def _admit(self, plan: StepPlan, request: LiveRequest, match: Match, tokens: int) -> None:
        waiting, hit = cast(HybridRequest, request), self._found
        if self.caching and request.status is Status.WAITING:
            self.queried_tokens += request.num_tokens
            self.hit_tokens += hit.tokens
        self.cache.admit(waiting, tokens, hit)
        self.version += 1
        request.computed = hit.tokens + tokens
        self._granted[waiting] = tokens
        self.begin(plan, request, hit.tokens, tokens)


def _order(request: HybridRequest) -> int:
    return request.order
