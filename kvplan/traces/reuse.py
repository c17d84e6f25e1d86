"""How much of the prompts has been seen before: the content bound, and what an LRU cache gets of it.

Convention (the one published traces are compared by): requests in the order of arrival, looked up and then
inserted at once; a hit is the leading run of known blocks; only complete blocks count, and at least one
token of a prompt is always computed, so a prompt of L tokens hits at most floor((L - 1) / B) * B of them;
answers are never cached.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvplan.traces.block_chains import BlockChains, cut
from kvplan.traces.prefix_trie import PrefixTrie
from kvplan.traces.request import Request
from kvplan.traces.tokenspace import is_unhashed

MAX_LRU_REFERENCES = 1_000_000
"""Most block references whose reuse distances are computed (some 4 s and 150 MB)."""

CAPACITIES = (1_000, 3_000, 10_000, 30_000, 50_000, 100_000)


@dataclass(frozen=True, slots=True)
class Reuse:
    """Reuse of prompt content under a cache without bounds.

    Attributes:
        block_size: tokens per block.
        input_tokens: tokens of all prompts.
        block_refs: blocks that have an identity: all complete ones and partial last ones with a block id.
        unique_blocks: distinct ones among them. ``block_refs == unique_blocks + hit_blocks``.
        hit_blocks: references to blocks seen before.
        hit_tokens: tokens that a cache of complete blocks would have saved.
    """

    block_size: int
    input_tokens: int
    block_refs: int
    unique_blocks: int
    hit_blocks: int
    hit_tokens: int

    @property
    def token_hit_ratio(self) -> float:
        return self.hit_tokens / self.input_tokens if self.input_tokens else 0.0

    @property
    def block_hit_ratio(self) -> float:
        return self.hit_blocks / self.block_refs if self.block_refs else 0.0


class ContentBound:
    """Accumulates ``Reuse`` request by request."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._trie = PrefixTrie()
        self._input_tokens = self._refs = self._unique = self._hit_blocks = self._hit_tokens = 0

    def add(self, request: Request) -> None:
        """Look the prompt up, count, and insert it."""
        block, tokens = self.block_size, request.prompt_tokens
        whole = tokens // block * block
        tail = cut(request.prompt, whole)[1] if whole < tokens else ()
        if tail and is_unhashed(tail[0]):
            tail = ()  # no id, so no reference to anything
        known, tail_known = self._trie.extend(request.prompt, whole, tail)
        hits = known // block
        self._input_tokens += tokens
        self._refs += whole // block + bool(tail)
        self._hit_blocks += hits + tail_known
        self._hit_tokens += min(hits, (tokens - 1) // block) * block
        # Counted on its own, not as refs - hits, so that the two can be compared.
        self._unique += (whole - hits * block) // block + (bool(tail) and not tail_known)

    def result(self) -> Reuse:
        """What was counted so far."""
        return Reuse(
            self.block_size,
            self._input_tokens,
            self._refs,
            self._unique,
            self._hit_blocks,
            self._hit_tokens,
        )


@dataclass(frozen=True, slots=True)
class LruCurve:
    """What an LRU cache of complete and partial blocks, evicting leaves first, would hit.

    Attributes:
        hit_ratio: capacity in blocks -> share of the prompt tokens.
        distance_p50: median reuse distance of the hits, in distinct blocks including the block itself.
        distance_p90: the capacity in blocks that gets 90 % of the hits any cache could get.
    """

    hit_ratio: dict[int, float]
    distance_p50: int | None
    distance_p90: int | None


class LruDistances:
    """Collects block references and finds their LRU stack distances (Mattson et al., 1970).

    A request touches its blocks from the last to the first, so that a prefix is always younger than what
    follows it, and a block at stack depth d hits in every LRU cache of at least d blocks.
    """

    def __init__(self, block_size: int, most: int = MAX_LRU_REFERENCES) -> None:
        self._chains = BlockChains(block_size)
        self._block = block_size
        self._most = most
        self._references: array[int] | None = array("q")
        self._requests = array("q")
        self._input_tokens = 0

    def add(self, request: Request) -> None:
        """Remember the references of one prompt; gives up for good beyond the bound."""
        if self._references is None:
            return
        if len(self._references) + request.prompt_tokens // self._block >= self._most:
            self._references = None
            self._chains = BlockChains(self._block)
            return
        self._references.extend(self._chains.numbers(request.prompt, request.prompt_tokens, partial=True))
        self._requests.append(request.prompt_tokens)
        self._input_tokens += request.prompt_tokens

    def curve(self, capacities: Sequence[int] = CAPACITIES) -> LruCurve | None:
        """The curve at the given capacities in blocks; ``None`` when there were too many references."""
        if self._references is None or not self._input_tokens:
            return None
        depths = self._depths(self._references)
        depths.sort()
        ratio: dict[int, float] = {}
        for capacity in capacities:
            hits = bisect_right(depths, capacity)
            ratio[capacity] = hits * self._block / self._input_tokens
        if not depths:
            return LruCurve(ratio, None, None)
        return LruCurve(ratio, depths[(len(depths) - 1) // 2], depths[-(-len(depths) * 9 // 10) - 1])

    def _depths(self, references: array[int]) -> list[int]:
        """Stack depths of the references that count as hits of complete blocks."""
        block = self._block
        size = len(references)
        tree = [0] * (size + 1)  # Fenwick tree over touch times: 1 where a block was touched last
        last = [0] * len(self._chains)
        depths: list[int] = []
        live = now = place = 0
        for tokens in self._requests:
            count = -(-tokens // block)
            chain = references[place : place + count]
            place += count
            most = (tokens - 1) // block
            depth = before = 0
            for number in chain[:most]:
                touched = last[number]
                if not touched:
                    break
                if touched == before - 1:
                    depth += 1  # its neighbour in the prompt is its neighbour in the stack
                else:
                    older, at = 0, touched - 1
                    while at:
                        older += tree[at]
                        at &= at - 1
                    depth = live - older
                before = touched
                depths.append(depth)
            for number in reversed(chain):
                at = last[number]
                if at:
                    while at <= size:
                        tree[at] -= 1
                        at += at & -at
                else:
                    live += 1
                now += 1
                last[number] = at = now
                while at <= size:
                    tree[at] += 1
                    at += at & -at
        return depths


def content_bound(requests: Iterable[Request], block_size: int) -> Reuse:
    """``Reuse`` of a whole trace."""
    bound = ContentBound(block_size)
    for request in requests:
        bound.add(request)
    return bound.result()
