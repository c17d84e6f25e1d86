"""The offline optimum: evict the block whose next use lies farthest in the future (Belady, 1966).

What it is optimal for. The reference string is the prompts in order of arrival, each as the set of its
blocks; all blocks of a request are in the pool while it is served, and only blocks of no served request
may be evicted. Requests come one at a time, a hit is a block that is there when its request comes, and
every block costs the same. For this string no eviction order gets more hits, with or without the rule that
a block goes after everything behind it: whoever reads a block reads all before it, so the block with the
farthest next use can always be one with nothing behind it. That is ``engine.cache_replay``, and the tests
compare it there with an exhaustive search.

In the engine it is a yardstick, not a bound: which requests run together, when they release what they
hold, and which prompts wait depends on what was evicted, and none of that is foreseen. There the next use
of a block is the next request, in order of arrival and not admitted yet, that could be given the block: of
a prompt of L tokens those are its first (L - 1) // block_size blocks.
"""

from __future__ import annotations

from kvplan.engine.replacement.keyed import KeyedReplacement
from kvplan.engine.replacement.policy import REPLACEMENT, Replacement, Surroundings
from kvplan.engine.replacement.tracked import TrackedSegment


@REPLACEMENT.register("belady")
def farthest_in_future(surroundings: Surroundings) -> Replacement:
    """What is never used again first, then what is used last; a spare copy is never used."""
    foresight = surroundings.foresight
    assert foresight is not None  # whoever builds the index has checked

    def key(segment: TrackedSegment) -> float:
        node = segment.node
        if node.copies[0] is not segment:
            return -float("inf")
        return -foresight.next_use(node.content, node.end - 1)

    def span(segment: TrackedSegment, runner_up: TrackedSegment | None) -> int:
        node = segment.node
        if node.copies[0] is not segment:
            return segment.blocks
        return node.end - max(node.start, foresight.alike_from(node.content, node.end - 1))

    return KeyedReplacement(surroundings, key, span)
