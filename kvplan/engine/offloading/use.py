"""What one request has done with the host's cache so far."""

from __future__ import annotations


class Use:
    """Chunks a request has come across, each known by its name.

    Attributes:
        rank: its place among requests, by first use; 0 until then.
        depths: chunks it stored, wanted to store or loaded, and where each stands in its prompt.
        inserted, reused: those it put there; those that were there, and that it did not put there itself.
        missed: those it found missing when it came to store them.
    """

    __slots__ = ("depths", "inserted", "missed", "rank", "reused")

    def __init__(self) -> None:
        self.rank = 0
        self.depths: dict[int, int] = {}
        self.inserted: set[int] = set()
        self.reused: set[int] = set()
        self.missed: set[int] = set()

    @property
    def in_order(self) -> list[int]:
        """Its chunks, the beginning of the prompt first."""
        return sorted(self.depths, key=self.depths.__getitem__)
