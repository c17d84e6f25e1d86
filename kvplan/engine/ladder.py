"""What holds a hit ratio back, the policy or the capacity: LRU <= best online <= optimum <= content bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvplan.engine.cache_replay import CacheHits, References, replay
from kvplan.engine.replacement.catalog import ONLINE, OPTIMUM, POLICIES

Verdict: TypeAlias = Literal["content", "capacity", "policy"]

SMALL_GAP = 0.01
"""Below this share of the block references a gap is not worth closing."""


_SENTENCES: dict[Verdict, str] = {
    "policy": "The policy holds the hits back",
    "capacity": "The capacity holds the hits back",
    "content": "Neither policy nor capacity holds the hits back",
}


@dataclass(frozen=True, slots=True)
class Ladder:
    """Every policy at one capacity, on one reference string.

    Attributes:
        blocks: capacity.
        block_refs: blocks asked for; bound_blocks: those among them that were asked for before.
        input_tokens: prompt tokens; bound_tokens: those an unbounded cache would have saved.
        hits: policy name -> what it got.
    """

    blocks: int
    block_refs: int
    bound_blocks: int
    input_tokens: int
    bound_tokens: int
    hits: dict[str, CacheHits]

    def ratio(self, policy: str) -> float:
        """Share of the block references that hit under a policy."""
        return self._share(self.hits[policy].hit_blocks)

    @property
    def bound(self) -> float:
        """The content bound: the share that was asked for before."""
        return self._share(self.bound_blocks)

    @property
    def best_online(self) -> str:
        """The policy with the most hits among those that do not know the future; lru where none is better."""
        return max(ONLINE, key=lambda policy: self.hits[policy].hit_blocks)

    @property
    def policy_gap(self) -> float:
        """What no capacity needs to be bought for: the optimum less LRU."""
        return self.ratio(OPTIMUM) - self.ratio("lru")

    @property
    def capacity_gap(self) -> float:
        """What no policy can get at this capacity: the content bound less the optimum."""
        return self.bound - self.ratio(OPTIMUM)

    @property
    def verdict(self) -> Verdict:
        """What holds LRU back: the larger gap, or the content itself when both are small."""
        if max(self.policy_gap, self.capacity_gap) < SMALL_GAP:
            return "content"
        return "policy" if self.policy_gap > self.capacity_gap else "capacity"

    @property
    def sentence(self) -> str:
        """The verdict with both gaps, in words."""
        policy, capacity = 100 * self.policy_gap, 100 * self.capacity_gap
        best = self.best_online
        online = 100 * (self.ratio(best) - self.ratio("lru"))
        return _SENTENCES[self.verdict] + (
            f": another policy could add at most {policy:.2f} points to lru ({best} adds {online:.2f}), "
            f"more blocks another {capacity:.2f}."
        )

    def token_ratio(self, policy: str) -> float:
        """Share of the prompt tokens an engine would not have to compute under a policy."""
        return self.hits[policy].hit_tokens / self.input_tokens if self.input_tokens else 0.0

    def _share(self, blocks: int) -> float:
        return blocks / self.block_refs if self.block_refs else 0.0

    def to_dict(self) -> dict[str, object]:
        """One entry of ``rungs`` in ``kvplan.ladder/1``."""
        return {
            "blocks": self.blocks,
            "policies": {
                name: {
                    "hit_blocks": found.hit_blocks,
                    "block_hit_ratio": self.ratio(name),
                    "token_hit_ratio": self.token_ratio(name),
                    "evicted_blocks": found.evicted_blocks,
                }
                for name, found in self.hits.items()
            },
            "best_online": self.best_online,
            "policy_gap": self.policy_gap,
            "capacity_gap": self.capacity_gap,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "cut_requests": self.hits["lru"].cut_requests,
        }


def climb(references: References, capacities: Sequence[int]) -> list[Ladder]:
    """Replay the references under every policy at every capacity, in blocks.

    Raises:
        UsageError: a capacity below 1 block, or too many requests to look ahead over.
    """
    bound = references.bound
    found = []
    for blocks in capacities:
        hits = {policy: replay(references, blocks, policy) for policy in POLICIES}
        found.append(
            Ladder(
                blocks, bound.block_refs, bound.hit_blocks, bound.input_tokens, bound.hit_tokens, hits
            )
        )  # fmt: skip
    return found
