"""What one request has done with the host's cache so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.content import Content
from kvplan.engine.offloading.spans import Spans

if TYPE_CHECKING:
    from kvplan.engine.offloading.turn import Turn


class Use:
    """Chunks a request has come across, by their places in its content.

    Attributes:
        turn: that of its chunks while it goes on, under LRU; None until its first use.
        met: chunks it stored, wanted to store or loaded.
        inserted, reused: those it put there; those that were there, and that it did not put there itself.
        missed: those it found missing when it came to store them.
    """

    __slots__ = ("content", "inserted", "met", "missed", "reused", "turn")

    def __init__(self, content: Content) -> None:
        self.content = content
        self.turn: Turn | None = None
        self.met, self.inserted, self.reused, self.missed = Spans(), Spans(), Spans(), Spans()
