"""What a run with a pool for windows reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.recorder import Metric

if TYPE_CHECKING:
    from kvplan.engine.sglang_windows.replica import WindowReplica

SECTION = "sliding windows"


def metrics(replica: WindowReplica) -> list[Metric]:
    """The section of a result."""
    scheduler, pool = replica.windowed, replica.windowed.pool
    full = replica.config.pool_tokens
    queried = scheduler.queried_tokens
    return [
        Metric("window_tokens", pool.span, "tokens", "how far layers with windows look back"),
        Metric("full_pool_tokens", full, "tokens", "what the pool of full attention holds"),
        Metric("window_pool_tokens", pool.window_tokens, "tokens", "what the pool of windows holds"),
        Metric("full_peak_tokens", replica.peak_full, "tokens", "most of the full pool that requests held"),
        Metric(
            "window_peak_tokens", replica.peak_windows, "tokens", "most of the window pool that requests held"
        ),
        Metric("full_peak_share", replica.peak_full / full, "1", "the same, of the full pool"),
        Metric(
            "window_peak_share", replica.peak_windows / pool.window_tokens, "1",
            "the same, of the window pool",
        ),
        Metric(
            "full_evicted_tokens", pool.cache.evicted, "tokens", "prefix cache that left the full pool"
        ),
        Metric(
            "window_evicted_tokens", pool.cache.evicted_windows, "tokens",
            "prefix cache that left the window pool, with full attention or alone",
        ),
        Metric(
            "slid_tokens", pool.slid, "tokens",
            "window places that running requests gave back as they went on",
        ),
        Metric(
            "window_misses", scheduler.missed, "1",
            "admissions that found a longer prefix in the full pool than in the window pool",
        ),
        Metric(
            "window_missed_tokens", scheduler.missed_tokens, "tokens",
            "tokens computed again although the full pool had them, as their windows were gone",
        ),
        Metric(
            "window_missed_share", scheduler.missed_tokens / queried if queried else None, "1",
            "the same, of all tokens of admitted requests",
        ),
    ]  # fmt: skip
