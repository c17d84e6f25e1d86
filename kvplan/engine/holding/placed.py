"""Holding one contiguous region: slots reserved at admission, and regions that grow.

Both are what systems did before paging. A *slot* is reserved for the longest a request may become, known
(``oracle``), within a factor of two (``pow2``) or not at all (``max``): the three Orca baselines of
PagedAttention (arXiv:2309.06180, section 6.1). A *growing* region follows the tokens, in place while the
space behind it is free; else it moves, with a copy that the step waits for, or room is made by preemption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvplan.engine.blocks import BlockPool
from kvplan.engine.config import EngineConfig
from kvplan.engine.frontend import rejection
from kvplan.engine.holding.holder import Growth, Holder
from kvplan.engine.holding.space import Fit, address_space
from kvplan.engine.live import LiveRequest
from kvplan.engine.recorder import Metric
from kvplan.traces.request import Request

Reserve: TypeAlias = Literal["max", "pow2", "oracle"]
NO_ROOM = "needs a contiguous region larger than the pool"


class Placed(Holder):
    """Requests with a region each; ``request.blocks`` is its size."""

    section = "allocation"
    contiguous = True
    chunks_matter = False

    def __init__(self, config: EngineConfig, pool: BlockPool, fit: Fit) -> None:
        super().__init__(config, pool)
        self.space = address_space(fit, pool.usable)
        self._largest_ever = self.space.largest()
        self.regions: dict[LiveRequest, int] = {}
        self.scattered = 0
        """Times there were enough free blocks, but not side by side."""

    def largest_hole(self) -> int:
        """The largest region to be had."""
        return self.space.largest()

    def first_size(self, request: Request, tokens: int) -> int:
        """Blocks a request is admitted with when it has ``tokens`` tokens, outputs included."""
        raise NotImplementedError

    def rejection(self, request: Request) -> str | None:
        """As the front end; and the region must fit into the empty space."""
        reason = rejection(request, self.config)
        if reason is None:
            length = request.prompt_tokens + request.output_tokens - 1
            least = self.space.rounded(-(-length // self.size))
            if max(least, self.first_size(request, request.prompt_tokens)) > self._largest_ever:
                return NO_ROOM
        return reason

    def admits(self, request: LiveRequest, tokens: int, reserve: int) -> bool:
        """Whether there is a hole for its first region."""
        size = self.first_size(request.request, request.num_tokens)
        if size + reserve > self.pool.blank:
            return False
        if not self.space.has(size):
            self.scattered += 1
            return False
        return True

    def admit(self, request: LiveRequest, tokens: int) -> None:
        """Take the region."""
        size = self.first_size(request.request, request.num_tokens)
        start = self.space.allocate(size)
        assert start is not None
        self.regions[request] = start
        self._account(request, size)

    def _account(self, request: LiveRequest, size: int) -> None:
        more = size - request.blocks
        self.pool.blank -= more
        self.pool.allocated += more
        request.blocks = size

    def grow_all(self, wanted: list[Growth], besides: int) -> bool:
        """One after another: those that found room keep it."""
        counted = self.scattered
        grown = all(self.grow(request, before, after) for request, before, after in wanted)
        self.scattered = counted  # who found none is asked again, one by one
        return grown

    def release(self, request: LiveRequest) -> None:
        """The region is free again."""
        self.space.release(self.regions.pop(request), request.blocks)


class Slots(Placed):
    """A region for the longest a request may become, for as long as it runs; nobody is ever preempted."""

    def __init__(self, config: EngineConfig, pool: BlockPool, reserve: Reserve, fit: Fit) -> None:
        super().__init__(config, pool, fit)
        self.reserve = reserve

    def first_size(self, request: Request, tokens: int) -> int:
        """The slot. ``oracle`` and ``pow2`` know the length of the answer, exactly or rounded up."""
        most = self.config.max_model_len
        if self.reserve == "max":
            longest = most
        else:
            answer = request.output_tokens
            if self.reserve == "pow2":
                answer = 1 << (answer - 1).bit_length()
            longest = min(most, request.prompt_tokens + answer)
        return self.space.rounded(-(-longest // self.size))

    def grow(self, request: LiveRequest, before: int, after: int) -> bool:
        """It has all it will need."""
        return True

    def metrics(self) -> list[Metric]:
        """What it is."""
        return [
            Metric("kind", f"slots:{self.reserve}", "", "a region reserved for the longest a request may be"),
            Metric("scattered", self.scattered, "1", "admissions refused though enough blocks were free"),
        ]


@dataclass(frozen=True, slots=True)
class GrowthRule:
    """How a contiguous region grows.

    Attributes:
        chunk: its size is a multiple of so many blocks; 0: a power of two, so that it grows by doubling.
        move: whether a region that cannot grow in place is copied elsewhere; else room is made by preemption.
        block_bytes: bytes of one block, for the copies.
        copy_bytes_per_s: bytes copied per second within the memory of the GPU.
    """

    chunk: int
    move: bool
    block_bytes: int
    copy_bytes_per_s: float


class Contiguous(Placed):
    """A region that grows with the tokens."""

    def __init__(self, config: EngineConfig, pool: BlockPool, rule: GrowthRule, fit: Fit) -> None:
        super().__init__(config, pool, fit)
        self.rule = rule
        self.extensions = self.moves = self.moved_bytes = 0
        self.moved_s = 0.0
        self._longest = -(-config.max_model_len // self.size)

    def _roomy(self, needed: int) -> int:
        """The size of a region for ``needed`` blocks with room to spare: whole chunks, or a power of two."""
        chunk = self.rule.chunk
        wanted = -(-needed // chunk) * chunk if chunk else 1 << (needed - 1).bit_length()
        return self.space.rounded(max(needed, min(wanted, self._longest)))

    def first_size(self, request: Request, tokens: int) -> int:
        """Room for all tokens it has: each attempt then ends with one more, wherever the region lies."""
        needed = -(-tokens // self.size)
        return self._within(self._roomy(needed), self.space.rounded(needed))

    def _within(self, roomy: int, needed: int) -> int:
        """What is roomy must fit into the empty space; if it does not, what is needed."""
        return roomy if roomy <= self._largest_ever else needed

    def grow(self, request: LiveRequest, before: int, after: int) -> bool:
        """In place, else elsewhere; with room to spare, else without."""
        needed = -(-after // self.size)
        now = request.blocks
        if needed <= now:
            return True
        tight = self.space.rounded(needed)
        sizes = (self._roomy(needed), tight)
        for size in sizes:
            if self.space.extend(self.regions[request], now, size):
                self.extensions += 1
                self._account(request, size)
                return True
        if self.rule.move:
            for size in sizes:
                start = self.space.allocate(size)
                if start is not None:
                    self._move(request, before, start, size)
                    return True
        if self.pool.blank >= tight - now:
            self.scattered += 1
        return False

    def _move(self, request: LiveRequest, computed: int, start: int, size: int) -> None:
        rule = self.rule
        self.space.release(self.regions[request], request.blocks)
        self.regions[request] = start
        self._account(request, size)
        copied = -(-computed // self.size) * rule.block_bytes
        self.moves += 1
        self.moved_bytes += copied
        seconds = copied / rule.copy_bytes_per_s
        self.moved_s += seconds
        self.copy_seconds += seconds

    def next_look(self, request: LiveRequest, computed: int) -> int | None:
        """When the region is full."""
        return max(request.blocks * self.size, computed) + 1

    def metrics(self) -> list[Metric]:
        """How regions grew."""
        growth = f"chunks of {self.rule.chunk * self.size} tokens" if self.rule.chunk else "doubling"
        return [
            Metric("kind", f"contiguous, {growth}", "", "one region a request, growing with its tokens"),
            Metric("extensions", self.extensions, "1", "times a region grew in place"),
            Metric("moves", self.moves, "1", "times a region was copied elsewhere to grow"),
            Metric("moved_bytes", self.moved_bytes, "bytes", "copied by moves"),
            Metric("moved_s", self.moved_s, "s", "time steps waited for these copies"),
            Metric("scattered", self.scattered, "1", "times enough blocks were free, but not side by side"),
        ]
