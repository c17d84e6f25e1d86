"""Groups that keep a recurrent state instead of keys and values (Mamba, linear attention)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvplan.engine.content import Content
from kvplan.engine.hybrid.group import Hit
from kvplan.engine.hybrid.sparse import SparseGroup, SparseHolding

if TYPE_CHECKING:
    from kvplan.engine.config import CacheGroup, EngineConfig
    from kvplan.engine.hybrid.pool import SharedPool
    from kvplan.engine.hybrid.request import HybridRequest


class RunningState(SparseGroup):
    """One state a request, overwritten in place: what an engine without prefix caching keeps."""

    def __init__(
        self, place: int, width: int, group: CacheGroup, config: EngineConfig, pool: SharedPool
    ) -> None:
        super().__init__(place, width, group, config, pool)
        self.pace = 0

    def need(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """One block, taken once."""
        return self.lacks(request, covered)

    def lacks(self, request: HybridRequest, covered: int) -> int:
        """One block, taken once."""
        return (1 - request.sparse[self.place].length) * self.width

    def drop(self, request: HybridRequest, processed: int) -> None:
        """It is kept."""

    def grow(self, request: HybridRequest, covered: int) -> int:
        """As the base class."""
        holding = request.sparse[self.place]
        if holding.length:
            return 0
        holding.length = holding.own = 1
        return self.width

    def settled_until(self, request: HybridRequest, processed: int) -> int:
        """One block is enough for any length."""
        return self.config.max_model_len

    def keeps_step(self, request: HybridRequest, computed: int, processed: int) -> bool:
        """It is there."""
        return True

    def write_down(self, request: HybridRequest, computed: int, processed: int) -> None:
        """It is still there."""


class BoundaryStates(SparseGroup):
    """States at block boundaries (``mamba_cache_mode="align"``): a step reads one block and writes another.

    Entry i of the table holds the state after ``(i + 1) * block_size`` tokens, or, as the last entry, the
    running state on its way there; entries that steps passed over are empty.
    """

    def __init__(
        self,
        place: int,
        width: int,
        group: CacheGroup,
        config: EngineConfig,
        pool: SharedPool,
    ) -> None:
        super().__init__(place, width, group, config, pool)
        self.looked_at = self.behind = 1
        self.fresh: set[tuple[int, int]] = set()
        """Published in this very step, as lines and blocks up to there: nobody can begin with what is not
        computed yet."""

    def need(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """One block for a step that ends in a new one; more than there are to begin with a fresh state."""
        if hit is None:
            return self.lacks(request, covered)
        if self.is_fresh(hit):
            return self.config.num_blocks + 1
        missing = -(-covered // self.block_size) - hit.tokens // self.block_size
        return (self.width if missing > 0 else 0) + hit.tails[self.place].unheld

    def is_fresh(self, hit: Hit) -> bool:
        """Whether the state it ends with was published in this very step."""
        last = hit.tails[self.place].pieces[-1]
        return (last.line.key, last.stop) in self.fresh

    def lacks(self, request: HybridRequest, covered: int) -> int:
        """One block for a step that ends in a new one."""
        ends_in_new = -(-covered // self.block_size) > request.sparse[self.place].length
        return self.width if ends_in_new else 0

    def adopt(self, request: HybridRequest, hit: Hit) -> None:
        """Begin with the state found."""
        super().adopt(request, hit)
        holding = request.sparse[self.place]
        holding.standing = {holding.length - 1}
        holding.dropped = 0

    def drop(self, request: HybridRequest, processed: int) -> None:
        """States older than the one the next step starts from."""
        holding = request.sparse[self.place]
        stop = min(self.skipped_tokens(processed) // self.block_size, holding.length)
        if stop <= holding.dropped:
            return
        holding.dropped = stop
        old = [place for place in holding.standing if place < stop]
        if old:
            self.give_back(holding, len(old), stop)
            holding.standing.difference_update(old)

    def grow(self, request: HybridRequest, covered: int) -> int:
        """As the base class: one block for the boundary the step ends at or before."""
        holding = request.sparse[self.place]
        last = -(-covered // self.block_size) - 1
        if last < holding.length:
            return 0
        holding.own += 1
        holding.length = last + 1
        holding.standing.add(last)
        return self.width

    def keeps_step(self, request: HybridRequest, computed: int, processed: int) -> bool:
        """As the base class; a prompt passes over entries, which stay empty."""
        holding = request.sparse[self.place]
        stand = len(holding.standing) == holding.length - holding.dropped
        return stand and super().keeps_step(request, computed, processed)

    def write_down(self, request: HybridRequest, computed: int, processed: int) -> None:
        """As the base class."""
        super().write_down(request, computed, processed)
        holding = request.sparse[self.place]
        holding.standing = set(range(holding.dropped, holding.length))

    def holds(self, holding: SparseHolding, place: int) -> bool:
        """Whether a state stands in this entry of the table."""
        return place in holding.standing

    def retained(self, request: HybridRequest, start: int, stop: int) -> Sequence[int]:
        """The states at the boundaries that are kept; all of them without an interval."""
        if self.config.retention_interval is None:
            return range(start, stop)
        return super().retained(request, start, stop)

    def note(self, content: Content, places: Sequence[int]) -> None:
        """States are published: they can be read from the next step on."""
        for place in places:
            self.fresh.update(
                (key, stop) for key, _, stop in content.lines(place, place + 1, self.block_size)
            )

    def release(self, request: HybridRequest) -> None:
        """Give everything back."""
        super().release(request)
        request.sparse[self.place].standing.clear()
