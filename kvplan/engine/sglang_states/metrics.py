"""What became of recurrent states, as every report shows it."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.engine.recorder import Metric

SECTION = "recurrent states"


@dataclass(frozen=True, slots=True)
class StateFigures:
    """What an engine has counted.

    Attributes:
        slots: of the pool of states; each: of a running request, spare ones included.
        peak_held, peak_used: most slots that running requests had, and they and the tree together.
        cached: states in the tree at the end; evicted: those that went for want of slots or of tokens.
        orphaned: cached tokens that went with their last state, for want of slots.
        matched: tokens of prompts that the cache had when they were let in; hits: those with a state behind.
        cut_short: requests that computed some of these again.
    """

    slots: int
    each: int
    peak_held: int
    peak_used: int
    cached: int
    evicted: int
    orphaned: int
    matched: int
    hits: int
    cut_short: int

    def metrics(self) -> list[Metric]:
        """The section of a result."""
        stateless = self.matched - self.hits
        return [
            Metric("slots", self.slots, "states", "the pool holds"),
            Metric("slots_per_request", self.each, "states", "of a running request, with spare ones"),
            Metric("peak_held_slots", self.peak_held, "states", "most that running requests had"),
            Metric(
                "peak_used_slots", self.peak_used, "states",
                "most in use, those of cached prefixes included",
            ),
            Metric("cached_states", self.cached, "states", "behind cached prefixes at the end"),
            Metric("evicted_states", self.evicted, "states", "that went for want of slots or of tokens"),
            Metric(
                "evicted_for_states", self.orphaned, "tokens",
                "of cached prefixes that went with their last state, for want of slots",
            ),
            Metric(
                "matched_tokens", self.matched, "tokens",
                "of prompts that the cache had when they were let in",
            ),
            Metric("stateless_tokens", stateless, "tokens", "of those, computed again for want of a state"),
            Metric("cut_short", self.cut_short, "requests", "that computed some of these again"),
        ]  # fmt: skip
