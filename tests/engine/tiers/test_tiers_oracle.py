"""The tiers against a dictionary of single blocks: the same blocks in the same order after every operation."""

from __future__ import annotations

from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from workloads import requests

from kvplan.engine.content import Content
from kvplan.engine.tiers.residency import Run
from kvplan.engine.tiers.stack import TierSpec, TierStack
from kvplan.engine.tiers.tier import Tier
from kvplan.traces.request import Request, iterate_tokens

Key = tuple[int, ...]
"""A block is known by all tokens up to its end."""


class Second:
    """A carrier: a second a block."""

    def seconds(self, size: int, operations: int = 1) -> float:
        return float(operations) if size else 0.0


class SlowTiers:
    """Every tier a dictionary from block to its last use; whatever is asked is looked for in all of it."""

    def __init__(self, size: int, capacities: list[int], through: list[bool]) -> None:
        self.size, self.capacities, self.through = size, capacities, through
        self.tiers: list[dict[Key, int]] = [{} for _ in capacities]
        self.reserved = self.clock = self.lost = self.hits = self.disk_hits = 0
        self.stored = [0] * len(capacities)

    def keys(self, tokens: list[int], start: int, end: int) -> list[Key]:
        return [tuple(tokens[: (block + 1) * self.size]) for block in range(start, end)]

    def store(self, tokens: list[int], start: int, end: int) -> None:
        end = min(end, start + self.capacities[0] - self.reserved)
        if end > start:
            self.put(0, self.keys(tokens, start, end))

    def put(self, tier: int, keys: list[Key]) -> None:
        self.clock += 1
        now = self.clock
        missing = [key for key in keys if key not in self.tiers[tier]]
        for key in keys:
            if key not in missing:
                self.use(key, now)
        for key in missing:
            self.tiers[tier][key] = now
        self.stored[tier] += len(missing)
        if missing and tier + 1 < len(self.tiers) and self.through[tier + 1]:
            self.put(tier + 1, missing)
        self.evict(tier)

    def use(self, key: Key, now: int) -> None:
        for blocks in self.tiers:
            if key in blocks:
                blocks[key] = now

    def evict(self, tier: int) -> None:
        blocks = self.tiers[tier]
        while len(blocks) + (self.reserved if tier == 0 else 0) > self.capacities[tier]:
            victim = min(blocks, key=lambda key: (blocks[key], -len(key)))
            if tier + 1 < len(self.tiers) and victim not in self.tiers[tier + 1]:
                self.put(tier + 1, [victim])
            del blocks[victim]
            if not any(victim in other for other in self.tiers):
                self.lost += 1

    def lookup(self, tokens: list[int], start: int, limit: int) -> int:
        found = 0
        for key in self.keys(tokens, start, limit):
            if not any(key in blocks for blocks in self.tiers):
                break
            found += 1
        return found

    def touch(self, tokens: list[int], end: int) -> None:
        self.clock += 1
        for key in self.keys(tokens, 0, end):
            self.use(key, self.clock)

    def promote(self, keys: list[Key]) -> int:
        missing = [key for key in keys if key not in self.tiers[0]]
        if missing:
            self.put(0, keys)
        return len(missing)

    def fetch(self, tokens: list[int], start: int, end: int) -> None:
        keys = self.keys(tokens, start, end)
        moved = self.promote(keys) if len(self.tiers) > 1 else 0
        self.disk_hits += moved
        self.hits += len(keys) - moved


def contents_of(run: Run, stack: TierStack, tokens: dict[int, list[int]]) -> dict[str, list[tuple[int, Key]]]:
    """By tier, ``(stamp, block)`` of everything the tree says is there."""
    found: dict[str, list[tuple[int, Key]]] = {tier.name: [] for tier in stack.tiers}
    for tier, place in zip(stack.tiers, run.places, strict=True):
        if place is not None:
            assert place.run is run
            for block in range(run.start, run.end):
                key = tuple(tokens[id(run.content)][: (block + 1) * stack.residency.block_size])
                found[tier.name].append((place.stamp, key))
    for child in run.children.values():
        assert child.parent is run
        assert child.start == run.end
        assert child.end > child.start
        assert child.children or child.anywhere, "a run that is nowhere leads somewhere"
        for name, blocks in contents_of(child, stack, tokens).items():
            found[name] += blocks
    return found


def order(blocks: list[tuple[int, Key]]) -> list[Key]:
    return [key for _, key in sorted(blocks, key=lambda item: (item[0], -len(item[1])))]


def listed(tier: Tier, tokens: dict[int, list[int]], size: int) -> list[Key]:
    """The tier's blocks in the order in which it evicts."""
    found: list[Key] = []
    place, before = tier.oldest, None
    while place is not None:
        assert place.before is before
        run = place.run
        assert run.places[tier.index] is place
        known = tokens[id(run.content)]
        found += [tuple(known[: (block + 1) * size]) for block in reversed(range(run.start, run.end))]
        before, place = place, place.after
    return found


operations = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "store", "fetch", "fetch", "touch", "prefetch", "reserve", "release"]),
        st.integers(0, 13), st.integers(0, 30), st.integers(1, 30),
    ),
    min_size=1, max_size=60,
)  # fmt: skip


@fuzz(300)
@given(
    requests(40), st.integers(1, 3), st.integers(0, 9),
    st.one_of(st.none(), st.integers(0, 9)), st.booleans(), operations,
)  # fmt: skip
def test_tiers_equal_a_dictionary_of_blocks(
    asked: list[Request], size: int, host: int, more: int | None, through: bool,
    steps: list[tuple[str, int, int, int]],
) -> None:  # fmt: skip
    tiers = [TierSpec("host", host, 8, Second(), Second())]
    if more is not None:
        tiers.append(TierSpec("disk", host + more, 8, Second(), Second(), "through" if through else "back"))
    stack = TierStack(size, 8, tuple(tiers))
    slow = SlowTiers(size, [tier.blocks for tier in tiers], [tier.write == "through" for tier in tiers])
    contents = [Content(request.prompt, request.output) for request in asked]
    tokens = [list(iterate_tokens((*request.prompt, *request.output))) for request in asked]
    by_id = {id(content): known for content, known in zip(contents, tokens, strict=True)}
    now = 0.0
    for what, which, start, length in steps:
        content, known = contents[which % len(contents)], tokens[which % len(contents)]
        last = len(known) // size
        start, end = min(start, last), min(start + length, last)
        now += 0.7
        if what == "store":
            stack.store(content, start, end)
            slow.store(known, start, end)
        elif what == "touch":
            stack.touch(content, end)
            slow.touch(known, end)
        elif what == "reserve":
            fits = length <= slow.capacities[0] - slow.reserved
            assert stack.reserve(length) == fits
            if fits:
                slow.reserved += length
                slow.evict(0)
        elif what == "release":
            length = min(length, slow.reserved)
            stack.release(length)
            slow.reserved -= length
        else:
            found = stack.lookup(content, start, end)
            assert found == slow.lookup(known, start, end)
            if what == "fetch" and found:
                stack.touch(content, start + found)
                slow.touch(known, start + found)
                stack.fetch(content, start, start + found, now)
                slow.fetch(known, start, start + found)
            elif what == "prefetch" and found:
                stack.prefetch(content, start, end, now)
                if more is not None:
                    slow.promote(slow.keys(known, start, start + found))
        there = contents_of(stack.residency.root, stack, by_id)
        for tier, blocks in zip(stack.tiers, slow.tiers, strict=True):
            expected = order([(stamp, key) for key, stamp in blocks.items()])
            assert order(there[tier.name]) == expected
            assert listed(tier, by_id, size) == expected
            assert tier.cached == len(blocks)
            assert tier.cached + tier.reserved + tier.free == tier.capacity
            assert tier.free >= 0
            assert tier.stored - tier.evicted == tier.cached
        assert stack.lost == slow.lost
        assert [tier.stored for tier in stack.tiers] == slow.stored
        assert stack.host.hits == slow.hits
        assert stack.disk is None or stack.disk.hits == slow.disk_hits
    stack.flush(now)
    written = [line.moved_blocks for line in stack.puts]
    # What came down the links is what was stored, except what came up from the disk into the host.
    assert written[0] + (stack.gets[1].moved_blocks if stack.disk else 0) == stack.host.stored
    assert stack.disk is None or written[1] == stack.disk.stored


def of_two(host: int, disk: int) -> TierStack:
    specs = (
        TierSpec("host", host, 8, Second(), Second()),
        TierSpec("disk", disk, 8, Second(), Second(), "through"),
    )
    return TierStack(1, 8, specs)


def test_a_run_counts_as_it_was_stored_whatever_it_joins_on_the_disk() -> None:
    """Found by 3,000 random stacks: what the disk had of the run beside it was written to the host as well."""
    stack, content = of_two(2, 2), Content(((0, 4),), ())
    for start, end in ((0, 1), (0, 2), (2, 4), (0, 2)):
        stack.store(content, start, end)
    stack.flush(0.0)
    assert stack.puts[0].moved_blocks == stack.host.stored == 6


def test_a_disk_makes_room_for_each_run_that_comes_down() -> None:
    """Found by 1,500 random stacks: it lost what the host was about to write to it."""
    stack, first, second = of_two(2, 3), Content(((0, 2),), ()), Content(((10, 2),), ())
    stack.store(first, 0, 2)
    stack.store(second, 0, 2)
    assert [stack.lookup(content, 0, 2) for content in (first, second)] == [2, 2]
