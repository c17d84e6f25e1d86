"""How each kind of cache group keeps, finds and gives back its blocks, on examples worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.chunking import boundary_aligned
from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.frontend import rejection
from kvplan.engine.reference.cache import KvCache
from kvplan.engine.reference.state import PrefixChain, RequestState
from kvplan.engine.retention import retained_blocks
from kvplan.errors import UsageError
from kvplan.traces.request import Request

FULL, STATE = CacheGroup("full", 4), CacheGroup("mamba", 4)
WINDOW, CHUNK = CacheGroup("sliding", 4, 8), CacheGroup("chunked", 4, 8)


def config(*groups: CacheGroup, **options: Any) -> EngineConfig:
    base = {"num_blocks": 100, "block_size": 4, "max_model_len": 400, "max_num_batched_tokens": 16}
    return EngineConfig(**{**base, "async_scheduling": False, **options}, groups=groups)


def asking(cache: KvCache, prompt: list[tuple[int, int]], output: int = 1) -> RequestState:
    tokens = sum(length for _, length in prompt)
    request = Request("r", 0.0, tuple(prompt), tokens, ((10**6, output),), output)
    return RequestState(request, 0, len(cache.managers))


def prefill(cache: KvCache, state: RequestState, chunk: int = 16) -> int:
    """Admit and compute the whole prompt in chunks; returns the tokens found in the cache."""
    cache.start_step()
    hit = cache.lookup(state)
    state_hit, start = hit, hit.tokens
    while start < state.prompt_tokens:
        step = boundary_aligned(state, min(chunk, state.prompt_tokens - start), start, cache.config)
        assert cache.allocate(state, step, state_hit)
        state_hit = None
        start += step
        state.num_computed = start
        cache.start_step()
    return hit.tokens


def shape(table: list[int]) -> str:
    """``.`` for a null entry, ``#`` for a block."""
    return "".join("#" if block else "." for block in table)


# -- contents ----------------------------------------------------------------------------------------------


def test_equal_prefixes_have_one_identity_however_their_runs_are_cut() -> None:
    cache = KvCache(config(FULL))
    one = asking(cache, [(0, 6), (100, 6)])
    same = asking(cache, [(0, 2), (2, 4), (100, 1)])
    other = asking(cache, [(0, 6), (200, 6)])
    chain = PrefixChain()
    ids = [one.prefix_id(chain, n) for n in range(1, 13)]
    assert len(set(ids)) == 12
    assert [same.prefix_id(chain, n) for n in range(1, 8)] == ids[:7]
    assert [other.prefix_id(chain, n) for n in range(1, 7)] == ids[:6]
    assert other.prefix_id(chain, 7) not in ids


# -- retention ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "kept"),
    [
        (None, list(range(12))),
        (0, [5, 6]),
        (16, [2, 3, 5, 6, 7, 10, 11]),
        (8, list(range(12))),
    ],
)
def test_which_blocks_of_a_window_are_published(interval: int | None, kept: list[int]) -> None:
    # Two blocks of 4 cover the window; the prompt's replay resumes at 28, nothing else is asked for.
    rule = {"needed": 2, "block_size": 4, "alignment": 4, "interval": interval, "boundaries": (29,)}
    assert list(retained_blocks(0, 12, **rule)) == kept
    parts = [b for start in range(0, 12, 3) for b in retained_blocks(start, start + 3, **rule)]
    assert parts == kept


def test_boundaries_are_floored_to_what_a_hit_can_end_on() -> None:
    kept = retained_blocks(0, 8, needed=1, block_size=4, alignment=8, interval=0, boundaries=(15, 31, 0))
    assert list(kept) == [1, 5]


# -- windows -----------------------------------------------------------------------------------------------


def test_blocks_behind_the_window_are_given_back() -> None:
    cache = KvCache(config(FULL, WINDOW))
    state = asking(cache, [(0, 40)])
    prefill(cache, state)
    # At the last chunk 32 tokens were done: the next one sees 25 .. 32, so blocks 0 .. 5 went.
    assert shape(state.blocks[0]) == "##########"
    assert shape(state.blocks[1]) == "......####"
    cache.release(state)
    cache.pool.check([])
    assert cache.pool.free_blocks == 99


def test_steps_in_flight_keep_their_windows() -> None:
    cache = KvCache(config(WINDOW))
    state = asking(cache, [(0, 40)])
    state.in_flight = 16
    prefill(cache, state)
    assert shape(state.blocks[0]) == "..########"


def test_a_turn_that_follows_finds_only_what_was_retained() -> None:
    history = [(0, 40), (1000, 8)]
    for interval, hits in ((0, 36), (None, 40)):
        cache = KvCache(config(FULL, WINDOW, retention_interval=interval))
        first = asking(cache, history[:1])
        prefill(cache, first)
        cache.release(first)
        # The prompt again, and longer: replay resumes one block before its end, nothing lies behind it.
        assert cache.lookup(asking(cache, history[:1])).tokens == 36
        longer = asking(cache, history)
        found = cache.lookup(longer)
        assert found.tokens == hits
        assert shape(list(found.blocks[1])) == "." * (hits // 4 - 2) + "##"
        # Full attention had it all; where the window lags, the junction is remembered and kept.
        assert longer.shared_prefix_boundary == (40 if interval == 0 else 0)


def test_the_junction_of_two_prompts_is_found_by_a_third() -> None:
    cache = KvCache(config(FULL, WINDOW))
    shared = (0, 24)
    found = []
    for fresh in (1000, 2000, 3000):
        state = asking(cache, [shared, (fresh, 16)])
        found.append(prefill(cache, state))
        cache.release(state)
    assert found == [0, 0, 24]


def test_groups_that_are_alike_must_all_have_a_block() -> None:
    cache = KvCache(config(FULL, WINDOW, WINDOW))
    first = asking(cache, [(0, 40)])
    prefill(cache, first)
    lost = first.blocks[2][8]
    cache.release(first)
    while cache.pool.key_of[lost] is not None:
        cache.pool.take(1)
    assert cache.lookup(asking(cache, [(0, 40)])).tokens == 0


# -- local chunks ------------------------------------------------------------------------------------------


def test_earlier_chunks_are_given_back_and_not_needed_by_a_hit() -> None:
    cache = KvCache(config(FULL, CHUNK))
    state = asking(cache, [(0, 44)])
    prefill(cache, state, chunk=12)
    # 36 of 44 tokens were done at the last chunk: the chunk 32 .. 39 stays.
    assert shape(state.blocks[1]) == "........###"
    cache.release(state)
    hit = cache.lookup(asking(cache, [(0, 44), (500, 4)]))
    assert hit.tokens == 44
    assert shape(list(hit.blocks[1])) == "..........#"
    assert cache.lookup(asking(cache, [(0, 44)])).tokens == 40


# -- recurrent state ---------------------------------------------------------------------------------------


def test_chunks_end_where_a_state_can_be_kept() -> None:
    engine = config(FULL, STATE)
    cache = KvCache(engine)
    prompt = asking(cache, [(0, 31)])
    assert boundary_aligned(prompt, 16, 0, engine) == 16
    assert boundary_aligned(prompt, 15, 0, engine) == 12
    assert boundary_aligned(prompt, 3, 0, engine) == 0
    # The last boundary is not run past; what is left of the prompt is one more step.
    assert boundary_aligned(prompt, 15, 16, engine) == 12
    assert boundary_aligned(prompt, 3, 28, engine) == 3
    # A prompt that ends on a boundary stops one block before it: its last token is never found cached.
    assert boundary_aligned(asking(cache, [(0, 32)]), 16, 16, engine) == 12
    prompt.shared_prefix_boundary = 9
    assert boundary_aligned(prompt, 16, 0, engine) == 8
    # Without such a group, or in decode, nothing is cut.
    assert boundary_aligned(prompt, 3, 0, config(FULL)) == 3
    assert boundary_aligned(prompt, 1, 31, engine) == 1


def test_a_block_wider_than_a_chunk_is_crossed_in_pieces() -> None:
    engine = config(CacheGroup("full", 32), CacheGroup("mamba", 32), block_size=32)
    prompt = asking(KvCache(engine), [(0, 70)])
    assert boundary_aligned(prompt, 16, 0, engine) == 16
    assert boundary_aligned(prompt, 16, 16, engine) == 16
    assert boundary_aligned(prompt, 16, 24, engine) == 8


def test_states_are_null_between_the_steps_that_wrote_them() -> None:
    cache = KvCache(config(FULL, STATE, retention_interval=None))
    state = asking(cache, [(0, 40)])
    prefill(cache, state)
    # Chunks ended at 16, 32, 36 and 40; a step needs the state before it and writes the next.
    assert shape(state.blocks[1]) == "........##"
    cache.release(state)
    assert cache.lookup(asking(cache, [(0, 40)])).tokens == 36
    assert cache.lookup(asking(cache, [(0, 30), (500, 9)])).tokens == 16


def test_a_state_written_in_this_step_makes_its_reader_wait() -> None:
    cache = KvCache(config(FULL, STATE))
    cache.start_step()
    writer = asking(cache, [(0, 40)])
    for chunk in (16, 16, 4):
        assert cache.allocate(writer, chunk)
        writer.num_computed += chunk
    reader = asking(cache, [(0, 40)])
    hit = cache.lookup(reader)
    assert hit.tokens == 36
    free = cache.pool.free_blocks
    assert not cache.allocate(reader, 4, hit, full_sequence_must_fit=True)
    assert cache.pool.free_blocks == free
    cache.start_step()
    assert cache.allocate(reader, 4, cache.lookup(reader), full_sequence_must_fit=True)


def test_without_prefix_caching_there_is_one_state_a_request() -> None:
    cache = KvCache(config(FULL, STATE, enable_prefix_caching=False))
    state = asking(cache, [(0, 40)])
    prefill(cache, state)
    assert shape(state.blocks[1]) == "#"
    assert len(state.blocks[0]) == 10


# -- options and the front end -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "options"),
    [
        ((FULL, CacheGroup("mamba", 8)), {}),
        ((CacheGroup("full", 8), CHUNK), {}),
        ((FULL, WINDOW), {"retention_interval": 6}),
        ((CacheGroup("full", 8), WINDOW), {"retention_interval": 4}),
    ],
)
def test_what_is_not_simulated_is_refused(groups: tuple[CacheGroup, ...], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        config(*groups, **options)
    config(*groups, **{**options, "enable_prefix_caching": False})


@pytest.mark.parametrize(
    ("group", "caching", "most"),
    [
        (FULL, True, 50),
        (WINDOW, True, 7),  # 7 + 16 tokens in 6 blocks, and one more where the window begins inside one
        (CHUNK, True, 6),
        (CacheGroup("chunked", 4, 10), True, 8),
        (STATE, True, 2),
        (STATE, False, 1),
    ],
)
def test_the_least_pool_a_long_request_is_let_into(group: CacheGroup, caching: bool, most: int) -> None:
    long = Request("r", 0.0, ((0, 100),), 100, ((500, 101),), 101)
    for blocks, served in ((most + 1, True), (most, False)):
        if blocks > 1:
            engine = config(group, num_blocks=blocks, enable_prefix_caching=caching)
            assert (rejection(long, engine) is None) == served
