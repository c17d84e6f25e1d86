"""What became of drafts."""

from __future__ import annotations

from itertools import accumulate


class Drafted:
    """Counts of a run.

    Attributes:
        proposed: verifications by how many drafts they had; accepted: by how many stood.
    """

    __slots__ = ("accepted", "proposed")

    def __init__(self, tokens: int) -> None:
        self.proposed, self.accepted = [0] * (tokens + 1), [0] * (tokens + 1)

    def add(self, other: Drafted) -> None:
        """Count those of another engine with as many drafts a step, too."""
        self.proposed = list(map(int.__add__, self.proposed, other.proposed))
        self.accepted = list(map(int.__add__, self.accepted, other.accepted))

    @property
    def steps(self) -> int:
        """A request's verifications, of all requests together."""
        return sum(self.proposed)

    @property
    def proposed_tokens(self) -> int:
        """Drafts verified."""
        return sum(count * drafts for drafts, count in enumerate(self.proposed))

    @property
    def accepted_tokens(self) -> int:
        """Drafts that stood."""
        return sum(count * stood for stood, count in enumerate(self.accepted))

    @property
    def stood(self) -> list[int]:
        """In how many verifications the first, the second, ... draft stood."""
        return list(accumulate(reversed(self.accepted[1:])))[::-1]
