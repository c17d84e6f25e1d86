"""SGLang's scheduler, at a cost that does not grow with the batch.

Prefill comes first: as long as requests wait and fit, a step is a prefill batch, else one decode step of all
running requests. Decoding requests are advanced together (``DecodeBatch``); one by one they are looked at
only when they join, finish or are retracted.

Verified by recordings of 0.5.23's own methods, and held equal to a slow oracle (``reference.sglang``): what
the tree does, admission (``PrefillAdder``), chunked and mixed prefill, ``batch_is_full``, when is inserted,
retraction and preemption, ``new_token_ratio``, the queue with its orders and its limit. The event loops are
read from their source. Not covered: the ``ignore_eos`` estimate. Built on it: ``speculation.sglang``,
``sglang_states``, ``sglang_windows``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.sglang.admission import PrefillBudget, Verdict
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.decoding import Decoding
from kvplan.engine.sglang.live import DecodeBatch, SglangRequest, batch_order
from kvplan.engine.sglang.pause import PrefillPause
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.queue import WaitingQueue
from kvplan.engine.sglang.radix_tree import Holding

if TYPE_CHECKING:
    from kvplan.engine.sglang.prefix_radix import RadixNode
    from kvplan.traces.request import Request


class SglangScheduler(Decoding):
    """Queues and pool of one engine instance."""

    budget_type: type[PrefillBudget] = PrefillBudget
    request_type: type[SglangRequest] = SglangRequest

    def __init__(
        self, config: SglangConfig, pool: TokenPool | None = None, *, keep_schedule: bool = False
    ) -> None:
        self.config = config
        self.page = config.page_size
        self.overlap = not config.disable_overlap_schedule
        self.pool = TokenPool(config) if pool is None else pool
        self.waiting = WaitingQueue(config, self.pool)
        self.decoding = DecodeBatch(config.page_size, config.clip_max_new_tokens)
        self.left_over = 0
        """Requests that have finished in the running batch since the last step: they make room."""
        self.finishing = 0
        """Requests taken out of the running batch, as the output in flight is their last."""
        self.full = False
        """``batch_is_full``: no prefill is tried until a request has left the running batch."""
        self.chunked: SglangRequest | None = None
        self.last: SglangPlan | None = None
        """The batch before; with overlap its outputs are not known yet."""
        self.processed = 0
        """Prompt tokens computed so far, as ``hrrn`` counts them (``processed_tokens_counter``)."""
        self.begun_with = 0
        """Tokens of the prefill batch that the running batch was once: each step counts them again."""
        self.preempted = []
        self.sent_back: list[SglangRequest] = []
        """Who was preempted and is in no plan yet."""
        self.fresh: list[SglangRequest] = []
        """Members of the decode batch whose first output is in flight."""
        self.aborting: list[SglangRequest] = []
        """Running requests whose clients have given up: they finish with their next output."""
        self.ratio = config.initial_ratio
        # Options that follow from others, looked at with every step.
        self.least_ratio, self.ratio_decay = config.least_ratio, config.ratio_decay
        self.preempts, self.least_free = config.preempts, config.least_free
        self.pause = PrefillPause(config.prefill_decode_interval, config.prefill_decode_interval_min_bs)
        self.keep_schedule = keep_schedule
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.preemptions = 0

    def live(self, request: Request) -> SglangRequest:
        """What the engine keeps about a request that arrives."""
        return self.request_type(request)

    def add(self, request: SglangRequest) -> None:
        """Take in a new request."""
        self.waiting.enter(request, self.processed)

    def abort(self, request: SglangRequest) -> None:
        """Nobody waits for a request any more (``abort_request``): it leaves the queue, or what was computed
        of its prompt is dropped, or it finishes with its next output."""
        request.aborted = True
        if request.holding is None:
            self.waiting.remove(request)
        elif request is self.chunked:
            self.chunked = None
            self.pool.drop(request)
        else:
            self.aborting.append(request)

    @property
    def has_requests(self) -> bool:
        """Whether any request is unfinished or not yet taken out of the batch."""
        return bool(self.decoding.count or self.last or self.waiting or self.left_over or self.chunked)

    @property
    def queued(self) -> int:
        """Requests that are waiting."""
        return len(self.waiting)

    @property
    def awaits(self) -> SglangRequest | None:
        """A request that more rounds may bring on though none runs; None: there is none."""
        return self.chunked or (self.waiting[0] if self.waiting else None)

    @property
    def running(self) -> int:
        """Requests that hold KV, those of the batch just planned included."""
        extends = 0 if self.last is None else len(self.last.extends)
        return self.decoding.count + self.finishing + extends

    # -- schedule ---------------------------------------------------------------------------------------

    def schedule(self) -> SglangPlan:
        """Make the next batch (``get_next_batch_to_run``); it may be empty."""
        before = self.settle()
        return self.prefill(before) or self.decode(before)

    def settle(self) -> SglangPlan | None:
        """Who was prefilled or has finished joins or leaves the running batch; returns the batch before."""
        chunked = self.chunked
        if chunked is not None and chunked.computed > chunked.prefix:
            self.pool.checkpoint(chunked, chunked.computed)
            chunked.prefix = chunked.computed
        if self.fresh:
            self.fresh = []
        if self.last is not None and self.last.extends:
            self._merge(self.last)
        if self.left_over:
            self.full = False
            self.left_over = 0
        before, self.last = self.last, None
        return before

    def prefill(self, before: SglangPlan | None) -> SglangPlan | None:
        """A batch of prompts, if nothing holds them back; ``before`` is what ``settle`` returned."""
        plan = None if self.pause.holds(self.decoding.count) else self._prefill_batch(before)
        if plan is not None:
            self.pause.begin()
            self.last = plan
            self.processed += plan.batch.scheduled_tokens
            self._note_sent_back(plan)
        return plan

    def decode(self, before: SglangPlan | None) -> SglangPlan:
        """A batch of all that decode; it may be empty."""
        plan = self._decode_batch(before)
        self._note_sent_back(plan)
        if plan.batch.scheduled_tokens:
            self.last = plan
            self.processed += self.begun_with
        return plan

    def _note_sent_back(self, plan: SglangPlan) -> None:
        """The plan says who made room for somebody more important."""
        if self.sent_back:
            plan.retracted = [*self.sent_back, *plan.retracted]
            self.sent_back = []

    def idle(self) -> None:
        """Nothing is left to do: the estimate of answers starts over, and rounds take no time."""
        self.ratio = self.config.initial_ratio
        self.pause.end()

    def _merge(self, last: SglangPlan) -> None:
        """The prefilled requests join the running batch; ``left_over`` has none of them."""
        joining = [request for request in last.extends if request.holding and request is not last.chunked]
        in_flight = 1 if self.overlap else 0
        if last.decodes:
            # The mixed batch becomes the running batch as it is.
            self.begun_with = last.batch.scheduled_tokens
            self.decoding.prepend(joining, in_flight)
            self.full = False
            self.left_over = 0
            return
        if len(joining) < len(last.extends):
            self.full = False
        if joining:
            if not self.decoding.count and not self.left_over:
                self.full = False
                self.begun_with = last.batch.scheduled_tokens
            self.decoding.append(joining, in_flight)
            if in_flight:
                self.fresh = joining

    # -- prefill ----------------------------------------------------------------------------------------

    @property
    def shut(self) -> bool:
        """Whether nobody who waits is looked at before somebody who runs has left."""
        if self.full and not self.preempts:
            return True
        if not self.least_free or not self.decoding.count or self.chunked is not None:
            return False
        return self.config.max_running_requests - self.decoding.count < self.least_free

    def _prefill_batch(self, before: SglangPlan | None) -> SglangPlan | None:
        config, decoding, waiting = self.config, self.decoding, self.waiting
        if self.preempts or not decoding.count:
            self.full = False
        if (self.full or not waiting) and self.chunked is None:
            return None
        free = self._rows()
        if self.chunked is None:
            if decoding.count and free < self.least_free:
                return None
            if free <= 0 and not self.preempts:
                self.full = True
                return None
        waiting.sort(self.processed)
        in_batch = decoding.count
        budget = self.budget_type(
            config, self.pool, self.ratio, self._reserved(),
            in_batch if config.enable_mixed_chunk else 0,
            lambda: decoding.shares(self.ratio, {*self.fresh}),
        )  # fmt: skip
        extends: list[SglangRequest] = []
        if self.chunked is not None:
            self._go_on(self.chunked, budget, extends)
            if not extends:
                # Nothing is left for its next chunk, and it keeps its row.
                free -= 1
        budget.whole = config.schedule_policy == "shortest-prefill-first" and self.chunked is not None
        verdict = budget.verdict()
        while waiting and verdict is not Verdict.OTHER:
            if len(extends) >= free + len(self.preempted):
                self.full = True
            if self.full and not self._preempt(waiting[0], budget):
                break
            verdict = self._add_one(waiting[0], budget, extends)
            if waiting[0].holding is not None:
                waiting.take()
            if verdict is not Verdict.CONTINUE:
                if verdict is Verdict.NO_TOKEN:
                    self.full = bool(extends or decoding.count)
                break
        for request in self.preempted:
            waiting.enter(request, self.processed)
        self.sent_back += self.preempted
        self.preempted = []
        if not extends:
            return None
        plan = self.new_plan()
        plan.extends, plan.chunked = extends, self.chunked
        self._allocate_extend(plan)
        if config.enable_mixed_chunk and in_batch:
            self._leave_finishing(before)
            # Where the prefill has left no room, the decodes sit this step out.
            if decoding.count and self._decode_fits():
                self._decode(plan)
        return plan

    def _rows(self) -> int:
        """Rows of the request table for a prefill batch; a chunk that goes on brings its own along."""
        return self.config.max_running_requests - self.decoding.count

    def _go_on(self, request: SglangRequest, budget: PrefillBudget, extends: list[SglangRequest]) -> None:
        """The next chunk of the request in prefill, if the pool has anything for it."""
        left, room = request.tokens - request.prefix, budget.chunk_tokens
        assert room is not None
        most = self.waiting.chunk_limit(left, room, self.page)
        chunk = budget.chunk(left, request.max_new_tokens, most)
        if chunk:
            extends.append(request)
        request.computed = request.prefix + chunk
        if request.computed == request.tokens:
            self.chunked = None

    def _add_one(
        self, request: SglangRequest, budget: PrefillBudget, extends: list[SglangRequest]
    ) -> Verdict:
        """Take the request into the batch if it fits (``add_one_req``); it then has a ``holding``."""
        pool, tokens = self.pool, request.tokens
        tree = pool.tree
        hit, node = tree.match(request.content, pool.known(tokens - 1)) if pool.caching else (0, tree.root)
        # While it is held, the prefix does not count as evictable.
        tree.lock(node)
        request.missing = tokens - hit
        extend = budget.extend(tokens, hit, hit, request.max_new_tokens - request.outputs, extends)
        if isinstance(extend, Verdict):
            tree.unlock(node)
            return extend
        if request.cached_tokens < 0:
            request.cached_tokens = hit
            self.queried_tokens += tokens
            self.hit_tokens += hit
        return self._take_in(request, node, hit, extend, budget, extends)

    def _take_in(
        self, request: SglangRequest, node: RadixNode, cached: int, extend: int, budget: PrefillBudget,
        extends: list[SglangRequest],
    ) -> Verdict:  # fmt: skip
        """The request, which holds ``node`` with its cached tokens, is in the batch."""
        prompt, priority = self.pool.known(request.prompt_tokens), request.request.priority
        request.holding = Holding(request.content, prompt, priority, node, cached, cached)
        request.missing = request.tokens
        request.prefix = cached
        request.computed = computed = cached + extend
        extends.append(request)
        if computed < request.prompt_tokens + request.outputs:
            self.chunked = request
            budget.charge(extend, 0)
        else:
            answer, clip = request.max_new_tokens, budget.clip
            budget.charge(extend, answer if answer < clip else clip)
        return budget.verdict()

    def _allocate_extend(self, plan: SglangPlan) -> None:
        """Room for the chunks of a prefill batch."""
        page = self.page
        asked, needed = plan.extend(page)
        self.pool.take(needed, asked if page == 1 else asked + len(plan.extends) * page, "prefill")
        if self.keep_schedule:
            plan.scheduled.extend((request, request.computed - request.prefix) for request in plan.extends)

    # -- after the step ---------------------------------------------------------------------------------

    def deliver(self, plan: SglangPlan) -> list[SglangRequest]:
        """Take a batch's outputs: what was computed goes into the tree; returns who finished."""
        decoding = self.decoding
        finished: list[SglangRequest] = []
        for request, end in zip(plan.extends, plan.ends, strict=True):
            # What was retracted meanwhile (overlap) has lost its output.
            if request is plan.chunked or request.holding is None:
                continue
            # With overlap it may be in the decode batch already, which then counts its outputs.
            joined = request.ticket != 0
            if request.outputs + 1 < request.max_new_tokens and not request.aborted:
                request.outputs += 1
                self.pool.checkpoint(request, end)
                continue
            if joined:
                decoding.leave(request)
                self.left_over += 1
            request.outputs = request.max_new_tokens
            self.pool.release(request)
            finished.append(request)
        if plan.decodes:
            decoding.known = plan.tick
            ending = decoding.finishing(plan.tick)
            for request in self.aborting:
                if request.ticket:
                    decoding.leave(request)
                    ending.append(request)
            self.left_over += len(ending)
            ending += plan.leaving
            if self.aborting:
                ending.sort(key=batch_order)
            for request in ending:
                self.pool.release(request)
            finished += ending
        if self.aborting:
            self.aborting = [request for request in self.aborting if request.holding is not None]
        self.finishing = 0
        return finished
