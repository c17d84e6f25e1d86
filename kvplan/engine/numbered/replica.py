"""What a router asks an instance whose blocks are numbered."""

from __future__ import annotations

from typing import cast

from kvplan.engine.numbered.scheduler import NumberedScheduler
from kvplan.engine.replica import Replica
from kvplan.traces.request import Request


class NumberedReplica(Replica):
    """A replica with a ``NumberedScheduler``, which others make; it counts in the scheduler's blocks."""

    def prompt_blocks_of(self, request: Request) -> int:
        """As the base class."""
        return -(-request.prompt_tokens // self.scheduler.block_size)

    def cached_blocks_of(self, request: Request) -> int:
        """As the base class."""
        return cast(NumberedScheduler, self.scheduler).found_blocks(request)
