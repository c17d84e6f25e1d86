"""A group of local chunks against a list of what is cached, block by block."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.hybrid.chunks import ChunkGroup
from kvplan.engine.hybrid.group import Hit
from kvplan.engine.hybrid.pool import SharedPool
from kvplan.engine.hybrid.request import HybridRequest
from kvplan.engine.prefix_node import Match, Node
from kvplan.traces.request import Request

BLOCK, CHUNK, LONGEST = 2, 6, 24
CONFIG = EngineConfig(num_blocks=200, block_size=BLOCK, max_model_len=100)
NO_ROOT = Node.__new__(Node)


def group_of(width: int) -> ChunkGroup:
    pool = SharedPool(CONFIG.usable_blocks)
    group = ChunkGroup(0, width, CacheGroup("chunked", BLOCK, CHUNK), CONFIG, pool)
    pool.segments_evicted_by(group.evict)
    return group


def entered(group: ChunkGroup, runs: tuple[tuple[int, int], ...]) -> HybridRequest:
    tokens = sum(length for _, length in runs)
    request = HybridRequest(Request("r", 0.0, runs, tokens, ((9_000, 1),), 1), NO_ROOT)
    group.enter(request)
    return request


def matches(group: ChunkGroup, request: HybridRequest, tokens: int) -> list[Match]:
    start, stop = group.first(tokens), tokens // BLOCK
    return [index.find(request.content, start, stop) for index in group.indexes]


def prefixes(runs: tuple[tuple[int, int], ...]) -> list[tuple[int, ...]]:
    tokens = [start + n for start, length in runs for n in range(length)]
    return [tuple(tokens[:end]) for end in range(BLOCK, len(tokens) + 1, BLOCK)]


runs = st.lists(st.tuples(st.sampled_from([0, 100, 200]), st.integers(1, 9)), min_size=1, max_size=4).map(
    tuple
)
steps = st.lists(st.tuples(runs, st.integers(1, LONGEST), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=300)
@given(st.integers(1, 3), steps)
def test_a_chunk_is_found_from_its_start_as_far_as_it_is_cached(
    width: int, played: list[tuple[tuple[tuple[int, int], ...], int, bool]]
) -> None:
    """As many blocks as were published; nothing is left of chunks that are gone."""
    group = group_of(width)
    pool, running = group.pool, []
    cached: set[tuple[int, ...]] = set()
    for content, computed, stays in played:
        request = entered(group, content)
        tokens = min(computed, request.prompt_tokens)
        pool.take(group.grow(request, tokens))
        group.publish(request, tokens)
        cached.update(prefixes(content)[: tokens // BLOCK])
        if stays:
            group.drop(request, tokens)
            running.append(request)
        else:
            group.release(request)
    for content, _, _ in played:
        request, blocks = entered(group, content), prefixes(content)
        for tokens in range(0, request.prompt_tokens + 1, BLOCK):
            start = group.first(tokens)
            run = start
            while run < tokens // BLOCK and blocks[run] in cached:
                run += 1
            assert [match.blocks for match in matches(group, request, tokens)] == [run] * width
    for request in running:
        group.release(request)
    assert pool.blank + pool.cached == pool.usable
    pool.take(pool.free)
    assert pool.cached == 0
    assert not any(len(index._roots) for index in group.indexes)


def test_what_a_request_adopts_is_held_until_its_chunk_ends() -> None:
    """Who adopts the half of a chunk keeps it out of the free queue."""
    group = group_of(2)
    pool = group.pool
    first = entered(group, ((0, 12),))
    pool.take(group.grow(first, 12))
    group.publish(first, 12)
    group.release(first)
    assert pool.cached == 12
    second = entered(group, ((0, 10), (500, 4)))
    hit = Hit(10, 5, chunks={0: matches(group, second, 10)})
    assert group.need(second, 14, hit, 10, admission=False) == 2 * (2 + 2)
    group.adopt(second, hit)
    assert pool.cached == 8
    pool.take(group.grow(second, 14))
    group.publish(second, 14)
    group.drop(second, 12)
    assert pool.cached == 14
    group.release(second)
    assert pool.blank + pool.cached == pool.usable
