"""Blocks of requests: prefix look-up, admission checks, allocation, publication, release.

One ``GroupManager`` per cache group; all take blocks from the one pool and their demands are summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kvplan.engine.config import EngineConfig
from kvplan.engine.reference.groups import GroupManager, make_group_manager
from kvplan.engine.reference.pool import BlockPool
from kvplan.engine.reference.state import PrefixChain, RequestState


@dataclass(frozen=True, slots=True)
class Hit:
    """What a prefix look-up found: tokens, and one block list per group (null blocks included)."""

    tokens: int
    blocks: tuple[tuple[int, ...], ...]


class KvCache:
    """The cache of one engine: ``KVCacheManager`` with its coordinator."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.num_blocks)
        self.chain = PrefixChain()
        sizes = [group.block_size for group in config.groups]
        # resolve_kv_cache_block_sizes: a hash covers the gcd, a hit ends on the lcm.
        self.hash_block = math.gcd(*sizes)
        self.scheduler_block = math.lcm(*sizes)
        self.managers: list[GroupManager] = [
            make_group_manager(index, group, config, self.pool, self.hash_block, self.scheduler_block)
            for index, group in enumerate(config.groups)
        ]
        self.no_hit = Hit(0, tuple(() for _ in self.managers))

    def lookup(self, state: RequestState) -> Hit:
        """Longest usable cached prefix; at least one known token is left to compute. Changes nothing
        but the request's remembered shared-prefix boundary.
        """
        state.shared_prefix_boundary = 0
        if not self.config.enable_prefix_caching:
            return self.no_hit
        prefix_ids = state.prefix_ids(self.chain, self.hash_block)
        limit = (state.num_tokens - 1) // self.scheduler_block * self.scheduler_block
        if len(self.managers) == 1:
            tokens, blocks = self.managers[0].longest_hit(prefix_ids, limit)
            return Hit(tokens, (tuple(blocks),))
        return self._reconcile(state, prefix_ids, limit)

    def _reconcile(self, state: RequestState, prefix_ids: Sequence[int], limit: int) -> Hit:
        """The longest length every group can serve: a fixed point that only shrinks, full attention first."""
        order = sorted(self.managers, key=lambda manager: not manager.downward_closed)
        found: dict[int, tuple[int, ...]] = {}
        length = longest = limit
        first = True
        while True:
            before = length
            for manager in order:
                if manager.downward_closed and manager.index in found:
                    found[manager.index] = found[manager.index][: length // manager.group.block_size]
                    continue
                length, blocks = manager.longest_hit(prefix_ids, length)
                length = length // self.scheduler_block * self.scheduler_block
                found[manager.index] = tuple(blocks)
                if manager.downward_closed:
                    longest = min(longest, length)
            if length == before or (first and len(order) == 2 and order[0].downward_closed):
                break
            first = False
        if longest > length:
            state.shared_prefix_boundary = longest
        blocks_of = tuple(
            found[manager.index][: length // manager.group.block_size] for manager in self.managers
        )
        return Hit(length, blocks_of)

    def allocate(
        self,
        state: RequestState,
        new_tokens: int,
        hit: Hit | None = None,
        *,
        full_sequence_must_fit: bool = False,
        reserve_blocks: int = 0,
    ) -> bool:
        """Give the request blocks for ``new_tokens`` more tokens, or change nothing and return False.

        ``hit`` is what a waiting request takes over from the cache; None for a running one. Blocks that
        ``new_tokens`` fill with known tokens are published at once, before the step runs.
        """
        hit = hit or self.no_hit
        longest = self.config.max_model_len
        computed = state.num_computed + hit.tokens
        if full_sequence_must_fit:
            whole = min(state.num_tokens, longest)
            if self._need(state, whole, hit, admission=True) + reserve_blocks > self.pool.free_blocks:
                return False
        for manager in self.managers:
            manager.drop_out_of_reach(state, computed)
        covered = min(computed + new_tokens, longest)
        if self._need(state, covered, hit) + reserve_blocks > self.pool.free_blocks:
            return False
        for manager, blocks in zip(self.managers, hit.blocks, strict=True):
            manager.adopt(state, blocks, hit.tokens)
        for manager in self.managers:
            manager.grow(state, covered)
        self.publish(state, min(computed + new_tokens, state.num_tokens))
        return True

    def _need(self, state: RequestState, tokens: int, hit: Hit, *, admission: bool = False) -> int:
        return sum(
            manager.need(state, tokens, blocks, hit.tokens, admission=admission)
            for manager, blocks in zip(self.managers, hit.blocks, strict=True)
        )

    def publish(self, state: RequestState, tokens: int) -> None:
        """Make the blocks wholly filled by the first ``tokens`` tokens findable."""
        if not self.config.enable_prefix_caching:
            return
        prefix_ids = state.prefix_ids(self.chain, self.hash_block)
        tokens = tokens // self.scheduler_block * self.scheduler_block
        for manager in self.managers:
            manager.publish(state, prefix_ids, tokens)

    def release(self, state: RequestState) -> None:
        """Give all blocks back, group after group, the end of the sequence first."""
        for manager in self.managers:
            manager.release(state)

    def start_step(self) -> None:
        """Called once per ``schedule()``."""
        for manager in self.managers:
            manager.start_step()

    def aligned_split(self, state: RequestState, new_tokens: int, hit_tokens: int) -> int:
        """Cut a prefill chunk where a group needs it to end (recurrent state: at a block boundary)."""
        for manager in self.managers:
            new_tokens = manager.aligned_split(state, new_tokens, state.num_computed + hit_tokens)
        return new_tokens
