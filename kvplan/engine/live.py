"""One request inside the fast engine."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from kvplan.engine.content import Content

if TYPE_CHECKING:
    from kvplan.engine.blocks import Segment
    from kvplan.engine.prefix_node import Node
    from kvplan.engine.steady import SteadyDecodes
    from kvplan.traces.request import Request


class Status(Enum):
    """Where a request is in its life."""

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    FINISHED = auto()


class LiveRequest:
    """Counters of one request, under the names of vLLM's ``Request``.

    While it decodes in step with the others (``steady`` is set) its progress is ``base`` plus the shared
    tick, and the counters below are stale until ``SteadyDecodes.leave`` writes them down.

    Attributes:
        computed: tokens computed or scheduled.
        num_tokens: known tokens: prompt and delivered outputs.
        placeholders: outputs in flight; stale: outputs that were in flight when it was preempted.
        samples: outputs scheduled so far, delivered or not.
        blocks: blocks held; published: how many of them are findable.
        held: segments held, each with the block at which its hold begins, in sequence order.
        tail: last node of its path in the prefix index; in_tree: blocks of it that are in the index.
        order: rises with every admission: the position in vLLM's ``running`` list.
    """

    __slots__ = (
        "base", "blocks", "cached_tokens", "computed", "content", "finish_tick", "first_token_s", "held",
        "in_tree", "max_tokens", "num_tokens", "order", "placeholders", "preemptions",
        "prompt_tokens", "published", "request", "samples", "scheduled_s", "stale", "status", "steady",
        "tail",
    )  # fmt: skip

    def __init__(self, request: Request, root: Node) -> None:
        self.request = request
        self.content = Content(request.prompt, request.output)
        self.prompt_tokens = request.prompt_tokens
        self.max_tokens = request.output_tokens
        self.computed = 0
        self.num_tokens = request.prompt_tokens
        self.placeholders = 0
        self.stale = 0
        self.samples = 0
        self.status = Status.WAITING
        self.blocks = 0
        self.published = 0
        self.held: list[tuple[Segment, int]] = []
        self.tail = root
        self.in_tree = 0
        self.order = -1
        self.steady: SteadyDecodes | None = None
        self.base = 0
        self.finish_tick = 0
        self.cached_tokens = -1
        self.preemptions = 0
        self.scheduled_s = -1.0
        self.first_token_s = -1.0

    def expect_publication(self) -> None:
        """Its open node was closed: the next block that fills has to be published."""
        if self.steady is not None:
            self.steady.expect_publication(self)

    def published_blocks(self) -> int:
        """Blocks findable now, as of the last ``schedule()``."""
        steady = self.steady
        if steady is None:
            return self.published
        blocks = (self.base + steady.tick - steady.lag) // steady.block_size
        return blocks if blocks > self.published else self.published
