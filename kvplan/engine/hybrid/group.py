"""What every cache group answers about a request, and what a look-up found in all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvplan.engine.hybrid.pieces import Tail
from kvplan.engine.prefix_node import Match

if TYPE_CHECKING:
    from kvplan.engine.hybrid.request import HybridRequest


@dataclass(slots=True)
class Hit:
    """A look-up's answer; nothing was changed.

    Attributes:
        tokens: length of the longest prefix that all groups can serve.
        blocks: the same in blocks of the scheduler.
        matches: what each group of full attention contributes; empty where ``tokens`` is 0.
        tails: what each table of window or state groups contributes, by place; empty where ``tokens`` is 0.
        chunks: what each table of chunk groups contributes, by place, group by group; empty likewise.
        longest: length of the longest prefix that some group could have served.
        open_end: it may grow without any other event.
    """

    tokens: int = 0
    blocks: int = 0
    matches: list[Match] = field(default_factory=list)
    tails: dict[int, Tail] = field(default_factory=dict)
    chunks: dict[int, list[Match]] = field(default_factory=dict)
    longest: int = 0
    open_end: bool = False


class Group(ABC):
    """Layers that share one block table.

    *Processed* tokens are those whose step has been delivered, *computed* ones include steps in flight,
    *covered* ones those the step being planned will have computed.

    Attributes:
        block_size: tokens a block covers.
        pace: blocks that a request takes each time it has filled one.
    """

    block_size: int
    pace: int

    @abstractmethod
    def enter(self, request: HybridRequest) -> None:
        """A request is new: it has nothing."""

    @abstractmethod
    def need(
        self, request: HybridRequest, covered: int, hit: Hit | None, computed: int, *, admission: bool
    ) -> int:
        """Blocks that leave the free queue if a waiting request is to hold ``covered`` tokens.

        ``hit`` is what it would begin with; a block of it that nobody holds counts. ``computed`` counts the
        hit. ``admission``: the question is whether the whole sequence fits.
        """

    @abstractmethod
    def lacks(self, request: HybridRequest, covered: int) -> int:
        """Blocks that a running request needs to hold ``covered`` tokens."""

    @abstractmethod
    def adopt(self, request: HybridRequest, hit: Hit) -> None:
        """Begin with what a look-up found."""

    @abstractmethod
    def drop(self, request: HybridRequest, processed: int) -> None:
        """Give back what lies wholly behind what later tokens look at."""

    @abstractmethod
    def grow(self, request: HybridRequest, covered: int) -> int:
        """Enter what is missing for so many tokens; returns the blocks, which the caller takes."""

    @abstractmethod
    def settled_until(self, request: HybridRequest, processed: int) -> int:
        """Covered tokens up to which neither ``grow`` nor ``drop`` has anything to do."""

    @abstractmethod
    def keeps_step(self, request: HybridRequest, computed: int, processed: int) -> bool:
        """Whether the table is what so many tokens, one in a step, have made of it."""

    @abstractmethod
    def write_down(self, request: HybridRequest, computed: int, processed: int) -> None:
        """The table is what so many tokens, one in a step, have made of it."""

    @abstractmethod
    def publish(self, request: HybridRequest, tokens: int) -> bool:
        """Make findable what the first ``tokens`` tokens fill; whether that may help somebody who waits."""

    @abstractmethod
    def publishes(self, request: HybridRequest, progress: int) -> bool:
        """Whether a request that decodes in step, and has computed ``progress`` tokens, has something to
        publish that does not follow from its progress, as long as nobody meets what it publishes."""

    @abstractmethod
    def close(self, request: HybridRequest) -> None:
        """What the request computes from now on is published by its own account."""

    @abstractmethod
    def note_published(self, request: HybridRequest) -> None:
        """The request leaves the step: write down what follows from its progress."""

    @abstractmethod
    def release(self, request: HybridRequest) -> None:
        """Give everything back, the end of the sequence first."""
