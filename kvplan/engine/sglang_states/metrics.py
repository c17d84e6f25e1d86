"""What became of recurrent states, as every report shows it."""

from __future__ import annotations

from kvplan.engine.recorder import Metric
from kvplan.engine.sglang_states.scheduler import StateScheduler

SECTION = "recurrent states"


def metrics(scheduler: StateScheduler) -> list[Metric]:
    """The section of a result."""
    pool, index = scheduler.pool, scheduler.pool.index
    passed, hits = scheduler.passed_tokens, scheduler.hit_tokens
    return [
        Metric("slots", pool.slots, "states", "the pool holds"),
        Metric("slots_per_request", 1 + pool.spares, "states", "of a running request, with spare ones"),
        Metric("peak_held_slots", pool.peak_held, "states", "most that running requests had"),
        Metric("peak_used_slots", pool.peak_used, "states", "most in use, those of cached prefixes included"),
        Metric("cached_states", index.states, "states", "behind cached prefixes at the end"),
        Metric("evicted_states", index.evicted_states, "states", "that went for want of slots or of tokens"),
        Metric(
            "evicted_for_states", index.orphaned, "tokens",
            "of cached prefixes that went with their last state, for want of slots",
        ),
        Metric("matched_tokens", passed, "tokens", "of prompts that the cache had when they were let in"),
        Metric("stateless_tokens", passed - hits, "tokens", "of those, computed again for want of a state"),
        Metric("cut_short", scheduler.cut_short, "requests", "that computed some of these again"),
    ]  # fmt: skip
