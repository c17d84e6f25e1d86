"""vLLM's scheduler with asynchronous loads (KV connectors, v1).

When a waiting request is looked at and part of its KV can be fetched, it gets blocks for what the device has
and for what comes, and leaves the scan, which goes on behind it. While it loads it

- holds its blocks: they cannot be evicted, and it cannot be preempted (only running requests are);
- takes no token of the step's budget and no place of ``max_num_seqs``, though it begins only while both are
  left;
- publishes nothing. When the scheduler hears that the fetch has ended (``replica`` says when) it is looked at
  before all requests that hold nothing; its full blocks are published when it is its turn, in a
  ``schedule()`` that lets requests in.

At least one token is computed: where everything is fetched, the last token is computed again. Hits on the
device are counted when the load begins; ``cached_tokens`` of its row has the fetched tokens too (vLLM's
``num_cached_tokens``), and it counts as scheduled when it is admitted to the running requests.

A load begins only if what it brings fits beside what the requests that compute their prompts, and the other
loads, still need (vLLM's ``_inflight_prefill_reserved_blocks``), and, where the engine reserves for whole
prompts, all known tokens of the request fit into what is free, whatever others need. So there is no
deadlock in order of arrival: once nothing runs, every load but the last to begin has what it needs, and the
last one when all others are done. By priority, without that reserve, the last one may stand first, and
nobody passes it: vLLM hangs until a client gives up.

With overlapping steps (async scheduling, vLLM's default) a load could write into blocks that a step in flight
still writes. So no blocks are given back under a step, whether or not anything is ever loaded (vLLM's
``defer_block_free``, for connectors that load):

- Who is computed in the step in flight is not preempted. Whoever lacks blocks then, and all behind it, go
  without a token; the next step, in which they were not, may preempt them. Waiting requests are looked at,
  as in every step in which nobody was preempted.
- A running request whose client gives up leaves at once. Its blocks, which others may hit all the while, are
  released when the last step planned before has ended, ahead of those of requests that finish with it.

Requests that finish are in no later step, and who loads is in none: their blocks are free as ever.
"""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.remote.plan import FencedPlan, RemotePlan, carries
from kvplan.engine.remote.queue import Load, LoadingQueue, Transfer
from kvplan.engine.remote.source import KvSource
from kvplan.engine.scheduler_vllm import VllmScheduler

LATER = -1


class RemoteScheduler(VllmScheduler):
    """See the module.

    Attributes:
        begun: loads that began and whose fetch nobody has started yet (the replica does, it has the clock).
        come: transfers that have ended and that no worker has found yet.
        aside: waiting requests that hold nothing and were passed over (vLLM's ``deferred_waiting``).
        loads: how many began; fetched_tokens: what they brought or will bring.
        undelivered: steps planned and not delivered, in order, while a request is aborted.
        fenced: requests that are gone, and the steps whose ends their blocks wait for.
    """

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        *,
        keep_schedule: bool = False,
    ) -> None:
        super().__init__(config, keep_schedule=keep_schedule)
        self.connect(source)

    def connect(self, source: KvSource) -> None:
        """Make it a scheduler that loads from ``source``; called once, when it is otherwise complete."""
        self.source = source
        self.queue = LoadingQueue(self.config.policy)
        self.waiting = self.queue
        self.begun: list[Load] = []
        self.come: list[Transfer] = []
        self.aside: dict[LiveRequest, None] = {}
        self.loads = 0
        self.fetched_tokens = 0
        self.undelivered: tuple[StepPlan, ...] = ()
        self.fenced: dict[LiveRequest, FencedPlan] = {}

    @property
    def room(self) -> int:
        """Places that whoever loads, or computes its prompt, needs beyond the tokens it knows."""
        return 0

    def new_plan(self) -> StepPlan:
        """With overlapping steps, one that blocks may have to wait for."""
        return FencedPlan() if self.config.async_scheduling else RemotePlan()

    def undecided(self) -> bool:
        """As the base class; a step whose workers find something is not one of many."""
        return bool(self.come) or super().undecided()

    def preemptible(self, request: LiveRequest) -> bool:
        """See the base class."""
        return not self.in_flight or not carries(self.last_plan, request)

    def _admit_waiting(self, plan: StepPlan, budget: int, threshold: int, defer_prefills: bool) -> None:
        """As the base class; loads that have come are admitted first, others may begin."""
        config, queue, size = self.config, self.queue, self.block_size
        skipped: list[LiveRequest] = []
        while budget > 0 and queue.items and len(self.running) < config.max_num_seqs:
            request = queue.head()
            if request.stale:
                skipped.append(queue.pop())
                self.aside[request] = None
                continue
            if self.blocked is not None and self.blocked == (request, self.version):
                break
            match: Match | None = None
            start = request.computed
            if queue.loaded:
                self._settle(queue.loaded[0][4])
            else:
                match = self._match(request)
                start = match.blocks * size
                fetched = self.fetchable(request, start)
                if fetched < 0:
                    skipped.append(queue.pop())
                    self.aside[request] = None
                    continue
                if fetched:
                    if not self._fits_load(request, match, fetched):
                        break
                    queue.pop()
                    self.begin_load(request, match, fetched)
                    continue
            tokens = self._first_chunk(request, start, budget, threshold, defer_prefills)
            if not tokens:
                break
            if tokens < 0:
                if match is None:
                    queue.postpone()
                    self.aside.pop(request, None)
                else:
                    skipped.append(queue.pop())
                continue
            if match is None:
                if not self._fits_loaded(request, tokens):
                    break
                queue.pop()
                self._admit_loaded(plan, request, tokens)
            else:
                if not self._fits(request, match, tokens):
                    break
                queue.pop()
                self._admit(plan, request, match, tokens)
            budget -= tokens + self.draft_slots
        queue.recall()
        for request in reversed(skipped):
            queue.push_front(request)

    def left_over(self) -> bool:
        """As the base class; whoever was passed over, or has loaded, or does, is not counted."""
        return len(self.queue.plain) > len(self.aside)

    # -- a load begins ----------------------------------------------------------------------------------

    def fetchable(self, request: LiveRequest, start: int) -> int:
        """Tokens worth fetching: all known ones at most, and more than none that must be computed anyway.

        ``LATER``: the request is passed over, as it cannot be said yet.
        """
        tokens = min(self.source.lookup(request, start), request.num_tokens - start)
        return tokens if tokens > 0 and start < request.num_tokens - 1 else 0

    def _fits_load(self, request: LiveRequest, match: Match, fetched: int) -> bool:
        """Whether what is known fits, where that counts, and what comes, beside what others still need."""
        available = self.free_blocks - match.unheld + match.blocks - self.reserve
        if self.config.scheduler_reserve_full_isl and self._blocks(request) > available:
            if not match.open_end:
                self.blocked = (request, self.version)
            return False
        # What can be fetched may become less without anything that ``version`` counts.
        reserved = self._promised() - (-self.room // self.block_size)
        return match.blocks - (-fetched // self.block_size) <= available - reserved

    def _promised(self) -> int:
        """Blocks that requests need for tokens they know, and ``room``, and have no blocks for yet."""
        size, room = self.block_size, self.room
        holders = (*self.prefills, *self.queue.holders)
        return sum(max(0, -(-(request.num_tokens + room) // size) - request.blocks) for request in holders)

    def _blocks(self, request: LiveRequest) -> int:
        return -(-request.num_tokens // self.block_size)

    def begin_load(self, request: LiveRequest, match: Match, tokens: int) -> None:
        """It has been found to fit: the request leaves the scan and waits for ``tokens`` tokens."""
        start = match.blocks * self.block_size
        if self.caching and request.status is Status.WAITING:
            self.queried_tokens += request.num_tokens
            self.hit_tokens += start
        self.make_room(request, match, start + tokens)
        request.computed = start
        load = Load(self.loads, request, start, tokens)
        self.loads += 1
        self.fetched_tokens += tokens
        self.queue.begin(load)
        self.aside.pop(request, None)
        self.begun.append(load)

    def make_room(self, request: LiveRequest, match: Match, tokens: int) -> None:
        """Blocks for the first ``tokens`` tokens of a request without any: what it hits, and new ones."""
        if self.caching:
            self.index.hold(request, match)
        request.blocks = -(-tokens // self.block_size)
        if request.blocks > match.blocks:
            self.index.take(request.blocks - match.blocks)

    def begin(self, plan: StepPlan, request: LiveRequest, hit_tokens: int, tokens: int) -> None:
        """As the base class."""
        self.aside.pop(request, None)
        super().begin(plan, request, hit_tokens, tokens)

    def abort(self, request: LiveRequest) -> None:
        """As the base class; what is on its way comes all the same, and its blocks are free only then."""
        self.aside.pop(request, None)
        if request.status is Status.RUNNING:
            fence = self._fence(request)
            if fence is None:
                super().abort(request)
                return
            self.take_out(request)
            del self.running[request]
            request.status = Status.FINISHED
            self.fenced[request] = fence
            # Or the step would not be delivered, if nothing else came of it.
            fence.samples[request] = None
            self.version += 1
            return
        self.version += 1
        self.queue.drop(request)
        request.status = Status.FINISHED
        if request not in self.queue.orphaned:
            self.give_back(request)

    def _leave(self, request: LiveRequest) -> None:
        self.aside.pop(request, None)
        super()._leave(request)

    # -- blocks that wait for a step's end ---------------------------------------------------------------

    def _fence(self, request: LiveRequest) -> FencedPlan | None:
        """The step after which a running request's blocks are free; None: at once."""
        if not any(carries(plan, request) for plan in self.undelivered):
            return None
        # vLLM waits for the last step planned, also where the request is not in that one any more.
        for plan in reversed(self.undelivered):
            if plan.batch.scheduled_tokens and isinstance(plan, FencedPlan):
                return plan
        return None

    def deliver(self, plan: StepPlan) -> None:
        """As the base class; first of all, blocks are free that waited for the step's end.

        Last of all, its workers tell which loads they found.
        """
        if self.fenced:
            self.version += 1
            for request in [gone for gone, fence in self.fenced.items() if fence is plan]:
                del self.fenced[request]
                self.give_back_late(request)
        super().deliver(plan)
        if isinstance(plan, RemotePlan):
            for transfer in plan.told:
                self.heard(transfer)

    def give_back_late(self, request: LiveRequest) -> None:
        """Give back all blocks of a request that is gone and that waited for a step's end."""
        self.give_back(request)

    # -- a load has come --------------------------------------------------------------------------------

    def tell(self, plan: StepPlan) -> None:
        """The step's workers look for loads that have come."""
        if self.come and isinstance(plan, RemotePlan):
            plan.told = tuple(self.come)
            self.come.clear()

    def notice(self) -> None:
        """The workers of an engine that has nothing else to do tell at once."""
        come, self.come = self.come, []
        for transfer in come:
            self.heard(transfer)

    def heard(self, transfer: Transfer) -> None:
        """A transfer has ended: a load, unless a subclass has others."""
        assert isinstance(transfer, Load)
        self.arrived(transfer)

    def arrived(self, load: Load) -> None:
        """The KV is on the device: look at the request again."""
        request = load.request
        if request in self.queue.orphaned:
            del self.queue.orphaned[request]
            self.version += 1
            self.give_back(request)
            return
        # With all known tokens there, the last one is computed again: it gives the next output.
        request.computed = min(load.start + load.tokens, request.num_tokens - 1)
        self.version += 1
        self.queue.arrived(load)

    def _settle(self, load: Load) -> None:
        """It is the turn of a load that has come: others can find it."""
        if not load.settled:
            load.settled = True
            if self.caching:
                self.publish_until(load.request, load.start + load.tokens)

    def _fits_loaded(self, request: LiveRequest, tokens: int) -> bool:
        """``allocate_slots`` for a request with blocks of its own."""
        available = self.free_blocks + request.blocks - self.reserve
        if self.config.scheduler_reserve_full_isl and self._blocks(request) > available:
            self.blocked = (request, self.version)
            return False
        return self.blocks_of(request.computed + tokens) <= available

    def _admit_loaded(self, plan: StepPlan, request: LiveRequest, tokens: int) -> None:
        before = request.computed
        request.computed += tokens
        blocks = self.blocks_of(request.computed)
        if blocks > request.blocks:
            self.index.take(blocks - request.blocks)
            request.blocks = blocks
        self.begin(plan, request, before, tokens)
