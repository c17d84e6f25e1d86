"""Context parallelism: hand arithmetic, limits, and both clocks against one GPU."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.latency.build import build_latency
from kvplan.latency.clock import Clock
from kvplan.latency.link import Exchange
from kvplan.latency.ring import LSE_BYTES, Ring, ring_of
from kvplan.latency.work import StepWork, step_work
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.size import size_model
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format

LINK = Exchange(450e9, 8e-6, 0.8)
KV = 2 * 8 * 128 * 2
"""Bytes of a token's KV in one layer of Llama 3.1 8B."""
QUERY = 32 * (128 * 2 + LSE_BYTES)


def work_of(model: str = "llama-3.1-8b", cp: int = 4) -> StepWork:
    return step_work(load_model(model), parallel=Parallel(cp=cp), kv_format=kv_format("bf16"))


def clock(kind: str = "roofline", cp: int = 4, model: str = "llama-3.1-8b", **spec: Any) -> Clock:
    return build_latency(
        {"model": kind, **spec}, model=load_model(model), gpu=load_gpu("h100-sxm"), parallel=Parallel(cp=cp),
        kv_format=kv_format("bf16"), weights_format=None, block_size=16,
    )  # fmt: skip


def decode(requests: int, context: int) -> StepBatch:
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


def prefill(new: int, before: int = 0) -> StepBatch:
    return StepBatch(new, 0, 0, 0, [(before, new)], 1)


def test_the_first_chunk_passes_kv_and_a_late_one_queries() -> None:
    ring = Ring(work_of(), LINK)
    hops = 32 * 3 * 8e-6
    assert ring.chunk_seconds(0, 8192) == pytest.approx(hops + 32 * 0.75 * 8192 * KV / 360e9)
    assert ring.chunk_seconds(1 << 20, 128) == pytest.approx(hops + 32 * 0.75 * 128 * 2 * QUERY / 360e9)


def test_decode_merges_partial_outputs_in_every_layer() -> None:
    fixed, each = Ring(work_of(), LINK).merge
    assert fixed == pytest.approx(32 * 8e-6)
    assert each == pytest.approx(32 * 1.5 * QUERY / 360e9)


@given(before=st.integers(0, 1 << 20), new=st.integers(1, 1 << 15), more=st.integers(0, 1 << 15), cp=st.sampled_from([2, 3, 8]))  # fmt: skip
def test_more_tokens_never_pass_faster(before: int, new: int, more: int, cp: int) -> None:
    ring = Ring(work_of(cp=cp), LINK)
    base = ring.chunk_seconds(before, new)
    assert 0 < base <= ring.chunk_seconds(before + more, new) * (1 + 1e-12)
    assert base <= ring.chunk_seconds(before, new + more) * (1 + 1e-12)


@given(decoding=st.integers(0, 4096), others=st.integers(0, 1 << 16), cp=st.integers(2, 64))
def test_a_rank_computes_all_decode_tokens_and_its_share_of_the_others(
    decoding: int, others: int, cp: int
) -> None:
    tokens = Ring(work_of(cp=cp), LINK).rank_tokens(decoding + others, decoding)
    assert tokens == decoding + -(-others // cp)


def test_one_rank_has_no_ring() -> None:
    assert ring_of(work_of(cp=1), LINK) is None
    one: Any = clock(cp=1).model
    assert one.parts(prefill(8192)).collective_s == 0.0


def test_a_rank_keeps_its_share_of_the_cache() -> None:
    model = load_model("llama-3.1-8b")
    context, cp = 131_072, 4
    kept = size_model(model, context_tokens=context, parallel=Parallel(cp=cp)).bytes_per_gpu
    work = work_of(cp=cp)
    assert kept == sum(item.layers * item.kv_bytes_per_token for item in work.attentions) * context
    assert kept == size_model(model, context_tokens=context).bytes_per_gpu // cp


def test_layers_with_a_window_are_on_every_rank() -> None:
    work = work_of("gemma-2-27b")
    shards = {item.limit is None: item.shards for item in work.attentions}
    assert shards == {True: 4, False: 1}
    for item in work.attentions:
        # Queries of a prefill are divided in every layer, those of decode are not.
        share = item.decode_flops / item.prefill_flops
        assert share == (1.0 if item.limit is None else 4.0)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_four_ranks_read_a_quarter_of_a_long_context(kind: str) -> None:
    one, four = clock(kind, cp=1), clock(kind)
    short, long = decode(4, 1_000), decode(4, 500_000)
    grown = [c.model.step_seconds(long) - c.model.step_seconds(short) for c in (one, four)]
    assert grown[0] / grown[1] == pytest.approx(4.0, rel=0.05)
    # What is exchanged costs more than it saves where there is little to read.
    assert four.model.step_seconds(decode(1, 16)) > one.model.step_seconds(decode(1, 16))


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_a_long_prompt_takes_a_quarter_and_the_exchange_hides_behind_computing(kind: str) -> None:
    one, four = (clock(kind, cp=cp, step_s=0.0) for cp in (1, 4))
    ratio = one.model.step_seconds(prefill(131_072)) / four.model.step_seconds(prefill(131_072))
    assert 3.4 < ratio <= 4.05
    hidden = clock(kind, step_s=0.0, **({"link_efficiency": 1.0} if kind == "roofline" else {}))
    assert four.model.step_seconds(prefill(131_072)) == pytest.approx(
        hidden.model.step_seconds(prefill(131_072)), rel=1e-3
    )


def test_a_slow_link_shows() -> None:
    fast, slow = clock(), clock(link_efficiency=1e-3)
    model: Any = slow.model
    batch = prefill(4096)
    assert slow.model.step_seconds(batch) > 3 * fast.model.step_seconds(batch)
    floor = 32 * model.sheet.efficiency.prefill.floor_s
    assert model.parts(batch).prefill_s == pytest.approx(
        floor + Ring(work_of(), model.exchange).chunk_seconds(0, 4096)
    )


def test_parts_add_up_with_ranks() -> None:
    for name in ("llama-3.1-8b", "gemma-2-27b", "qwen3-30b-a3b", "deepseek-v3"):
        model: Any = clock(model=name).model
        batch = StepBatch(2112, 64_000, 64, 64_064, [(0, 1024), (4096, 1024)], 65)
        assert model.parts(batch).seconds == pytest.approx(model.step_seconds(batch), rel=1e-12)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_the_result_says_so(kind: str) -> None:
    named = {item.name: item for item in clock(kind).assumptions}
    assert named["latency.context_parallel"].value == "4 ranks"
    assert not any("span nodes" in text for text in clock(kind).warnings)
    assert "span nodes of 8, assumed to be connected by ib-ndr" in clock(kind, cp=16).warnings[-1]
