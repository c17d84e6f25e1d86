"""vLLM's scheduler with its own connector for host memory (``OffloadingConnector``).

The package says what is stored and when; this is the scheduler's side of it, in the order of its calls.
"""

from __future__ import annotations

from kvplan.engine.blocks import BlockPool
from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.connector import ConnectorScheduler, in_order
from kvplan.engine.offloading.copies import SpanStore
from kvplan.engine.offloading.fence import Fence, FencedIndex
from kvplan.engine.offloading.spans import Span
from kvplan.engine.offloading.use import Use
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.remote.plan import BoardedPlan, FencedPlan
from kvplan.engine.remote.queue import Load, Transfer
from kvplan.engine.remote.scheduler import LATER
from kvplan.engine.remote.source import KvSource


class Offloaded:
    """What the connector knows of one request.

    Attributes:
        use: what it has done with the host's cache.
        whole: chunks that its prompt fills; offered: how many were stored, or need not be.
        refused: up to where they were offered when there was no room.
        loading: the chunks its load reads, if one is on its way; stores: those on their way.
        limit: tokens that are computed, once it is over.
    """

    __slots__ = ("fence", "limit", "loading", "offered", "refused", "stores", "use", "whole")

    def __init__(self, use: Use, whole: int) -> None:
        self.use = use
        self.whole = whole
        self.offered = self.refused = 0
        self.loading: Span | None = None
        self.stores: dict[SpanStore, None] = {}
        self.limit = 0
        self.fence: Fence | None = None

    @property
    def busy(self) -> bool:
        """Whether copies of it are on their way."""
        return bool(self.loading or self.stores)


class OffloadingScheduler(ConnectorScheduler):
    """See the module.

    Attributes:
        known: requests that are not over, or whose copies are not.
        behind: running requests with chunks of their prompt that were not offered yet, or refused.
    """

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        cache: HostCache,
        chunk_blocks: int,
        *,
        keep_schedule: bool = False,
    ) -> None:
        super().__init__(config, source, keep_schedule=keep_schedule)
        self.offload(cache, chunk_blocks)

    def offload(self, cache: HostCache, chunk_blocks: int) -> None:
        """Make it a scheduler that offloads to ``cache``; called once, when it is otherwise complete."""
        config = self.config
        self.index: FencedIndex = FencedIndex(config.block_size, BlockPool(config.usable_blocks))
        self.pool = self.index.pool
        self.cache = cache
        self.chunk_blocks = chunk_blocks
        self.chunk_tokens = chunk_blocks * config.block_size
        self.known: dict[LiveRequest, Offloaded] = {}
        self.behind: dict[LiveRequest, None] = {}
        self._tried = -1

    def new_plan(self) -> StepPlan:
        """One that knows whom it computes."""
        return FencedPlan() if self.config.async_scheduling else BoardedPlan()

    def undecided(self) -> bool:
        """As the base class; not while chunks may have to be stored, or blocks waited for."""
        return (
            bool(self.prefills or self.over or self.index.fences)
            or (bool(self.behind) and self.cache.version != self._tried)
            or (self._may_pass_over and bool(self.waiting.items))
            or super().undecided()
        )

    def add(self, request: LiveRequest) -> None:
        """As the base class."""
        super().add(request)
        self.known[request] = Offloaded(Use(request.content), request.prompt_tokens // self.chunk_tokens)

    @property
    def _may_pass_over(self) -> bool:
        """Whether the answer to a look-up may be ``LATER``."""
        return bool(self.cache.pending or self.cache.read)

    # -- up ---------------------------------------------------------------------------------------------

    def fetchable(self, request: LiveRequest, start: int) -> int:
        """Tokens in whole chunks that the host has after the first ``start``, at least one chunk's.

        ``LATER`` while copies of the request are on their way, one of the chunks is being written, or
        another request loads it.
        """
        found = self._fetchable(self.known[request], request, start)
        self.put_off += found == LATER and request not in self.aside
        return found

    def _fetchable(self, known: Offloaded, request: LiveRequest, start: int) -> int:
        known.offered = 0
        if known.busy:
            return LATER
        size = self.chunk_tokens
        chunks = request.num_tokens // size
        if chunks * size - start < size:
            return 0
        first = start // size
        found, pending, read = self.ready_chunks(known.use, first, chunks)
        if pending:
            return LATER
        tokens = (first + found) * size - start
        if tokens < size:
            return 0
        return LATER if read else tokens

    def ready_chunks(self, use: Use, first: int, end: int) -> tuple[int, bool, bool]:
        """How many of chunks ``first .. end`` could be loaded; whether one is pending; one read."""
        return self.cache.prefix(use, first, end)

    def begin_load(self, request: LiveRequest, match: Match, tokens: int) -> None:
        """As the base class; the chunks it reads stay."""
        super().begin_load(request, match, tokens)
        known, size = self.known[request], self.chunk_tokens
        start = match.blocks * self.block_size
        first, end = start // size, (start + tokens) // size
        self.version += 1
        known.loading = first, end
        known.offered = end
        self.cache.pin(known.use, first, end)

    def loaded_blocks(self, load: Load) -> int:
        """As the base class."""
        return load.tokens // self.block_size

    def begin(self, plan: StepPlan, request: LiveRequest, hit_tokens: int, tokens: int) -> None:
        """As the base class; from now on its prompt is stored as it is computed."""
        super().begin(plan, request, hit_tokens, tokens)
        known = self.known[request]
        if known.offered < known.whole:
            self.behind[request] = None

    def _admit_loaded(self, plan: StepPlan, request: LiveRequest, tokens: int) -> None:
        self.index.touch_held(request)
        super()._admit_loaded(plan, request, tokens)

    # -- who leaves -------------------------------------------------------------------------------------

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """As the base class; the step waits for what is being stored of it."""
        self.behind.pop(request, None)
        self.flushed.update(dict.fromkeys(self.known[request].stores))
        super().preempt(request, taken_back)

    def _finish(self, request: LiveRequest) -> None:
        self._ends(request, request.prompt_tokens)
        super()._finish(request)

    def abort(self, request: LiveRequest) -> None:
        """As the base class."""
        running = request.status is Status.RUNNING
        computed = request.prompt_tokens if request.steady is not None else request.computed
        self._ends(request, computed if running else 0)
        super().abort(request)

    def _ends(self, request: LiveRequest, tokens: int) -> None:
        known = self.known[request]
        known.limit = min(tokens, request.prompt_tokens)
        self.behind.pop(request, None)
        self.over.append(request)
        if known.limit and (known.stores or known.offered < known.whole):
            known.fence = self.index.fence(request)

    # -- down -------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """As the base class; what the step computes of prompts is to be stored, chunk by chunk."""
        if self._may_pass_over:
            # Who did not fit may be passed over now: it depends on what the device has evicted since.
            self.blocked = None
        plan = super().schedule()
        self._store_computed(plan)
        self._store_of_those_over()
        return plan

    def _store_computed(self, plan: StepPlan) -> None:
        for request in sorted(self.behind, key=in_order):
            if isinstance(plan, BoardedPlan) and not plan.carries(request):
                continue
            known = self.known[request]
            decodes = request.steady is not None or request.computed >= request.prompt_tokens
            self._offer(request, known, request.prompt_tokens if decodes else request.computed)
            if known.offered == known.whole:
                del self.behind[request]
        self._tried = self.cache.version

    def _store_of_those_over(self) -> None:
        """vLLM stores what is left of requests with the step after the one that ended them."""
        index = self.index
        for request in self.over:
            known = self.known[request]
            self._offer(request, known, known.limit)
        for fence in index.touched:
            for store in self.known[fence.owner].stores:
                if any(self._meets(fence, span) for span in store.spans):
                    self.flushed[store] = None
        index.forget_touches()
        for request in self.over:
            known = self.known[request]
            self.cache.ended(known.use)
            self._forget(request, known)
        self.over.clear()

    def _meets(self, fence: Fence, span: Span) -> bool:
        return fence.meets(span[0] * self.chunk_blocks, span[1] * self.chunk_blocks)

    def _offer(self, request: LiveRequest, known: Offloaded, tokens: int) -> None:
        """Store what is computed and was not offered yet, if all that is missing of it finds room."""
        first, end = known.offered, tokens // self.chunk_tokens
        if end <= first:
            return
        missing = self.cache.offer(known.use, first, end)
        if missing is None:
            self.refused += known.refused != end
            known.refused = end
            return
        known.offered = end
        if missing:
            store = SpanStore(request, missing, self.chunk_blocks)
            known.stores[store] = None
            self.send(store)

    # -- what workers tell ------------------------------------------------------------------------------

    def heard(self, transfer: Transfer) -> None:
        """As the base class; what was stored can be found, what was read may go."""
        self.version += 1
        if isinstance(transfer, SpanStore):
            request = transfer.owner
            known = self.known[request]
            self.cache.written(known.use, transfer.spans)
            del known.stores[transfer]
            self.outstanding -= 1
        else:
            assert isinstance(transfer, Load)
            request = transfer.request
            known = self.known[request]
            assert known.loading is not None
            self.cache.unpin(known.use, *known.loading)
            known.loading = None
            self.arrived(transfer)
        if request.status is Status.FINISHED and request not in self.over:
            self._forget(request, known)

    def _forget(self, request: LiveRequest, known: Offloaded) -> None:
        if known.busy:
            return
        if known.fence is not None:
            self.index.lift(known.fence)
        del self.known[request]
