"""What a rank, a window and a short context keep, to the last token and scale."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.sizing.attention import Engine, Keeping, attention_stores
from kvplan.sizing.pages import LayerPages, vllm_layout
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.retention import Retention
from kvplan.sizing.sharding import rank_tokens
from kvplan.sizing.size import size_model
from kvplan.sizing.stores import Heads, Packed, Store
from kvplan.specs.attention import FullAttention, Indexer, SlidingAttention
from kvplan.specs.catalog import load_model
from kvplan.specs.formats import kv_format

BF16 = kv_format("bf16")
VLLM = Retention("vllm", "vllm")
CONTEXT = Store("K and V", Heads(8, 128, 128, BF16))


@given(st.integers(1, 1 << 20), st.sampled_from([1, 2, 3, 4, 8, 16]))
def test_context_ranks_hold_every_token_and_none_a_whole_round_more(tokens: int, cp: int) -> None:
    share = rank_tokens(CONTEXT, tokens, Parallel(cp=cp))
    assert 0 <= cp * share - tokens < cp
    for store in (Store("K and V", CONTEXT.content, "window", 512), Store("indexer keys", CONTEXT.content)):
        assert rank_tokens(store, tokens, Parallel(cp=cp)) == tokens


@given(st.integers(1, 1 << 16), st.sampled_from([2, 3, 4, 8]))
def test_blocks_of_context_ranks_hold_every_token(tokens: int, cp: int) -> None:
    (group,) = vllm_layout([LayerPages(CONTEXT)], tokens, retention=VLLM, in_flight=512, cp=cp).groups
    held = group.blocks_per_request * group.block_tokens
    assert tokens <= cp * held
    assert held - group.block_tokens < -(-tokens // cp)


@pytest.mark.parametrize(("engine", "window"), [("vllm", 4097), ("sglang", 4096), ("transformers", 4096)])
def test_a_window_that_counts_the_tokens_before_is_one_larger_in_vllm(engine: Engine, window: int) -> None:
    for excludes, limit in ((True, window), (False, 4096)):
        attention = SlidingAttention(
            query_heads=64, kv_heads=8, head_dim=128, window=4096, excludes_itself=excludes
        )
        (store,) = attention_stores(attention, Keeping(engine, BF16))
        assert store.limit == limit


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_every_key_head_of_an_index_has_its_own_scales(heads: int) -> None:
    for group, scales in ((128, 2), (64, 4), (96, 3), (0, 0)):
        indexer = Indexer(heads=32, head_dim=256, key_heads=heads, scale_group=group)
        attention = FullAttention(query_heads=8, kv_heads=8, head_dim=128, indexer=indexer)
        _, keys = attention_stores(attention, Keeping("vllm", BF16))
        assert keys.bytes_per_token() == heads * (256 + 4 * scales)


def test_index_keys_do_not_say_how_many_tokens_hold_a_state() -> None:
    state, keys = (
        LayerPages(state_bytes=200_000),
        Store("indexer keys", Packed(2 * CONTEXT.bytes_per_token(), "")),
    )
    options = {"retention": VLLM, "in_flight": 512}
    plain = vllm_layout([LayerPages(CONTEXT), state], 4096, **options)
    beside = vllm_layout([LayerPages(CONTEXT), LayerPages(keys), state], 4096, **options)
    assert plain.block_size == beside.block_size == 64


@given(st.integers(1, 127))
def test_what_a_format_keeps_unquantized_is_no_more_than_the_context(tokens: int) -> None:
    """KIVI: 128 tokens of each layer stay in 16 bits, once there are so many."""
    llama = load_model("llama-3.1-8b")

    def residual(context: int) -> int:
        report = size_model(llama, context_tokens=context, kv="kivi2", retention="vllm", block_size=128)
        assert report.layout is not None
        return report.allocated_bytes_per_sequence - report.layout.request_bytes

    each = llama.num_layers * 8 * (128 + 128) * 2
    assert residual(tokens) == tokens * each
    assert residual(128 + tokens) == 128 * each
