"""What one engine's requests hold in the KV cache: vLLM's ``KVCacheManager``, as the scheduler sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.live import LiveRequest
from kvplan.engine.prefix_node import Match
from kvplan.engine.replacement.choice import prefix_index

if TYPE_CHECKING:
    from kvplan.engine.replacement.foresight import Foresight
    from kvplan.traces.request import Request

_NO_MATCH = Match()


class KvManager:
    """Pool and prefix index of one engine instance.

    Attributes:
        version: changes whenever a request that did not fit might fit now.
    """

    computed_anyway = 1
    """Known tokens at the end of a request that are computed whatever is cached."""

    def __init__(self, config: EngineConfig, foresight: Foresight | None = None) -> None:
        self.config = config
        self.block_size = config.block_size
        self.caching = config.enable_prefix_caching
        self.index = prefix_index(config.eviction, config.block_size, config.usable_blocks, foresight)
        self.pool = self.index.pool
        self.version = 0

    @property
    def free_blocks(self) -> int:
        """Blocks nobody references, cached ones included."""
        return self.pool.blank + self.pool.cached

    def live(self, request: Request) -> LiveRequest:
        """What the engine keeps about a request that arrives."""
        return LiveRequest(request, self.index.root)

    def _match(self, request: LiveRequest) -> Match:
        if not self.caching:
            return _NO_MATCH
        tokens = request.num_tokens - self.computed_anyway
        return self.index.match(request.content, tokens // self.block_size if tokens > 0 else 0)

    def found_blocks(self, request: Request) -> int:
        """Blocks of a prompt that a look-up would find; looking changes nothing."""
        if not self.caching:
            return 0
        # A router asks every replica: what the engine keeps of a request is not made for that.
        limit = (request.prompt_tokens - self.computed_anyway) // self.block_size
        return self.index.match(Content(request.prompt, request.output), limit).blocks

    def placed(self, tokens: int) -> int:
        """How far a request has places while it computes the last of so many tokens."""
        return tokens

    def blocks_of(self, tokens: int) -> int:
        """Blocks that a request holds while it computes the last of so many tokens."""
        return -(-tokens // self.block_size)

    def allocate(self, request: LiveRequest, tokens: int) -> bool:
        """Give a running request ``tokens`` more tokens and the blocks they need, or change nothing."""
        blocks = self.blocks_of(request.computed + tokens) - request.blocks
        if blocks > 0:
            if blocks > self.free_blocks:
                return False
            self.index.take(blocks)
            request.blocks += blocks
        request.computed += tokens
        self.publish(request)
        return True

    def take(self, blocks: int) -> int:
        """Take what requests that decode in step have needed; returns the most blocks in use meanwhile."""
        self.index.take(blocks)
        pool = self.pool
        return pool.usable - pool.blank - pool.cached

    def give_back(self, request: LiveRequest) -> None:
        """Give back all blocks of a request."""
        self.index.release(request, request.blocks)
        request.blocks = 0

    def publish(self, request: LiveRequest) -> None:
        """Publish what an allocation fills: known tokens that are computed or scheduled now."""
        if self.caching:
            computed, known = request.computed, request.num_tokens
            blocks = (computed if computed < known else known) // self.block_size
            if blocks > request.published:
                self.version += 1
            self.index.publish(request, blocks)

    def publish_until(self, request: LiveRequest, tokens: int) -> None:
        """Publish what the first ``tokens`` tokens fill."""
        self.index.publish(request, tokens // self.block_size)
