"""From ``cache.reuse_granularity`` and ``cache.pinned`` to an engine's strategy."""

from __future__ import annotations

from kvplan.engine.reuse.pins import PinRule
from kvplan.engine.reuse.strategy import PrefixReuse
from kvplan.engine.strategy import Strategy
from kvplan.scenario.schema import CachePart


def prefix_reuse(cache: CachePart) -> Strategy:
    """What the cache part asks for; it says at least one of the two."""
    pinned = cache.pinned
    if pinned is None:
        return PrefixReuse(cache.reuse_granularity)
    rules = tuple(PinRule(part.tokens, part.ttl, part.min_uses) for part in pinned.prefixes)
    return PrefixReuse(cache.reuse_granularity, rules, pinned.memory)
