"""vLLM's scheduler with its own connector for host memory, on a cache of several groups.

What it does is what ``offloading.scheduler`` does for one group, in the order of its calls.
"""

from __future__ import annotations

from typing import cast

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.numbered.scheduler import NumberedLoads
from kvplan.engine.offloading.connector import ConnectorScheduler, in_order
from kvplan.engine.offloading.grouped.cache import HandingCache
from kvplan.engine.offloading.grouped.chunk import Key
from kvplan.engine.offloading.grouped.fences import Fences
from kvplan.engine.offloading.grouped.given import given_blocks
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.grouped.layout import GroupLayout, layouts
from kvplan.engine.offloading.grouped.lookup import LookUp
from kvplan.engine.offloading.grouped.offloaded import ChunkStore, Offloaded
from kvplan.engine.offloading.grouped.storing import Storing
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.reference.pool import NULL_BLOCK
from kvplan.engine.remote.plan import BoardedPlan
from kvplan.engine.remote.queue import Load, Transfer
from kvplan.engine.remote.scheduler import LATER
from kvplan.engine.remote.source import KvSource


class GroupedScheduler(NumberedLoads, ConnectorScheduler):
    """See the module.

    Attributes:
        known: requests that are not over, or whose copies are not.
        behind: running requests with chunks of their prompt that were not offered yet, or refused.
        open: requests of whose blocks some may be given away before they are stored.
    """

    numbered: HandingCache

    def __init__(
        self,
        config: EngineConfig,
        source: KvSource,
        host: HostChunks,
        chunk_blocks: int,
        *,
        keep_schedule: bool = False,
    ) -> None:
        super().__init__(config, source, keep_schedule=keep_schedule)
        self.offload(host, chunk_blocks)

    def offload(self, host: HostChunks, chunk_blocks: int) -> None:
        """Make it a scheduler that offloads to ``host``; called once, when it is otherwise complete."""
        config = self.config
        self.host = host
        self.groups = layouts(config, chunk_blocks, self.numbered.kept)
        self.fences = Fences()
        self.storing = Storing(self.groups, host, self.fences)
        self.look_up = LookUp(self.groups, host)
        self.known: dict[NumberedRequest, Offloaded] = {}
        self.behind: dict[NumberedRequest, None] = {}
        self.open: dict[NumberedRequest, None] = {}
        self._tried = -1

    def make_cache(self) -> HandingCache:
        """As the base class, with states that are handed on."""
        self.numbered = HandingCache(self.config)
        return self.numbered

    def undecided(self) -> bool:
        """As the base class; not while chunks may have to be stored, or blocks waited for."""
        return (
            bool(self.prefills or self.over)
            or (bool(self.behind) and self.host.version != self._tried)
            or (self._may_pass_over and bool(self.waiting.items))
            or super().undecided()
        )

    def add(self, request: LiveRequest) -> None:
        """As the base class."""
        super().add(request)
        numbered = cast(NumberedRequest, request)
        self.known[numbered] = Offloaded(numbered, self.groups, self.numbered.tables.chain)

    @property
    def _may_pass_over(self) -> bool:
        """Whether the answer to a look-up may be ``LATER``."""
        return bool(self.host.pending or self.host.read)

    # -- up ---------------------------------------------------------------------------------------------

    def fetchable(self, request: LiveRequest, start: int) -> int:
        """Tokens that the host can bring after the first ``start`` (``LookUp.loadable``), or ``LATER``.

        ``LATER`` also while copies of the request are on their way.
        """
        numbered = cast(NumberedRequest, request)
        known = self.known[numbered]
        known.start_over()
        self.open.pop(numbered, None)
        if known.busy:
            found = LATER
        else:
            found = self._loadable(known, start)
        self.put_off += found == LATER and request not in self.aside
        return found

    def _loadable(self, known: Offloaded, start: int) -> int:
        request = known.request
        question, memos = (start, request.num_tokens), self.host.memos
        kept = memos.recall(request, question)
        if kept is not None:
            return kept
        found = self.look_up.loadable(known, start, request.num_tokens)
        memos.note(request, question, found, lambda: known.names(self.groups))
        return found

    def begin_load(self, request: LiveRequest, match: Match, tokens: int) -> None:
        """As the base class; the chunks it reads stay."""
        super().begin_load(request, match, tokens)
        numbered = cast(NumberedRequest, request)
        known, start = self.known[numbered], match.blocks * self.block_size
        self.host.memos.forget(request)
        keys: dict[Key, int] = {}
        known.load_blocks = 0
        for group in self.groups:
            size, stop = group.chunk_tokens, -(-(start + tokens) // group.chunk_tokens)
            blocks = self._blank(numbered, group, start, start + tokens)
            if blocks:
                known.load_blocks += len(blocks)
                names = known.chunks(group, stop)
                for place in range(blocks[0] // group.chunk_blocks, stop):
                    keys[names[place]] = (place + 1) * size
            known.offered[group.index] = stop
        known.loading = keys
        self.version += 1
        self.host.pin(known.use, keys)

    def _blank(self, request: NumberedRequest, group: GroupLayout, start: int, end: int) -> range:
        """Places in a group's table that a load fills."""
        table, keys = request.state.blocks[group.index], self.numbered.tables.pool.key_of
        size = group.group.block_size
        stop = -(-end // size)
        for place in range(-(-start // size), stop):
            if table[place] != NULL_BLOCK and keys[table[place]] is None:
                return range(place, stop)
        return range(0)

    def loaded_blocks(self, load: Load) -> int:
        """As the base class."""
        return self.known[cast(NumberedRequest, load.request)].load_blocks

    def begin(self, plan: StepPlan, request: LiveRequest, hit_tokens: int, tokens: int) -> None:
        """As the base class; from now on its prompt is stored as it is computed."""
        super().begin(plan, request, hit_tokens, tokens)
        numbered = cast(NumberedRequest, request)
        self.host.memos.forget(request)
        if self._is_behind(self.known[numbered]):
            self.behind[numbered] = None
            self.open[numbered] = None

    def _is_behind(self, known: Offloaded) -> bool:
        return any(
            known.offered[group.index] < known.whole[group.index]
            for group in self.groups
            if not group.hands_on
        )

    # -- who leaves -------------------------------------------------------------------------------------

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """As the base class; the step waits for what is being stored of it."""
        numbered = cast(NumberedRequest, request)
        self.behind.pop(numbered, None)
        self.flushed.update(dict.fromkeys(self.known[numbered].stores))
        super().preempt(request, taken_back)

    def _finish(self, request: LiveRequest) -> None:
        numbered = cast(NumberedRequest, request)
        self._ends(numbered, request.prompt_tokens)
        super()._finish(request)

    def abort(self, request: LiveRequest) -> None:
        """As the base class."""
        numbered = cast(NumberedRequest, request)
        running = request.status is Status.RUNNING
        self._ends(numbered, self.progress(numbered)[0] if running else 0)
        super().abort(request)

    def _ends(self, request: NumberedRequest, tokens: int) -> None:
        known = self.known[request]
        known.limit = min(tokens, request.prompt_tokens)
        known.gone = True
        self.behind.pop(request, None)
        self.over.append(request)
        for store in known.stores:
            self.fences.add(store, store.source)

    # -- down -------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """As the base class; what the step computes of prompts is to be stored, chunk by chunk."""
        if self._may_pass_over:
            # Who did not fit may be passed over now: it depends on what the device has evicted since.
            self.blocked = None
        plan = super().schedule()
        given = given_blocks(self.groups, self.numbered.grown, self.known, self.open)
        self.flushed.update(dict.fromkeys(self.fences.touched(given)))
        self._store_states()
        self._store_computed(plan)
        self._store_of_those_over(given)
        self.refused = self.storing.refused
        return plan

    def _store_states(self) -> None:
        """States that were published since the last step, in the order in which their requests were first."""
        handed: dict[NumberedRequest, list[tuple[GroupLayout, int, int]]] = {}
        for index, entries in self.numbered.handed.items():
            for request, block, tokens in entries:
                handed.setdefault(request, []).append((self.groups[index], block, tokens))
            entries.clear()
        for request, states in handed.items():
            for state in states:
                self._send(self.storing.hand(self.known[request], *state))

    def _store_computed(self, plan: StepPlan) -> None:
        for request in cast(list[NumberedRequest], sorted(self.behind, key=in_order)):
            if isinstance(plan, BoardedPlan) and not plan.carries(request):
                continue
            known = self.known[request]
            decodes = request.steady is not None or request.computed >= request.prompt_tokens
            tokens = request.prompt_tokens if decodes else request.computed
            self._send(self.storing.offer(known, tokens))
            if not self._is_behind(known):
                del self.behind[request]
                del self.open[request]
        self._tried = self.host.version

    def _store_of_those_over(self, given: set[int]) -> None:
        """vLLM stores what is left of requests with the step after the one that ended them."""
        over = cast(list[NumberedRequest], self.over)
        for request in over:
            known = self.known[request]
            store = self.storing.offer(known, known.limit)
            self._send(store)
            if store is not None and not given.isdisjoint(store.source):
                self.flushed[store] = None
        for request in over:
            known = self.known[request]
            self.host.ended(known.use)
            self.open.pop(request, None)
            self._forget(request, known)
        self.over.clear()

    def _send(self, store: ChunkStore | None) -> None:
        if store is not None:
            self.send(store)

    # -- what workers tell ------------------------------------------------------------------------------

    def heard(self, transfer: Transfer) -> None:
        """As the base class; what was stored can be found, what was read may go."""
        self.version += 1
        if isinstance(transfer, ChunkStore):
            request = cast(NumberedRequest, transfer.owner)
            known = self.known[request]
            self.host.written(transfer.keys)
            self.fences.lift(transfer, transfer.watched)
            if known.gone:
                self.fences.lift(transfer, transfer.source)
            del known.stores[transfer]
            self.outstanding -= 1
        else:
            assert isinstance(transfer, Load)
            request = cast(NumberedRequest, transfer.request)
            known = self.known[request]
            self.host.unpin(known.loading)
            known.loading = {}
            self.arrived(transfer)
        if known.gone and request not in self.over:
            self._forget(request, known)

    def _forget(self, request: NumberedRequest, known: Offloaded) -> None:
        if not known.busy:
            del self.known[request]
