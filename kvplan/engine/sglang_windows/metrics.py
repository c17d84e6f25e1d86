"""What a run with a pool for windows reports."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.engine.recorder import Metric

SECTION = "sliding windows"


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """What an engine has counted; tokens, unless it says otherwise.

    Attributes:
        span: how far layers with windows look back.
        full_pool, window_pool: what the pools hold.
        peak_full, peak_windows: most of each that requests held.
        evicted, evicted_windows: what left each for want of room.
        slid: window places that running requests gave back.
        missed: admissions (a count) that full attention knew more of than windows did; missed_tokens: by how
            much.
        queried: tokens of admitted requests.
    """

    span: int
    full_pool: int
    window_pool: int
    peak_full: int
    peak_windows: int
    evicted: int
    evicted_windows: int
    slid: int
    missed: int
    missed_tokens: int
    queried: int

    def metrics(self) -> list[Metric]:
        """The section of a result."""
        missed_share = self.missed_tokens / self.queried if self.queried else None
        return [
            Metric("window_tokens", self.span, "tokens", "how far layers with windows look back"),
            Metric("full_pool_tokens", self.full_pool, "tokens", "what the pool of full attention holds"),
            Metric("window_pool_tokens", self.window_pool, "tokens", "what the pool of windows holds"),
            Metric("full_peak_tokens", self.peak_full, "tokens", "most of the full pool that requests held"),
            Metric(
                "window_peak_tokens", self.peak_windows, "tokens",
                "most of the window pool that requests held",
            ),
            Metric("full_peak_share", self.peak_full / self.full_pool, "1", "the same, of the full pool"),
            Metric(
                "window_peak_share", self.peak_windows / self.window_pool, "1",
                "the same, of the window pool",
            ),
            Metric(
                "full_evicted_tokens", self.evicted, "tokens", "prefix cache that left the full pool"
            ),
            Metric(
                "window_evicted_tokens", self.evicted_windows, "tokens",
                "prefix cache that left the window pool, with full attention or alone",
            ),
            Metric(
                "slid_tokens", self.slid, "tokens",
                "window places that running requests gave back as they went on",
            ),
            Metric(
                "window_misses", self.missed, "1",
                "admissions that found a longer prefix in the full pool than in the window pool",
            ),
            Metric(
                "window_missed_tokens", self.missed_tokens, "tokens",
                "tokens computed again although the full pool had them, as their windows were gone",
            ),
            Metric(
                "window_missed_share", missed_share, "1",
                "tokens computed again for want of windows, of all tokens of admitted requests",
            ),
        ]  # fmt: skip
