"""Rounds between prompts in which nobody is let in (``prefill_decode_interval``)."""

from __future__ import annotations


class PrefillPause:
    """What is left of the pause after a prefill.

    Args:
        interval: rounds of a pause; 0 is none.
        least: requests that must run for it to hold (``prefill_decode_interval_min_bs``).
    """

    __slots__ = ("interval", "least", "left")

    def __init__(self, interval: int, least: int) -> None:
        self.interval, self.least = interval, least
        self.left = 0
        """Rounds to come (``_prefill_decode_interval_remaining``)."""

    def begin(self) -> None:
        """Somebody was let in."""
        self.left = self.interval

    def end(self) -> None:
        """Rounds without a batch take no time: all that were left have gone by."""
        self.left = 0

    def pass_by(self, rounds: int, running: int) -> None:
        """So many rounds beside ``running`` requests."""
        if self.left:
            self.left = max(self.left - rounds, 0) if running >= self.least else 0

    def holds(self, running: int) -> bool:
        """Whether nobody is let in this round (``_should_defer_prefill``), which is one less then."""
        held = self.left > 0 and running >= self.least
        self.pass_by(1, running)
        return held
