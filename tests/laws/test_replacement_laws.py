"""Laws of eviction policies: LRU <= optimum <= content bound, nobody is lost, nothing changes unasked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from test_fast_equals_reference import play
from workloads import cases, requests

from kvplan.engine.cache_replay import collect, replay
from kvplan.engine.config import EngineConfig
from kvplan.engine.replacement.catalog import ONLINE, POLICIES
from kvplan.engine.replacement.clairvoyant import ClairvoyantReplica
from kvplan.engine.replica import Replica
from kvplan.traces.block_chains import BlockChains
from kvplan.traces.request import Request, count_tokens
from kvplan.traces.reuse import LruDistances

Case = tuple[EngineConfig, list[Request]]

often = examples(50)


def under(policy: str, case: Case, *, log: bool = False, blocks: int | None = None):  # type: ignore[no-untyped-def]
    config = dataclasses.replace(case[0], eviction=policy, num_blocks=blocks or case[0].num_blocks)
    kind = ClairvoyantReplica if policy == "belady" else Replica
    return play(kind, config, case[1], log=log)


@often
@given(cases())
def test_every_policy_finishes_what_lru_finishes(case: Case) -> None:
    rows, totals, _, rejections = under("lru", case).told
    for policy in POLICIES[1:]:
        theirs, sums, _, turned_away = under(policy, case).told
        assert {row.id for row in theirs} == {row.id for row in rows}
        assert turned_away == rejections
        for key in ("requests", "finished", "rejected", "prompt_tokens", "output_tokens"):
            assert sums[key] == totals[key]
        for row in theirs:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
            assert row.cached_tokens < row.prompt_tokens


@often
@given(cases())
def test_a_run_repeats_itself(case: Case) -> None:
    for policy in POLICIES[1:]:
        one, other = under(policy, case, log=True), under(policy, case, log=True)
        assert (one.lines, one.told) == (other.lines, other.told)
        # Running through quiet steps in bulk is the same run, as it is under lru.
        assert under(policy, case).told == one.told


@often
@given(cases())
def test_where_nothing_is_evicted_all_policies_are_one(case: Case) -> None:
    lru = under("lru", case, log=True, blocks=4000)
    assert lru.told[1]["evicted_blocks"] == 0
    for policy in POLICIES[1:]:
        same = under(policy, case, log=True, blocks=4000)
        assert (same.lines, same.told) == (lru.lines, lru.told)


@examples(200)
@given(cases())
def test_recency_in_a_heap_is_the_queue(case: Case) -> None:
    """With one priority for all, ``priority`` is least-recently-used: it must be vLLM's queue, bit by bit."""
    alike = [request._replace(priority=0) for request in case[1]]
    lru, heap = under("lru", (case[0], alike), log=True), under("priority", (case[0], alike), log=True)
    assert (heap.lines, heap.told) == (lru.lines, lru.told)


# -- the cache alone --------------------------------------------------------------------------------------

workloads = requests(longest=40)
sizes = st.sampled_from([1, 2, 3, 5])


@examples(200)
@given(workloads, sizes, st.integers(1, 60))
def test_the_ladder(found: list[Request], block: int, blocks: int) -> None:
    references = collect(found, block)
    optimum = replay(references, blocks, "belady")
    assert optimum.hit_blocks <= references.bound.hit_blocks
    for policy in ONLINE:
        hits = replay(references, blocks, policy)
        assert hits.hit_blocks <= optimum.hit_blocks, policy
        assert hits.hit_tokens <= min(hits.hit_blocks * block, references.bound.hit_tokens)
        assert hits.cut_requests == optimum.cut_requests


@examples(100)
@given(workloads, sizes)
def test_more_blocks_never_lower_lru_or_the_optimum(found: list[Request], block: int) -> None:
    references = collect(found, block)
    for policy in ("lru", "belady"):
        before = -1
        for blocks in (1, 2, 3, 5, 8, 13, 21, 34, 55, 400):
            hits = replay(references, blocks, policy).hit_blocks
            assert hits >= before
            before = hits
        assert before == references.bound.hit_blocks  # 400 blocks hold everything


@examples(100)
@given(workloads, sizes, st.integers(1, 60))
def test_lru_has_the_stack_distances(found: list[Request], block: int, blocks: int) -> None:
    """The replay's LRU is the curve that ``traces.reuse`` finds without replaying anything."""
    distances = LruDistances(block)
    for request in found:
        distances.add(request)
    curve = distances.curve([blocks])
    assert curve is not None
    references = collect(found, block)
    hit_tokens = replay(references, blocks, "lru").hit_tokens
    assert hit_tokens == pytest.approx(curve.hit_ratio[blocks] * references.bound.input_tokens)


words = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=7)


@examples(200)
@given(words, st.sampled_from([1, 2]), st.integers(1, 6))
def test_belady_is_the_best_there_is(found: list[list[int]], block: int, blocks: int) -> None:
    prompts = [tuple((10 * letter, 1) for letter in word) for word in found]
    asked = [
        Request(str(n), float(n), prompt, count_tokens(prompt), (), 1) for n, prompt in enumerate(prompts)
    ]
    hits = replay(collect(asked, block), blocks, "belady").hit_blocks
    chains = BlockChains(block)
    strings = [chains.numbers(prompt, count_tokens(prompt), partial=True)[:blocks] for prompt in prompts]
    assert hits == best(strings, blocks, constrained=True)
    assert hits == best(strings, blocks, constrained=False)


def best(strings: list[list[int]], blocks: int, *, constrained: bool) -> int:
    """Most hits of any way to evict, by trying all: ``constrained`` never leaves a gap in a prefix."""
    parent = {b: a for string in strings for a, b in pairwise(string)}
    reached: dict[frozenset[int], int] = {frozenset(): 0}
    for string in strings:
        following: dict[frozenset[int], int] = {}
        for cached, hits in reached.items():
            leading = next((n for n, block in enumerate(string) if block not in cached), len(string))
            needed = frozenset(string)
            for kept in choices(cached - needed, blocks - len(needed)):
                state = kept | needed
                if constrained and any(parent.get(block, block) not in state for block in state):
                    continue
                following[state] = max(following.get(state, 0), hits + leading)
        reached = following
    return max(reached.values())


def choices(rest: frozenset[int], room: int) -> Iterator[frozenset[int]]:
    """Everything that may be kept: as much as fits, and also less where keeping it all leaves gaps."""
    for size in range(min(room, len(rest)), -1, -1):
        for kept in combinations(sorted(rest), size):
            yield frozenset(kept)
