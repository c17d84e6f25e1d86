"""SGLang's memory for a model with recurrent layers: tokens, and slots for states beside them."""

from __future__ import annotations

from collections.abc import Container, Iterable

from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.live import SglangRequest
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang.radix_tree import drop
from kvplan.engine.sglang_states.errors import OutOfStates
from kvplan.engine.sglang_states.index import StateIndex
from kvplan.engine.sglang_states.node import StateNode
from kvplan.engine.sglang_states.request import StateRequest
from kvplan.engine.sglang_states.rules import StateRules


class StatePool(TokenPool):
    """Tokens and states of one engine instance (``HybridReqToTokenPool``), and the tree that keeps both.

    Attributes:
        slots: of the state pool.
        spares: that a request gets besides one for its own state.
        held: slots that requests have.
        peak_held, peak_used: most that requests had, and requests and the tree together.
    """

    __slots__ = (
        "grid", "held", "index", "peak_held", "peak_used", "slots", "spare", "spares", "track", "untracked",
    )  # fmt: skip

    def __init__(self, config: SglangConfig, rules: StateRules, index: StateIndex | None = None) -> None:
        self.index = StateIndex(config.page_size, config.leaf_key) if index is None else index
        super().__init__(config, self.index)
        self.slots = rules.slots
        self.spare = rules.spare
        self.spares = rules.spares(config)
        self.grid = rules.grid(config)
        self.track = rules.track(config)
        self.held = self.peak_held = self.peak_used = 0
        self.untracked: Container[int] = ()
        """Decode steps that keep no states."""

    @property
    def free_slots(self) -> int:
        """Slots in which no state is stored."""
        return self.slots - self.index.states - self.held

    # -- slots ------------------------------------------------------------------------------------------

    def claim(self, request: StateRequest) -> None:
        """The request gets a slot, into which the state that it has found is copied."""
        self._take_slots(1)
        request.slots = 1

    def provide(self, requests: Iterable[SglangRequest]) -> None:
        """Every request of a batch gets the slots it does not have yet (``alloc_req_slots``)."""
        each = 1 + self.spares
        missing = 0
        for request in requests:
            assert isinstance(request, StateRequest)
            missing += each - request.slots
            request.slots = each
        if missing:
            self._take_slots(missing)

    def give_back(self, request: StateRequest) -> None:
        """The request has no slots any more."""
        self.held -= request.slots
        request.slots = 0

    def _take_slots(self, count: int) -> None:
        self._make_slots(count)
        self.held += count
        if self.held > self.peak_held:
            self.peak_held = self.held
        self._note_use()

    def _note_use(self) -> None:
        used = self.held + self.index.states
        if used > self.peak_used:
            self.peak_used = used

    def _make_slots(self, count: int) -> None:
        """Evict states until ``count`` slots are free.

        Raises:
            OutOfStates: there are not so many.
        """
        short = count - self.free_slots
        if short > 0:
            self.free += self.index.evict_states(short)
            # So many requests run that there are (``StateRules.check``), but for what copies hold.
            if self.free_slots < count:
                raise OutOfStates(self.slots, self.held)

    # -- tokens and states ------------------------------------------------------------------------------

    def plan_tracking(self, request: StateRequest) -> None:
        """Where the prefill step that was just planned keeps a state
        (``_mamba_radix_cache_v2_req_prepare_for_extend``)."""
        prefix, end, grid = request.prefix, request.computed, self.grid
        request.prefilled = end
        chunks = (end - prefix) // grid
        if not chunks:
            return
        tracked = prefix + chunks * grid
        branch = request.branch
        # Kernels name what lies before the last of their states by the token behind it.
        if prefix < branch <= tracked and (branch - prefix) % grid == 0:
            tracked = branch
        request.tracked = tracked

    def checkpoint(self, request: SglangRequest, tokens: int) -> None:
        """As the base class; up to the state that was kept, which goes to the tree for an empty slot."""
        assert isinstance(request, StateRequest)
        if not self.caching:
            return
        length = request.tracked if self.spare else tokens
        request.tracked = 0
        if length:
            self._make_slots(1)
            self._publish(request, length)

    def release(self, request: SglangRequest) -> None:
        """As the base class; a state that was kept goes to the tree, the request's slots are given back."""
        assert isinstance(request, StateRequest)
        holding = request.held
        holding.allocated = self.places(request)
        if self.caching:
            length = self._kept(request) if self.spare else request.computed
            self.give_back(request)
            if length:
                self._publish(request, length)
        self._let_go(request)

    def drop(self, request: SglangRequest) -> None:
        """As the base class; states, too."""
        assert isinstance(request, StateRequest)
        request.held.allocated = self.places(request)
        self._let_go(request)
        request.prefix = request.computed = request.tracked = 0

    def _let_go(self, request: StateRequest) -> None:
        holding = request.held
        self.free += holding.private
        drop(self.tree, holding)
        self.give_back(request)
        request.holding = None

    def _publish(self, request: StateRequest, length: int) -> None:
        """The tree gets the first ``length`` tokens and a state of the request, which holds them then."""
        holding = request.held
        present, node, taken = self.index.publish(holding.content, length, holding.priority, holding.counted)
        self.free += present - holding.shared
        before = holding.node
        assert isinstance(before, StateNode)
        self.index.unlock(before)
        self.index.lock(node)
        holding.node = node
        holding.shared = length - length % self.page
        holding.counted = max(holding.counted, holding.shared)
        if taken:
            self._note_use()

    def _kept(self, request: StateRequest) -> int:
        """Tokens behind which a finished request has its last state; 0: nowhere.

        While it decoded it kept one every ``track`` tokens, save in steps that keep none.
        """
        track = self.track
        length = (request.computed - request.unsettled) // track * track
        while length > request.prefilled:
            if length - request.base not in self.untracked:
                return length
            length -= track
        return request.tracked
