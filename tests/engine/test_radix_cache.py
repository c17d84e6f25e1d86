"""The radix cache by hand: small trees whose every step can be followed."""

from __future__ import annotations

import pytest
from cache_lifecycle import Admitted, CacheReplay, Finished, Refused

from kvplan.engine.content import Content
from kvplan.engine.reference.radix import TokenTree
from kvplan.engine.sglang.eviction import (
    EVICTION,
    eviction_policy,
    least_recently_used,
)
from kvplan.engine.sglang.prefix_radix import RadixIndex
from kvplan.engine.sglang.radix_tree import Holding, checkpoint, release
from kvplan.errors import UnknownName
from kvplan.traces.request import Request


def text(*runs: tuple[int, int]) -> Content:
    return Content(runs, ())


def ask(name: str, *runs: tuple[int, int], answer: int = 1, priority: int = 0) -> Request:
    tokens = sum(length for _, length in runs)
    return Request(name, 0.0, runs, tokens, ((10**6, answer),), answer, priority)


def test_a_match_ends_where_content_differs_and_splits_there() -> None:
    tree = RadixIndex(1, least_recently_used)
    assert tree.insert(text((0, 10)), 10, 0, 0) == 0
    hit, node = tree.match(text((0, 6), (90, 4)), 10)
    assert (hit, node.start, node.end) == (6, 0, 6)
    (lower,) = node.children.values()
    assert (lower.start, lower.end) == (6, 10)
    assert tree.evictable == 10


@pytest.mark.parametrize("page", [1, 2, 4, 16])
def test_everything_comes_in_whole_pages(page: int) -> None:
    tree = RadixIndex(page, least_recently_used)
    tree.insert(text((0, 37)), 37, 0, 0)
    assert tree.evictable == 37 // page * page
    for agreed in range(38):
        hit, _ = tree.match(text((0, agreed), (500, 40)), agreed + 40)
        assert hit == min(agreed, 37) // page * page
        hit, _ = tree.match(text((0, 60)), agreed)
        assert hit == min(agreed, 37) // page * page


def test_leaves_go_whole_and_the_oldest_first() -> None:
    tree = RadixIndex(1, least_recently_used)
    for start in (0, 100, 200):
        tree.insert(text((start, 10)), 10, 0, 0)
    tree.match(text((0, 10)), 10)
    assert tree.evict(3) == 10
    assert tree.match(text((100, 10)), 10)[0] == 0
    assert tree.match(text((0, 10)), 10)[0] == 10
    assert tree.evict(11) == 20
    assert tree.evictable == 0
    assert tree.evict(1) == 0


def test_what_is_held_stays() -> None:
    tree = RadixIndex(1, least_recently_used)
    tree.insert(text((0, 10)), 10, 0, 0)
    tree.insert(text((0, 5), (50, 5)), 10, 0, 0)
    hit, node = tree.match(text((0, 10)), 7)
    assert tree.unheld(node) == hit == 7
    tree.lock(node)
    assert (tree.protected, tree.evictable, tree.unheld(node)) == (7, 8, 0)
    assert tree.evict(100) == 8
    tree.unlock(node)
    assert tree.evict(100) == 7
    assert not tree.root.children


ORDER = {
    # Inserted a, b, c; then c again by another request, then a matched.
    "lru": "bca",
    "mru": "acb",
    "fifo": "abc",
    "filo": "cba",
    "lfu": "bac",
    "slru": "bac",
    "priority": "cba",
    "tlru": "bca",
}


def test_every_policy_has_an_expected_order() -> None:
    assert sorted(ORDER) == EVICTION.names()


@pytest.mark.parametrize("policy", ORDER)
@pytest.mark.parametrize("make", [RadixIndex, TokenTree])
def test_policies_evict_in_their_order(policy: str, make: type) -> None:
    tree = make(1, eviction_policy(policy))
    starts = {"a": 0, "b": 100, "c": 200}

    def content(name: str) -> object:
        return tree.content(ask(name, (starts[name], 10)))

    for name, priority in (("a", 5), ("b", 3), ("c", 1)):
        tree.insert(content(name), 10, priority, 0)
    tree.insert(content("c"), 10, 1, 0)
    tree.match(content("a"), 10)
    gone = ""
    while tree.evictable:
        assert tree.evict(1) == 10
        left = {node.content.shifts[0] if make is RadixIndex else node.tokens[0] for node in _leaves(tree)}
        gone += "".join(name for name in starts if starts[name] not in left and name not in gone)
    assert gone == ORDER[policy]


def _leaves(tree: RadixIndex | TokenTree) -> list:
    return list(tree.root.children.values())


def test_an_unknown_policy_is_named_with_its_neighbours() -> None:
    with pytest.raises(UnknownName, match="slru"):
        RadixIndex(1, eviction_policy("slruu"))


def test_a_request_counts_once_however_often_it_is_inserted() -> None:
    tree = RadixIndex(1, eviction_policy("lfu"))
    request = text((0, 30))
    holding = Holding(request, 20, 0, tree.root, 0, 20)
    checkpoint(tree, holding, 10)
    checkpoint(tree, holding, 20)
    checkpoint(tree, holding, 20)
    assert {node.hit_count for node in (holding.node, holding.node.parent)} == {1}


def test_the_answer_goes_before_the_prompt() -> None:
    """At the end of a request its leaf is cut where the answer begins; the prompt ranks one higher."""
    tree = RadixIndex(1, eviction_policy("priority"))
    holding = Holding(text((0, 30)), 20, 0, tree.root, 0, 30)
    assert release(tree, holding, 30) == 0
    assert tree.evict(1) == 10
    assert tree.match(text((0, 30)), 30)[0] == 20


def test_duplicates_are_freed() -> None:
    tree = RadixIndex(4, least_recently_used)
    tree.insert(text((0, 16)), 16, 0, 0)
    holding = Holding(text((0, 16), (90, 7)), 23, 0, tree.root, 0, 24)
    # 16 tokens were there, 3 do not fill a page: its own page stays allocated.
    assert checkpoint(tree, holding, 23) == 16
    assert (holding.shared, holding.private) == (20, 4)
    assert release(tree, holding, 23) == 4


def test_cost_does_not_grow_with_tokens() -> None:
    """A prefix of a billion tokens is one node; walking it looks at its runs, not at its tokens."""
    tree = RadixIndex(16, least_recently_used)
    size = 10**9
    tree.insert(text((0, size)), size, 0, 0)
    hit, _ = tree.match(text((0, size // 2), (7, size)), size)
    assert hit == size // 2 // 16 * 16
    assert tree.evict(1) == size - hit


def test_touching_a_leaf_often_does_not_fill_memory() -> None:
    tree = RadixIndex(1, least_recently_used)
    for start in range(50):
        tree.insert(text((1000 * start, 10)), 10, 0, 0)
    for turn in range(20_000):
        tree.match(text((1000 * (turn % 50), 10)), 10)
    assert len(tree.leaves) == 50
    assert len(tree.leaves._heap) <= 2 * 50 + 65


def test_replay_of_a_conversation() -> None:
    """Turn two finds turn one with its answer, but recomputes at least one token."""
    first = ask("t1", (0, 8), answer=5)
    second = Request("t2", 0.0, ((0, 8), (10**6, 4)), 12, ((2 * 10**6, 1),), 1)
    events = list(CacheReplay(RadixIndex(1, least_recently_used), 100, 1).run([first, second]))
    assert events == [
        Admitted("t1", 0, 0), Finished("t1", 0, 12), Admitted("t2", 11, 0), Finished("t2", 0, 12),
    ]  # fmt: skip


def test_replay_refuses_what_never_fits() -> None:
    replay = CacheReplay(RadixIndex(4, least_recently_used), 40, 2, max_context=36)
    events = list(replay.run([ask("huge", (0, 40)), ask("long", (0, 36)), ask("fits", (0, 30))]))
    assert events[:2] == [Refused("huge"), Refused("long")]
    assert [event.id for event in events[2:]] == ["fits", "fits"]
    assert replay.free + replay.tree.evictable == 40


@pytest.mark.parametrize("tree", [RadixIndex, TokenTree])
def test_a_pool_holds_whole_pages_only(tree: type) -> None:
    """The paged allocator makes ``size // page_size`` pages: what is left over holds nothing."""
    prompts = [ask(f"r{i}", (100 * i, 5)) for i in range(6)]
    logs = [list(CacheReplay(tree(4, least_recently_used), pool, 1).run(prompts)) for pool in (20, 23)]
    assert logs[0] == logs[1]
    assert any(isinstance(event, Admitted) and event.evicted_tokens for event in logs[0])
