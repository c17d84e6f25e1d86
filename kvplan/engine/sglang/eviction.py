"""Which cached prefix goes first: the eviction keys of SGLang's radix cache.

A policy is a function of what a node of the tree remembers about itself; the evictable leaf with the
smallest key is evicted. Verified by recordings of the real caches: all eight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from kvplan.registry import Registry


class Aged(Protocol):
    """What a node remembers about itself.

    Attributes:
        last_access: logical time of the last walk that passed it.
        creation: logical time of its creation.
        hit_count: requests that inserted it; 2 means it was reused once.
        priority: highest priority of the requests that inserted it.
        history: tokens of the longest sequence that ever passed it, evicted or not.
    """

    @property
    def start(self) -> int:
        """Tokens before it."""
        ...

    last_access: float
    creation: float
    hit_count: int
    priority: int
    history: int


EvictionKey: TypeAlias = tuple[float, float]
EvictionPolicy: TypeAlias = Callable[[Aged], EvictionKey]


@dataclass(frozen=True, slots=True)
class EvictionParameters:
    """``--radix-eviction-policy-config``, with SGLang's defaults.

    Attributes:
        protected_threshold: of ``slru``: insertions with which a node counts as reused.
        threshold: of ``tlru``: tokens at the end of a sequence that may be computed again in time.
        next_prompt_estimate: of ``tlru``: tokens of them that the next prompt is expected to add.
    """

    protected_threshold: int = 2
    threshold: int = 0
    next_prompt_estimate: int = 0


DEFAULTS = EvictionParameters()

PARAMETERS = {"slru": ("protected_threshold",), "tlru": ("threshold", "next_prompt_estimate")}
"""Which policies take which."""

EVICTION: Registry[Callable[[EvictionParameters], EvictionPolicy]] = Registry("eviction policy")


def eviction_policy(name: str, parameters: EvictionParameters = DEFAULTS) -> EvictionPolicy:
    """The policy called ``name``.

    Raises:
        UnknownName: there is none; suggests near ones.
    """
    return EVICTION.get(name)(parameters)


def _register(name: str) -> Callable[[EvictionPolicy], EvictionPolicy]:
    """Decorator of policies without parameters."""

    def add(policy: EvictionPolicy) -> EvictionPolicy:
        EVICTION.register(name)(lambda _: policy)
        return policy

    return add


@_register("lru")
def least_recently_used(node: Aged) -> EvictionKey:
    """The leaf that was passed longest ago."""
    return (node.last_access, 0)


@_register("lfu")
def least_frequently_used(node: Aged) -> EvictionKey:
    """The leaf that fewest requests inserted; among equals the one passed longest ago."""
    return (node.hit_count, node.last_access)


@_register("fifo")
def first_in_first_out(node: Aged) -> EvictionKey:
    """The oldest leaf."""
    return (node.creation, 0)


@_register("mru")
def most_recently_used(node: Aged) -> EvictionKey:
    """The leaf that was passed last."""
    return (-node.last_access, 0)


@_register("filo")
def first_in_last_out(node: Aged) -> EvictionKey:
    """The youngest leaf."""
    return (-node.creation, 0)


@_register("priority")
def lowest_priority(node: Aged) -> EvictionKey:
    """The leaf of the lowest priority; among equals the one passed longest ago."""
    return (node.priority, node.last_access)


@EVICTION.register("slru")
def segmented_least_recently_used(parameters: EvictionParameters) -> EvictionPolicy:
    """Leaves that were never reused go before those that were; within a segment by last access."""
    least = parameters.protected_threshold

    def key(node: Aged) -> EvictionKey:
        return (node.hit_count >= least, node.last_access)

    return key


@EVICTION.register("tlru")
def tail_optimized_least_recently_used(parameters: EvictionParameters) -> EvictionPolicy:
    """Leaves that begin so close to the end of the longest sequence that passed them that the next turn is in
    time without them go first; otherwise by last access (Zhang et al., arXiv:2510.15152)."""
    spared = max(parameters.threshold - parameters.next_prompt_estimate, 0)

    def key(node: Aged) -> EvictionKey:
        return (node.start < node.history - spared, node.last_access)

    return key
