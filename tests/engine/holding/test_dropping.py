"""What methods that drop tokens hold: the sizing floor's counts, constant memory, blocks given back."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import request, serve

from kvplan.engine.config import EngineConfig
from kvplan.engine.holding.laws import Capped, Law, PromptShare, QuantizedWindow, Share
from kvplan.engine.holding.strategy import TokenDropping
from kvplan.errors import UsageError
from kvplan.sizing.retention import parse_retention
from kvplan.specs.formats import kv_format

ROOMY = EngineConfig(100_000, max_model_len=1 << 20, enable_prefix_caching=False, max_num_batched_tokens=512)


@given(st.integers(0, 5000), st.integers(1, 64), st.integers(1, 2000), st.integers(1, 1000))
def test_kept_tokens_are_those_that_sizing_counts(tokens: int, sink: int, recent: int, share: int) -> None:
    budget = Fraction(share, 1000)
    for law, text in (
        (Capped("x", sink, recent), f"streaming:{sink}+{recent}"),
        (Share("x", budget), f"h2o:{share}/1000"),
        (PromptShare("x", budget), f"snapkv:{share}/1000"),
    ):
        assert law.kept(tokens, True, tokens) == parse_retention(text).context_kept(tokens)


@given(st.integers(1, 20), st.integers(0, 3000), st.integers(1, 1000), st.integers(1, 60))
def test_a_rhythm_adds_up_to_what_is_kept(size: int, prompt: int, share: int, cap: int) -> None:
    budget = Fraction(share, 1000)
    laws: list[Law] = [
        Capped("x", 0, cap), Share("x", budget), PromptShare("x", budget), QuantizedWindow("x", cap, 0)
    ]  # fmt: skip
    for law in laws:
        rhythm, lost = law.rhythm(size), law.lost(prompt)
        kept = law.kept(prompt, True, prompt)
        blocks = law.blocks(kept, size)
        needs = dict(rhythm.needs)
        for computed in range(prompt, prompt + 200):
            position = computed - lost
            if rhythm.until is None or position < rhythm.until:
                kept += position % rhythm.beat in rhythm.gains
                blocks += needs.get(position % rhythm.period, 0)
            assert kept == law.kept(prompt, True, computed + 1)
            assert blocks == law.blocks(kept, size)


@pytest.mark.parametrize("prompt", [2000, 20_000, 200_000])
def test_streaming_memory_does_not_depend_on_length(prompt: int) -> None:
    law = Capped("streaming:4+1020", 4, 1020)
    served = serve(TokenDropping(law).engine, ROOMY, [request("r", prompt, 300)])
    # 1,024 tokens and the chunk of at most 512 that is being computed.
    assert served.totals["peak_used_blocks"] == (1024 + 512) // 16
    assert served.metric("retention", "largest_request") == 96
    assert served.metric("retention", "dropped_tokens") == prompt + 299 - 1024
    assert set(served.decodes) == {(1, 1024)}


def test_decoding_holds_and_reads_what_streaming_keeps() -> None:
    served = serve(TokenDropping(Capped("s", 4, 28)).engine, ROOMY, [request("r", 10, 60)])
    assert served.decodes == [(1, min(kept, 32)) for kept in range(11, 70)]
    assert served.totals["peak_used_blocks"] == 2
    assert served.totals["allocated_blocks"] == 2


def test_heavy_hitters_are_a_share_of_everything_so_far() -> None:
    law = Share("h2o:0.2", Fraction(1, 5))
    served = serve(TokenDropping(law).engine, ROOMY, [request("r", 100, 100)])
    assert served.decodes == [(1, -(-computed // 5)) for computed in range(101, 200)]
    # The chunk first: 7 blocks of 16, then ceil(199 / 5) = 40 tokens: 3.
    assert served.totals["peak_used_blocks"] == 7
    last = [point.used_blocks for point in served.series if point.running]
    assert (last[0], last[1], last[-2]) == (7, 2, 3)


def test_a_prompt_is_compressed_when_it_is_computed() -> None:
    law = PromptShare("snapkv:0.25", Fraction(1, 4))
    served = serve(TokenDropping(law).engine, ROOMY, [request("r", 2000, 50)])
    used = [point.used_blocks for point in served.series if point.running]
    # Chunks of 512 add up to the whole prompt; then 500 tokens and what is decoded.
    assert used[:4] == [32, 64, 96, 125]
    assert used[4:6] == [-(-501 // 16), -(-502 // 16)]
    assert served.decodes[0] == (1, 501)
    assert served.decodes[-1] == (1, 549)
    assert served.metric("retention", "freed_blocks") == 125 - 32


def test_the_observation_window_is_kept_of_a_short_prompt() -> None:
    law = PromptShare("snapkv:0.01", Fraction(1, 100))
    assert [law.kept(prompt, True, prompt) for prompt in (10, 32, 100, 5000)] == [10, 32, 32, 50]


def test_a_preempted_prompt_is_whole_again_before_it_is_compressed() -> None:
    law = PromptShare("snapkv:0.25", Fraction(1, 4))
    tight = EngineConfig(
        24, max_model_len=1024, enable_prefix_caching=False, max_num_batched_tokens=64,
        async_scheduling=False,
    )  # fmt: skip
    asked = [request(str(index), 150, 140, start=1000 * index) for index in range(3)]
    served = serve(TokenDropping(law).engine, tight, asked)
    assert served.totals["preemptions"] > 0
    assert len(served.rows) == 3
    # One that comes back computes its prompt and outputs as one prompt, which is held whole meanwhile.
    assert served.metric("retention", "largest_request") > -(-150 // 16)


@given(st.integers(1, 3000))
@settings(max_examples=200)
def test_a_quantized_cache_holds_at_least_the_bytes_of_its_format(tokens: int) -> None:
    form, heads, dim, size = kv_format("kivi2"), 8, 128, 16
    per_token = form.k.bytes_per_token(heads, dim) + form.v.bytes_per_token(heads, dim)
    block_bytes = per_token * size
    full = 2 * heads * dim * 2
    buffer = -(-128 * full // block_bytes)
    law = QuantizedWindow("kivi", 128, int(buffer))
    held = (law.blocks(tokens, size) + law.buffer_blocks) * block_bytes
    exact = form.k.bytes(tokens, heads, dim) + form.v.bytes(tokens, heads, dim)
    # Values keep their last 128 tokens in full precision also while keys have flushed theirs.
    assert exact - 128 * per_token <= held
    assert held <= exact + (128 * full + block_bytes)


def test_a_quantized_cache_grows_by_flushes() -> None:
    law = QuantizedWindow("kivi", 128, 40)
    served = serve(TokenDropping(law).engine, ROOMY, [request("r", 100, 200)])
    used = [point.used_blocks for point in served.series if point.running]
    assert used[0] == 40
    assert sorted(set(used)) == [40, 48, 56]
    assert served.decodes[-1] == (1, 299)


@pytest.mark.parametrize("share", [Fraction(0), Fraction(3, 2), Fraction(1, 3000)])
def test_shares_that_make_no_sense_are_refused(share: Fraction) -> None:
    with pytest.raises(UsageError, match=r"share|decimals"):
        Share("h2o", share)


def test_longer_requests_fit_when_tokens_are_dropped() -> None:
    small = EngineConfig(40, max_model_len=1 << 17, enable_prefix_caching=False, max_num_batched_tokens=256)
    law = Capped("streaming:4+252", 4, 252)
    served = serve(TokenDropping(law).engine, small, [request("r", 100_000, 10)])
    assert len(served.rows) == 1
    narrow = EngineConfig(30, max_model_len=1 << 17, enable_prefix_caching=False, max_num_batched_tokens=256)
    refused = serve(TokenDropping(law).engine, narrow, [request("r", 100_000, 10)])
    assert refused.rejected == [("r", "needs more blocks than the pool has, even with dropping")]
