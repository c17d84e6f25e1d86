"""Blocks of requests: prefix look-up, admission checks, allocation, publication, release.

One ``GroupManager`` per cache group; all take blocks from the one pool and their demands are summed.
"""

from __future__ import annotations

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.reference.coordination import Hit, group_alike, hits_apart, longest_common_hit
from kvplan.engine.reference.groups import GroupManager, Shared
from kvplan.engine.reference.pool import BlockPool
from kvplan.engine.reference.recurrent import BoundaryStates, RunningState
from kvplan.engine.reference.state import PrefixChain, RequestState
from kvplan.engine.reference.windows import LocalChunks, SlidingWindow


class KvCache:
    """The cache of one engine: ``KVCacheManager`` with its coordinator."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.pool = self.make_pool()
        self.chain = PrefixChain()
        self.shared = Shared(config, self.pool, self.chain)
        self.alignment = config.hit_alignment
        self.managers: list[GroupManager] = [
            self._manager(index, group) for index, group in enumerate(config.groups)
        ]
        self.no_hit = Hit(0, tuple(() for _ in self.managers))
        self._alike = group_alike(self.managers, self.pool)

    def make_pool(self) -> BlockPool:
        """All blocks, free."""
        return BlockPool(self.config.num_blocks)

    def _manager(self, index: int, group: CacheGroup) -> GroupManager:
        recurrent = BoundaryStates if self.config.enable_prefix_caching else RunningState
        kinds: dict[str, type[GroupManager]] = {
            "full": GroupManager,
            "sliding": SlidingWindow,
            "chunked": LocalChunks,
            "mamba": recurrent,
        }
        return kinds[group.kind](index, group, self.shared)

    def lookup(self, state: RequestState) -> Hit:
        """Longest usable cached prefix; at least one known token is left to compute. Changes nothing
        but the request's remembered shared-prefix boundary.
        """
        if not self.config.enable_prefix_caching:
            return self.no_hit
        hit = longest_common_hit(self._alike, state, state.num_tokens - 1)
        state.shared_prefix_boundary = hit.longest if hit.longest > hit.tokens else 0
        return hit

    def lookup_apart(self, state: RequestState) -> Hit | None:
        """As ``lookup``, where somebody else brings what the other groups lack of what full attention has.

        None where that is nothing more than all groups have.
        """
        if not self.config.enable_prefix_caching:
            return None
        return hits_apart(self._alike, state, state.num_tokens - 1)

    def allocate(
        self,
        state: RequestState,
        new_tokens: int,
        hit: Hit | None = None,
        *,
        full_sequence_must_fit: bool = False,
        reserve_blocks: int = 0,
    ) -> bool:
        """Give the request blocks for ``new_tokens`` more tokens, or return False.

        ``hit`` is what a waiting request takes over from the cache; None for a running one. Blocks that
        ``new_tokens`` fill with known tokens are published at once, before the step runs. When the answer is
        no, nothing has changed except that a running request gave back blocks it had no more use for.
        """
        longest = self.config.max_model_len
        if hit is None:
            covered = min(state.num_computed + new_tokens, longest)
            if covered <= state.settled_until:
                self.publish(state, min(covered, state.num_tokens))
                return True
            hit = self.no_hit
        computed = state.num_computed + hit.tokens
        if full_sequence_must_fit:
            whole = min(state.num_tokens, longest)
            if (
                self._need(state, whole, hit, computed, admission=True) + reserve_blocks
                > self.pool.free_blocks
            ):
                return False
        # Steps in flight still read blocks behind the tokens they compute.
        processed = max(0, computed - state.in_flight)
        for manager in self.managers:
            manager.drop_out_of_reach(state, processed)
        covered = min(computed + new_tokens, longest)
        if self._need(state, covered, hit, computed) + reserve_blocks > self.pool.free_blocks:
            return False
        for manager, blocks in zip(self.managers, hit.blocks, strict=True):
            manager.adopt(state, blocks, computed)
        for manager in self.managers:
            manager.grow(state, covered)
        state.settled_until = min(manager.settled_until(state, processed) for manager in self.managers)
        self.publish(state, min(computed + new_tokens, state.num_tokens))
        return True

    def _need(
        self, state: RequestState, tokens: int, hit: Hit, computed: int, *, admission: bool = False
    ) -> int:
        return sum(
            manager.need(state, tokens, blocks, computed, admission=admission)
            for manager, blocks in zip(self.managers, hit.blocks, strict=True)
        )

    def publish(self, state: RequestState, tokens: int) -> None:
        """Make the blocks wholly filled by the first ``tokens`` tokens findable, as far as a hit can end."""
        if not self.config.enable_prefix_caching:
            return
        tokens -= tokens % self.alignment
        if tokens == state.published_tokens:
            return
        state.published_tokens = tokens
        for manager in self.managers:
            manager.publish(state, tokens)

    def release(self, state: RequestState) -> None:
        """Give all blocks back, group after group, the end of the sequence first."""
        for manager in self.managers:
            manager.release(state)
        state.settled_until = state.published_tokens = 0

    def start_step(self) -> None:
        """Called once per ``schedule()``."""
        for manager in self.managers:
            manager.start_step()
