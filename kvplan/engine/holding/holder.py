"""Who decides which blocks a request holds, and what the scheduler asks of it.

Prefix caching is off wherever a holder decides: blocks that are moved, reserved or emptied of tokens cannot
be found by their content. The pool is then a number, ``pool.blank``, and what a request holds is
``request.blocks``; a holder keeps the two consistent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from kvplan.engine.blocks import BlockPool
    from kvplan.engine.config import EngineConfig
    from kvplan.engine.holding.steady import HeldDecodes
    from kvplan.engine.live import LiveRequest
    from kvplan.engine.recorder import Metric
    from kvplan.traces.request import Request

Growth: TypeAlias = "tuple[LiveRequest, int, int]"
"""A request that is to go from so many computed tokens to so many."""


class Holder(ABC):
    """Gives requests their blocks: every operation happens wholly or changes nothing.

    Args:
        config: engine options; one group, no prefix caching.
        pool: the free blocks.
    """

    section: str
    """Where its figures stand in a result."""

    contiguous = False
    """Whether a request's blocks must lie side by side, so that free ones may be of no use."""

    chunks_matter = True
    """Whether a request that cannot start with a chunk might start with a smaller one."""

    def __init__(self, config: EngineConfig, pool: BlockPool) -> None:
        self.config = config
        self.pool = pool
        self.size = config.block_size
        self.copy_seconds = 0.0
        """Copies that the step being planned waits for; whoever reads it sets it back to 0."""

    @abstractmethod
    def rejection(self, request: Request) -> str | None:
        """Why the pool can never hold this request, or ``None``."""

    @abstractmethod
    def admits(self, request: LiveRequest, tokens: int, reserve: int) -> bool:
        """Whether a waiting request can start with ``tokens`` tokens and leave ``reserve`` blocks free."""

    @abstractmethod
    def admit(self, request: LiveRequest, tokens: int) -> None:
        """It starts: the scheduler has given it blocks for ``tokens`` tokens; give it the rest it gets."""

    @abstractmethod
    def grow(self, request: LiveRequest, before: int, after: int) -> bool:
        """Let the request compute tokens ``before .. after``; False if there is no room."""

    @abstractmethod
    def grow_all(self, wanted: list[Growth], besides: int) -> bool:
        """``grow`` for several, in this order, and leave ``besides`` blocks; False if there is no room."""

    def decodes(self) -> HeldDecodes:
        """The set of requests in step that hold what it gives them."""
        from kvplan.engine.holding.steady import HeldDecodes

        return HeldDecodes(self.size, self)

    def next_look(self, request: LiveRequest, computed: int) -> int | None:
        """The next number of computed tokens that needs ``grow`` while it decodes; ``None``: never."""
        return None

    def blocks_of(self, request: LiveRequest, computed: int) -> int:
        """Blocks that a running request holds which has computed so many tokens."""
        return request.blocks

    def settle(self, request: LiveRequest, computed: int) -> bool:
        """A chunk of its prompt has been computed: drop what is not kept; whether blocks came free."""
        return False

    def release(self, request: LiveRequest) -> None:  # noqa: B027 - most have nothing to forget
        """It finishes or is preempted; the scheduler gives ``request.blocks`` back."""

    def attended(self, request: LiveRequest, computed: int) -> int:
        """Tokens that are left to attend to once ``computed`` tokens have been computed."""
        return computed

    def largest_hole(self) -> int:
        """Blocks of the largest piece that could be given out."""
        return self.pool.blank

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """What it reports beside fragmentation."""
