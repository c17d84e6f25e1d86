"""The longest cached prefix that all groups can serve (``HybridKVCacheCoordinator``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from kvplan.engine.reference.groups import Found, GroupManager
from kvplan.engine.reference.pool import NULL_BLOCK, BlockPool
from kvplan.engine.reference.state import RequestState


@dataclass(frozen=True, slots=True)
class Hit:
    """What a prefix look-up found: tokens, and one block list per group (null blocks included).

    ``longest`` is the longest prefix that some group could have served.
    """

    tokens: int
    blocks: tuple[tuple[int, ...], ...]
    longest: int = 0


class AlikeGroups:
    """Groups with one specification: they are looked up together, and a block counts if all have it.

    ``hashes``: tokens of the blocks that the engine hashes, or 0 if there are no other groups. Where a layer
    that drafts is in one of them, the last block found is not used, in none of them; beside other groups the
    look-up goes one block further for it.
    """

    def __init__(self, managers: Sequence[GroupManager], pool: BlockPool, hashes: int) -> None:
        self.managers = managers
        self.downward_closed = managers[0].downward_closed
        self.block_size = managers[0].block_size
        self.drops = any(manager.group.drafts for manager in managers)
        for manager in managers:
            manager.drops = self.drops
        self._pool = pool
        self._hashes = hashes if managers[0].group.kind != "mamba" else 0

    def longest_hit(self, state: RequestState, limit_tokens: int, *, drop: bool) -> tuple[int, list[Found]]:
        """Tokens and blocks of the longest prefix of at most ``limit_tokens`` that these groups can serve.

        ``drop``: the last block found is not used.
        """
        if drop and self._hashes:
            known = state.num_tokens + state.cut_tokens
            hashed = known - known % self._hashes
            limit_tokens = min(limit_tokens + self.block_size, hashed)
        lookup = self._pool.lookup

        def find(block_index: int) -> Found:
            blocks = []
            for manager in self.managers:
                block = lookup(manager.key(state, block_index))
                if block is None:
                    return None
                blocks.append(block)
            return tuple(blocks)

        return self.managers[0].longest_hit(find, limit_tokens, drop=drop)


def group_alike(managers: Sequence[GroupManager], pool: BlockPool) -> list[AlikeGroups]:
    """Gather groups with equal specification; full attention first, as it bounds the others."""
    alike: dict[object, list[GroupManager]] = {}
    for manager in managers:
        alike.setdefault(manager.group, []).append(manager)
    hashes = gcd(*(manager.block_size for manager in managers)) if len(managers) > 1 else 0
    gathered = [AlikeGroups(members, pool, hashes) for members in alike.values()]
    return sorted(gathered, key=lambda groups: not groups.downward_closed)


def longest_common_hit(groups: Sequence[AlikeGroups], state: RequestState, limit_tokens: int) -> Hit:
    """Let every kind of group accept or shorten the length until all accept it.

    Full attention is asked once: what it has up to some length it also has up to a shorter one. With one
    other kind beside it a single round settles the matter. Blocks are dropped once for every length.
    """
    found: list[tuple[int, list[Found]] | None] = [None] * len(groups)
    one_round = len(groups) == 1 or (len(groups) == 2 and groups[0].downward_closed)
    length, longest = limit_tokens, 0
    dropped: set[int] = set()
    while True:
        candidate = length
        for number, members in enumerate(groups):
            known = found[number]
            if known is not None and members.downward_closed:
                candidate = min(candidate, known[0])
                continue
            drop = members.drops and number not in dropped
            tokens, blocks = members.longest_hit(state, candidate, drop=drop)
            if drop:
                dropped.add(number)
            elif tokens < candidate:
                dropped.clear()
            candidate = tokens
            found[number] = (candidate, blocks)
            longest = max(longest, candidate)
        if candidate >= length:
            break
        length = candidate
        if one_round:
            break
    return Hit(length, _tables(groups, [entry[1] for entry in found if entry], length), longest)


def hits_apart(groups: Sequence[AlikeGroups], state: RequestState, limit_tokens: int) -> Hit | None:
    """What full attention serves by itself, and beside it what each kind does; ``longest`` is what all do.

    None where no group has full attention, or another kind serves more: then full attention has lost what
    the others still have (``find_longest_cache_hit_per_group``).
    """
    if not groups[0].downward_closed:
        return None
    found = [members.longest_hit(state, limit_tokens, drop=members.drops) for members in groups]
    tokens = found[0][0]
    if any(served > tokens for served, _ in found):
        return None
    tables = _tables(groups, [entries for _, entries in found], tokens)
    return Hit(tokens, tables, min(served for served, _ in found))


def _tables(
    groups: Sequence[AlikeGroups], found: Sequence[list[Found]], length: int
) -> tuple[tuple[int, ...], ...]:
    tables: dict[int, tuple[int, ...]] = {}
    for members, entries in zip(groups, found, strict=True):
        kept = entries[: length // members.block_size]
        for place, manager in enumerate(members.managers):
            tables[manager.index] = tuple(NULL_BLOCK if e is None else e[place] for e in kept)
    return tuple(tables[index] for index in sorted(tables))
