"""Parallel samples that fork from one prompt, with copy-on-write.

The prompt is computed once. The step that computes its end samples the first token of every sample; then
the samples run as requests of their own that hold the prompt's full blocks together, one behind the other in
the order of admission, as requests that arrive together do: prompts that were admitted before the fork stay
behind all of them. A last block that is not full is copied for all samples but the first, in that step, as
each writes its next token into it.

A sample whose copy finds no free block, or that is preempted later, comes back on its own: through the
prefix cache as far as it is still there, else by computing its tokens again.
"""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan
from kvplan.engine.prefix_node import Match
from kvplan.engine.sampling.samples import another_sample
from kvplan.engine.scheduler_vllm import VllmScheduler


class Siblings:
    """Samples of one request that hold its prompt's ``shared`` first blocks together."""

    __slots__ = ("members", "number", "shared")

    def __init__(self, number: int, shared: int) -> None:
        self.number = number
        self.members: dict[LiveRequest, None] = {}
        self.shared = shared


class ForkingScheduler(VllmScheduler):
    """vLLM's scheduler with requests of ``n`` samples.

    Attributes:
        forks: requests that have forked; copies: blocks copied; shared_blocks: blocks that samples hold
            without a copy of their own; postponed: samples that found no room at the fork.
    """

    def __init__(self, config: EngineConfig, n: int, *, keep_schedule: bool = False) -> None:
        super().__init__(config, keep_schedule=keep_schedule)
        self.n = n
        self.forks = self.copies = self.shared_blocks = self.postponed = 0
        self._unforked: dict[LiveRequest, None] = {}
        self._places_reserved = 0
        self.siblings: dict[LiveRequest, Siblings] = {}

    def add(self, request: LiveRequest) -> None:
        """As the base class; it will fork."""
        self._unforked[request] = None
        super().add(request)

    # -- a place for every sample -----------------------------------------------------------------------

    def _has_places(self, request: LiveRequest) -> bool:
        """Whether all samples of a waiting request may run at once."""
        places = self.n if request in self._unforked else 1
        return len(self.running) + self._places_reserved + places <= self.config.max_num_seqs

    def _fits(self, request: LiveRequest, match: Match, tokens: int) -> bool:
        if not self._has_places(request):
            self.blocked = (request, self.version)
            return False
        return super()._fits(request, match, tokens)

    def _admit(self, plan: StepPlan, request: LiveRequest, match: Match, tokens: int) -> None:
        super()._admit(plan, request, match, tokens)
        if request in self._unforked:
            self._places_reserved += self.n - 1
            self.admissions += self.n - 1

    def _places(self, requests: list[LiveRequest]) -> int:
        return sum(self.n if request in self._unforked else 1 for request in requests)

    # -- forking ----------------------------------------------------------------------------------------

    def sampled(self, plan: StepPlan, request: LiveRequest) -> None:
        """As the base class; a prompt that is computed for the first time forks."""
        super().sampled(plan, request)
        if request in self._unforked:
            del self._unforked[request]
            self._places_reserved -= self.n - 1
            self._fork(plan, request)

    def _fork(self, plan: StepPlan, leader: LiveRequest) -> None:
        index, size = self.index, self.block_size
        prompt = leader.prompt_tokens
        group = Siblings(self.forks, prompt // size)
        group.members[leader] = None
        self.siblings[leader] = group
        if self.caching and leader.tail.owner is leader:
            index.close(leader.tail)
        last_in_line = next(reversed(self.running)) is leader
        writes = leader.max_tokens > 1 and prompt % size > 0
        alone: list[LiveRequest] = []
        for sample in range(1, self.n):
            facts = another_sample(leader.request, sample, self.forks * self.n + sample)
            child = LiveRequest(facts, index.root)
            if writes and not self.free_blocks:
                alone.append(child)
                continue
            if writes:
                index.take(1)
                self.copies += 1
            child.order = leader.order + sample
            self._join(plan, group, leader, child)
        if not last_in_line:
            self.running = dict.fromkeys(sorted(self.running, key=_order))
        self.forks += 1
        for child in reversed(alone):
            self._postpone(plan, child)

    def _join(self, plan: StepPlan, group: Siblings, leader: LiveRequest, child: LiveRequest) -> None:
        prompt = child.prompt_tokens
        child.status = Status.RUNNING
        child.computed = prompt
        child.blocks = -(-prompt // self.block_size) if child.max_tokens > 1 else group.shared
        child.cached_tokens = group.shared * self.block_size
        if self.caching:
            self._hold_with(leader, child)
        self.shared_blocks += group.shared
        self.running[child] = None
        group.members[child] = None
        self.siblings[child] = group
        plan.admitted.append(child)
        super().sampled(plan, child)

    def _hold_with(self, leader: LiveRequest, child: LiveRequest) -> None:
        """The child holds the very blocks that the leader holds and has published."""
        for segment, first in leader.held:
            piece = segment
            while True:
                piece.ref += 1
                if piece.node.start <= first:
                    break
                assert piece.above is not None
                piece = piece.above
        child.held = list(leader.held)
        child.tail = leader.tail
        child.in_tree = child.published = leader.in_tree

    def _postpone(self, plan: StepPlan, child: LiveRequest) -> None:
        """Its first token is sampled with the others', but it has no block to go on."""
        child.samples = 1
        child.status = Status.PREEMPTED
        child.stale = 1
        child.preemptions = 1
        self.preemptions += 1
        self.postponed += 1
        self.version += 1
        plan.batch.sampled_requests += 1
        plan.first.append(child)
        plan.samples[child] = None
        self.waiting.push_front(child)

    # -- parting ----------------------------------------------------------------------------------------

    def preempt(self, request: LiveRequest, taken_back: int) -> None:
        """As the base class; blocks that siblings still hold stay."""
        if request in self._unforked:
            self._places_reserved -= self.n - 1
        self._part(request)
        super().preempt(request, taken_back)

    def _finish(self, request: LiveRequest) -> None:
        self._part(request)
        super()._finish(request)

    def _part(self, request: LiveRequest) -> None:
        group = self.siblings.pop(request, None)
        if group is None:
            return
        del group.members[request]
        if group.members and not self.caching:
            # With a prefix cache the shared blocks are counted where they are published.
            request.blocks -= group.shared


def _order(request: LiveRequest) -> int:
    return request.order
