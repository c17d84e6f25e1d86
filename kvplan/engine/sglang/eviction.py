"""Which cached prefix goes first: the eviction keys of SGLang's radix cache.

A policy is a function of what a node of the tree remembers about itself; the evictable leaf with the
smallest key is evicted. Verified by recordings of the real caches: all seven.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from kvplan.registry import Registry


class Aged(Protocol):
    """What a node remembers about itself.

    Attributes:
        last_access: logical time of the last walk that passed it.
        creation: logical time of its creation.
        hit_count: requests that inserted it; 2 means it was reused once.
        priority: highest priority of the requests that inserted it.
    """

    last_access: float
    creation: float
    hit_count: int
    priority: int


EvictionKey: TypeAlias = tuple[float, float]
EvictionPolicy: TypeAlias = Callable[[Aged], EvictionKey]

EVICTION: Registry[EvictionPolicy] = Registry("eviction policy")


@EVICTION.register("lru")
def least_recently_used(node: Aged) -> EvictionKey:
    """The leaf that was passed longest ago."""
    return (node.last_access, 0)


@EVICTION.register("lfu")
def least_frequently_used(node: Aged) -> EvictionKey:
    """The leaf that fewest requests inserted; among equals the one passed longest ago."""
    return (node.hit_count, node.last_access)


@EVICTION.register("fifo")
def first_in_first_out(node: Aged) -> EvictionKey:
    """The oldest leaf."""
    return (node.creation, 0)


@EVICTION.register("mru")
def most_recently_used(node: Aged) -> EvictionKey:
    """The leaf that was passed last."""
    return (-node.last_access, 0)


@EVICTION.register("filo")
def first_in_last_out(node: Aged) -> EvictionKey:
    """The youngest leaf."""
    return (-node.creation, 0)


@EVICTION.register("priority")
def lowest_priority(node: Aged) -> EvictionKey:
    """The leaf of the lowest priority; among equals the one passed longest ago."""
    return (node.priority, node.last_access)


@EVICTION.register("slru")
def segmented_least_recently_used(node: Aged) -> EvictionKey:
    """Leaves that were never reused go before those that were; within a segment by last access."""
    return (node.hit_count >= 2, node.last_access)
