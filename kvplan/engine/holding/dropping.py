"""Holding what a law keeps: blocks are given out as tokens are computed and come back as they are dropped.

A chunk of a prompt is written whole before anything of it can be judged and dropped, so while it is
computed a request holds what it had kept and the whole chunk. A decoded token takes the place of the one
that is dropped for it. Dropping moves the survivors together, so that blocks come free whole; the copies
this takes are small beside attention and are not timed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvplan.engine.blocks import BlockPool
from kvplan.engine.config import EngineConfig
from kvplan.engine.frontend import rejection
from kvplan.engine.holding.holder import Growth, Holder
from kvplan.engine.holding.kept import KeptDecodes
from kvplan.engine.holding.laws import Law
from kvplan.engine.live import LiveRequest
from kvplan.engine.recorder import Metric
from kvplan.traces.request import Request


@dataclass(slots=True)
class _Kept:
    """One running request.

    ``prefill``: tokens it knew when it was admitted, which its prefill computes.
    """

    prefill: int
    most_blocks: int = 0


class Dropping(Holder):
    """Gives out one block for every so many kept tokens."""

    section = "retention"

    def __init__(self, config: EngineConfig, pool: BlockPool, law: Law) -> None:
        super().__init__(config, pool)
        self.law = law
        # The same engine with a pool in which every request fits: the front end's other reasons stay.
        roomy = max(config.num_blocks, config.max_model_len // self.size + 3)
        self._endless = replace(config, num_blocks=roomy)
        self._kept: dict[LiveRequest, _Kept] = {}
        self._computed = self._dropped = 0
        self._most_blocks = 0
        self._freed_blocks = 0

    # -- admission --------------------------------------------------------------------------------------

    def rejection(self, request: Request) -> str | None:
        """As the front end, but it is kept tokens that must fit."""
        roomy = rejection(request, self._endless)
        if roomy is not None:
            return roomy
        length = request.prompt_tokens + request.output_tokens - 1
        if self._most_in_prefill(request.prompt_tokens, length) > self.config.usable_blocks:
            return "needs more blocks than the pool has, even with dropping"
        return None

    def _most_in_prefill(self, prompt: int, length: int) -> int:
        """Blocks held at once while ``length`` tokens are computed as a prompt."""
        law = self.law
        before = max(0, length - self.config.max_num_batched_tokens)
        kept = law.kept(prompt, False, before) + length - before
        return law.blocks(kept, self.size) + law.buffer_blocks

    def admits(self, request: LiveRequest, tokens: int, reserve: int) -> bool:
        """The same two gates as without dropping."""
        available = self.pool.blank - reserve
        if self.config.scheduler_reserve_full_isl:
            whole = self._most_in_prefill(request.prompt_tokens, request.num_tokens)
            if whole > available:
                return False
        return self._room(request.prompt_tokens, 0, tokens) <= available

    def admit(self, request: LiveRequest, tokens: int) -> None:
        """The first chunk; of a quantized cache also the buffer."""
        self._kept[request] = _Kept(request.num_tokens)
        self._hold(request, self._room(request.prompt_tokens, 0, tokens))

    # -- growing and dropping ---------------------------------------------------------------------------

    def _room(self, prompt: int, before: int, after: int) -> int:
        """Blocks needed while the tokens ``before .. after`` of a prompt are computed."""
        law = self.law
        kept = law.kept(prompt, False, before) + after - before
        return law.blocks(kept, self.size) + law.buffer_blocks

    def _hold(self, request: LiveRequest, blocks: int) -> None:
        more = blocks - request.blocks
        pool = self.pool
        pool.blank -= more
        if more > 0:
            pool.allocated += more
        else:
            self._freed_blocks -= more
        request.blocks = blocks
        record = self._kept[request]
        if blocks > record.most_blocks:
            record.most_blocks = blocks

    def _needed(self, request: LiveRequest, before: int, after: int) -> int:
        if before >= self._kept[request].prefill:
            law = self.law
            return law.blocks(self.attended(request, after), self.size) + law.buffer_blocks
        return self._room(request.prompt_tokens, before, after)

    def grow(self, request: LiveRequest, before: int, after: int) -> bool:
        """From the free blocks."""
        needed = self._needed(request, before, after)
        if needed - request.blocks > self.pool.blank:
            return False
        if needed > request.blocks:
            self._hold(request, needed)
        return True

    def grow_all(self, wanted: list[Growth], besides: int) -> bool:
        """All or none, as without dropping."""
        needs = [(request, self._needed(request, before, after)) for request, before, after in wanted]
        if besides + sum(max(0, needed - request.blocks) for request, needed in needs) > self.pool.blank:
            return False
        for request, needed in needs:
            if needed > request.blocks:
                self._hold(request, needed)
        return True

    def decodes(self) -> KeptDecodes:
        """Requests in step need no look: what they need is known beforehand."""
        return KeptDecodes(self.size, self)

    def blocks_of(self, request: LiveRequest, computed: int) -> int:
        """Those it was given, or those its kept tokens have taken since, while it decodes in step."""
        law = self.law
        kept = law.blocks(self.attended(request, computed), self.size) + law.buffer_blocks
        return max(kept, request.blocks)

    def write_down(self, request: LiveRequest) -> None:
        """It has left the step: note what it holds; the pool knows already."""
        blocks = request.blocks = self.blocks_of(request, request.computed)
        record = self._kept[request]
        if blocks > record.most_blocks:
            record.most_blocks = blocks

    def settle(self, request: LiveRequest, computed: int) -> bool:
        """The chunk is in: keep what the law keeps."""
        record = self._kept[request]
        law, prompt = self.law, request.prompt_tokens
        kept = law.kept(prompt, computed >= record.prefill, computed)
        blocks = law.blocks(kept, self.size) + law.buffer_blocks
        if blocks >= request.blocks:
            return False
        self._hold(request, blocks)
        return True

    def release(self, request: LiveRequest) -> None:
        """Count what was kept of it."""
        record = self._kept.pop(request)
        self._most_blocks = max(self._most_blocks, record.most_blocks)
        computed = request.computed
        self._computed += computed
        settled = computed >= record.prefill
        self._dropped += computed - self.law.kept(request.prompt_tokens, settled, computed)

    # -- what is left -----------------------------------------------------------------------------------

    def attended(self, request: LiveRequest, computed: int) -> int:
        """What the law keeps."""
        record = self._kept.get(request)
        settled = record is not None and computed >= record.prefill
        return self.law.kept(request.prompt_tokens, settled, computed)

    def metrics(self) -> list[Metric]:
        """What was dropped."""
        for request in self._kept:
            if request.steady is not None:
                self._most_blocks = max(
                    self._most_blocks, self.blocks_of(request, request.base + request.steady.tick)
                )
        most = max([self._most_blocks, *(record.most_blocks for record in self._kept.values())])
        share = self._dropped / self._computed if self._computed else 0.0
        return [
            Metric("policy", self.law.name, "", "what is kept of a request's tokens"),
            Metric("dropped_tokens", self._dropped, "tokens", "computed and no longer kept at the end"),
            Metric("dropped_share", share, "1", "dropped tokens of all computed"),
            Metric("freed_blocks", self._freed_blocks, "blocks", "given back by requests that ran on"),
            Metric("largest_request", most, "blocks", "the most blocks one request held at once"),
            Metric("buffer_blocks", self.law.buffer_blocks, "blocks", "held by every running request"),
        ]
