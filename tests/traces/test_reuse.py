"""Reuse on cases small enough to count by hand, and against a cache simulated block by block."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from kvplan.traces.block_chains import BlockChains, block_contents, cut
from kvplan.traces.prefix_trie import PrefixTrie
from kvplan.traces.request import Request, iterate_tokens, runs_of
from kvplan.traces.reuse import LruDistances, content_bound
from kvplan.traces.synthesize import synthesize


def asking(*prompts: list[int]) -> list[Request]:
    return [Request(str(i), float(i), runs_of(p), len(p), ((1 << 40, 1),), 1) for i, p in enumerate(prompts)]


def test_counted_by_hand():
    a = list(range(10))
    found = content_bound(asking(a, a[:9], [*a[:4], 50, 51, 52, 53], a), 4)
    # Blocks of 4: [0-3][4-7](8,9) | [0-3][4-7](8) | [0-3][50-53] | [0-3][4-7](8,9)
    assert found.block_refs == 11
    assert found.unique_blocks == 5
    assert found.hit_blocks == 6
    assert found.hit_tokens == 8 + 4 + 8


def test_one_token_is_always_computed():
    found = content_bound(asking([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4, 5]), 4)
    assert found.hit_tokens == 0 + 0 + 4
    assert found.hit_blocks == 2


def test_same_block_after_another_prefix_is_another_block():
    found = content_bound(asking([1, 2, 3, 4], [9, 9, 3, 4]), 2)
    assert found.hit_blocks == 0


def test_block_contents_do_not_depend_on_how_runs_are_laid():
    runs = ((0, 3), (100, 7), (50, 2))
    assert block_contents(runs, 4) == [((0, 3), (100, 1)), 101, ((105, 2), (50, 2))]
    assert block_contents(((0, 9),), 4) == [0, 4]
    assert cut(runs, 5) == (((0, 3), (100, 2)), ((102, 5), (50, 2)))


def test_trie_splits_edges():
    trie = PrefixTrie()
    assert trie.extend(((0, 100),), 100, ()) == (0, False)
    assert trie.extend(((0, 60), (500, 10)), 70, ()) == (60, False)
    assert trie.extend(((0, 60), (500, 20)), 80, ()) == (70, False)
    assert trie.extend(((0, 100), (7, 1)), 101, ()) == (100, False)
    assert trie.extend(((0, 30),), 30, ((30, 5),)) == (30, False)
    assert trie.extend(((0, 30),), 30, ((30, 5),)) == (30, True)
    assert trie.extend(((0, 100),), 100, ()) == (100, False)


def by_simulation(requests: list[Request], block: int, capacity: int) -> int:
    """Hit tokens of an LRU cache, block by block, with blocks named by their whole prefix."""
    cache: OrderedDict[tuple[int, ...], None] = OrderedDict()
    saved = 0
    for request in requests:
        tokens = list(iterate_tokens(request.prompt))
        keys = [tuple(tokens[:end]) for end in range(block, len(tokens) + block, block)]
        keys = [key[: len(tokens)] for key in keys]
        hits = 0
        for key in keys[: (len(tokens) - 1) // block]:
            if key not in cache:
                break
            hits += 1
        saved += hits * block
        for key in reversed(keys):
            cache[key] = None
            cache.move_to_end(key)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return saved


@pytest.mark.parametrize("block", [32, 96])
def test_lru_curve_equals_a_simulated_cache(block):
    requests = list(synthesize("chat", 80, 1.0, seed=3))
    capacities = (1, 7, 50, 200, 1_000, 100_000)
    distances = LruDistances(block)
    for request in requests:
        distances.add(request)
    curve = distances.curve(capacities)
    total = sum(r.prompt_tokens for r in requests)
    expected = {c: by_simulation(requests, block, c) / total for c in capacities}
    assert curve.hit_ratio == expected
    assert curve.hit_ratio[100_000] == content_bound(requests, block).token_hit_ratio > 0.2


def test_too_many_references_are_refused_not_sampled():
    distances = LruDistances(1, most=10)
    for request in asking([1, 2, 3], list(range(20))):
        distances.add(request)
    assert distances.curve() is None


def test_chains_number_partial_blocks_by_their_content():
    chains = BlockChains(4)
    assert chains.numbers(((0, 6),), 6, partial=True) == [0, 1]
    assert chains.numbers(((0, 7),), 7, partial=True) == [0, 2]
    assert chains.numbers(((0, 6),), 6, partial=True) == [0, 1]
    assert chains.numbers(((0, 8),), 8, partial=True) == [0, 3]
    assert chains.numbers(((0, 7),), 7, partial=False) == [0]
    assert len(chains) == 4
