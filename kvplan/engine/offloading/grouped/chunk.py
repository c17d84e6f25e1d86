"""Names of chunks, and what one request has done with them."""

from __future__ import annotations

from typing import TypeAlias

Key: TypeAlias = tuple[int, int]
"""A chunk: its group, and the prefix that ends with it (``RequestState.prefix_id``)."""

ABSENT, PENDING, IDLE = -2, -1, 0
"""Readers of chunks that are not there, are being written, and may go."""


class Use:
    """Chunks a request has come across.

    Attributes:
        places: those it stored, wanted to store or loaded, each with the token that it ends with.
        inserted, reused: those it put there; those that were there, and that it did not put there itself.
        missed: those it found missing when it came to store them.
        rank: of its chunks while it goes on, under LRU; 0 until its first use.
    """

    __slots__ = ("inserted", "missed", "places", "rank", "reused")

    def __init__(self) -> None:
        self.places: dict[Key, int] = {}
        self.inserted: set[Key] = set()
        self.reused: set[Key] = set()
        self.missed: set[Key] = set()
        self.rank = 0

    def from_the_end(self) -> list[Key]:
        """All of them, the end of the prompt first; of those that end together, the last group first."""
        places = self.places
        return sorted(places, key=lambda key: (-places[key], -key[0]))
