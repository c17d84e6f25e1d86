"""The inverse questions: what fits is exactly what was sized, and one token more does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import UsageError
from kvplan.sizing.capacity import capacity_curve, choose_parallel, fit_model
from kvplan.sizing.flags import engine_flags
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.pool import longest, pool_capacity
from kvplan.sizing.remedies import plan_again, remedies
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.schema import (
    Block,
    DenseMlp,
    FullAttention,
    GpuSpec,
    ModelSpec,
    Segment,
    SlidingAttention,
    Source,
)

Hand = Callable[[str], ModelSpec]


@pytest.fixture(scope="session")
def h100() -> GpuSpec:
    return load_gpu("h100-sxm")


@pytest.fixture(scope="session")
def hybrid() -> ModelSpec:
    """Gemma-like: five sliding layers, then a full one."""
    heads = {"query_heads": 16, "kv_heads": 8, "head_dim": 128}
    mlp = DenseMlp(intermediate_size=8192)
    return ModelSpec(
        name="hybrid",
        family="gemma3",
        source=Source(url="https://example.org/written-by-hand"),
        hidden_size=2048,
        vocab_size=32000,
        max_context=131072,
        blocks={
            "local": Block(attention=SlidingAttention(window=1024, **heads), mlp=mlp),
            "global": Block(attention=FullAttention(**heads), mlp=mlp),
        },
        layout=(Segment(repeat=4, blocks=("local",) * 5 + ("global",)),),
    )


# Laws


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 131072),
    dtype=st.sampled_from(["bf16", "fp8", "nvfp4"]),
    kind=st.sampled_from(["vllm", "sglang"]),
)
def test_capacity_of_a_size_is_that_size(
    hand_model: Hand, h100: GpuSpec, tokens: int, dtype: str, kind: str
) -> None:
    pool = fit_model(hand_model("llama-3.1-8b"), h100, kv_dtype=dtype, engine=kind).binding.pool
    size = pool.request_bytes(tokens)
    found = longest(pool.request_bytes, size, 1 << 24)
    assert tokens <= found < tokens + pool.block_size
    assert pool.request_bytes(found) == size
    assert pool.request_bytes(found + 1) > size


@settings(max_examples=40)
@given(tokens=st.integers(2048, 131072))
def test_hybrids_too(hybrid: ModelSpec, h100: GpuSpec, tokens: int) -> None:
    pool = fit_model(hybrid, h100).binding.pool
    size = pool.request_bytes(tokens)
    found = longest(pool.request_bytes, size, 1 << 24)
    assert found >= tokens
    assert pool.request_bytes(found) <= size < pool.request_bytes(found + 1)


@settings(max_examples=40)
@given(pool_bytes=st.integers(0, 80 << 30), context=st.sampled_from([1024, 8192, 32768]))
def test_blocks_never_exceed_the_pool(hand_model: Hand, h100: GpuSpec, pool_bytes: int, context: int) -> None:
    pool = fit_model(hand_model("qwen3-8b"), h100).binding.pool
    capacity = pool_capacity(pool, pool_bytes, context)
    assert capacity.num_blocks * capacity.block_bytes <= pool_bytes
    assert (capacity.num_blocks + 1) * capacity.block_bytes > pool_bytes
    assert capacity.concurrency == Fraction(capacity.num_blocks, -(-context // 16))


def test_half_the_bits_hold_twice_the_requests(hand_model: Hand, h100: GpuSpec) -> None:
    model = hand_model("llama-3.1-8b")
    sixteen, eight = (fit_model(model, h100, kv_dtype=dtype, max_model_len=8192) for dtype in ("bf16", "fp8"))
    assert 0 <= eight.num_blocks - 2 * sixteen.num_blocks <= 1


def test_the_longest_context_fits_and_one_more_does_not(hand_model: Hand) -> None:
    report = fit_model(hand_model("llama-3.1-8b"), load_gpu("rtx-4090"), utilization=0.9, max_model_len=8192)
    most = report.longest_context()
    assert 8192 < most < 131072
    assert plan_again(report, max_model_len=most).fits
    assert not plan_again(report, max_model_len=most + 1).fits


@settings(max_examples=30)
@given(contexts=st.lists(st.integers(16, 131072), min_size=2, max_size=5, unique=True))
def test_longer_requests_never_fit_more_often(hand_model: Hand, h100: GpuSpec, contexts: list[int]) -> None:
    for _, points in capacity_curve(hand_model("llama-3.1-8b"), h100, contexts=sorted(contexts)):
        values = [value for _, value in points]
        assert values == sorted(values, reverse=True)


def test_the_smallest_stage_decides(hand_model: Hand, h100: GpuSpec) -> None:
    report = fit_model(
        hand_model("llama-3.1-8b"), h100, parallel=Parallel(pp=4), version="0.19", max_model_len=8192
    )
    assert report.binding.bill.stage == 3  # it samples
    assert report.num_blocks == min(stage.capacity.num_blocks for stage in report.stages)


# Golden values


def test_what_vllm_printed(hand_model: Hand, h100: GpuSpec) -> None:
    report = fit_model(hand_model("llama-3.1-8b"), h100, version="0.19", utilization=0.95, max_model_len=8192)
    assert report.num_blocks == pytest.approx(29_751, abs=3)  # logged: 29,750 and 29,751
    assert report.kv_tokens == report.num_blocks * 16
    assert float(report.max_concurrency) == pytest.approx(58.11, abs=0.01)


def test_the_token_line_changed_its_meaning_for_hybrids(hybrid: ModelSpec, h100: GpuSpec) -> None:
    old = fit_model(hybrid, h100, version="0.20", max_model_len=65536, kv_pool_bytes=40 << 30)
    new = fit_model(hybrid, h100, version="0.20.1", max_model_len=65536, kv_pool_bytes=40 << 30)
    groups = len(new.binding.pool.layout(65536).groups)
    assert groups == 6
    assert old.kv_tokens == old.num_blocks // groups * 16
    assert new.kv_tokens == int(new.max_concurrency * 65536)
    assert new.kv_tokens > 2 * old.kv_tokens


def test_before_layer_groups_windows_were_billed_whole(hybrid: ModelSpec, h100: GpuSpec) -> None:
    old, new = (
        fit_model(hybrid, h100, version=version, max_model_len=65536, kv_pool_bytes=40 << 30)
        for version in ("0.9.0", "0.9.1")
    )
    assert len(old.binding.pool.layout(65536).groups) == 1
    assert old.max_concurrency == Fraction(old.num_blocks, 65536 // 16)
    assert new.max_concurrency > 3 * old.max_concurrency


def test_state_caps_what_tokens_would_allow(h100: GpuSpec) -> None:
    model = load_model("qwen3-next-80b-a3b")
    short = fit_model(model, load_gpu("h200-sxm"), parallel=Parallel(tp=4), engine="sglang", max_model_len=64)
    slots = short.kv_pool_bytes * 9 // 19 // short.binding.pool.state_bytes - 1  # one is padding
    assert short.max_concurrency == slots // 5  # memory for tokens is left over, slots are not


def test_prefix_caching_holds_a_second_state(h100: GpuSpec) -> None:
    model = load_model("qwen3-next-80b-a3b")
    options = {"parallel": Parallel(tp=4), "max_model_len": 65536, "kv_pool_bytes": 20 << 30}
    before = fit_model(model, h100, version="0.27", **options).binding.pool.layout(65536)  # type: ignore[arg-type]
    since = fit_model(model, h100, version="0.28", **options).binding.pool.layout(65536)  # type: ignore[arg-type]
    groups = sum(1 for group in since.groups if group.name == "state")
    assert groups == 3
    assert since.blocks_per_request == before.blocks_per_request + groups
    for version, told, same in (("0.27", True, since), ("0.28", False, before)):
        report = fit_model(model, h100, version=version, prefix_caching=told, **options)  # type: ignore[arg-type]
        assert report.binding.pool.layout(65536).blocks_per_request == same.blocks_per_request
        assert f"--{'' if told else 'no-'}enable-prefix-caching" in (engine_flags(report)["vllm"] or "")


def test_replicas_share_the_requests(hand_model: Hand, h100: GpuSpec) -> None:
    one = fit_model(hand_model("llama-3.1-8b"), h100, max_model_len=8192)
    four = fit_model(hand_model("llama-3.1-8b"), h100, max_model_len=8192, parallel=Parallel(dp=4))
    assert four.max_concurrency == one.max_concurrency
    assert four.total_concurrency == 4 * one.max_concurrency


@pytest.mark.parametrize(
    ("gpus", "tp", "expected"), [(8, None, (8, 1)), (8, 2, (2, 4)), (6, None, (2, 3)), (1, None, (1, 1))]
)
def test_gpus_are_spread_over_ranks_and_replicas(
    hand_model: Hand, gpus: int, tp: int | None, expected: tuple[int, int]
) -> None:
    parallel = choose_parallel(hand_model("llama-3.1-8b"), gpus, tp=tp)
    assert (parallel.tp, parallel.dp) == expected


@pytest.mark.parametrize(
    ("gpus", "tp", "message"),
    [(6, 4, "6 GPUs are not a multiple of tp 4 x pp 1"), (3, 3, "tp 3 does not divide the 32 query heads")],
)
def test_gpus_that_cannot_be_spread_are_refused(hand_model: Hand, gpus: int, tp: int, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        choose_parallel(hand_model("llama-3.1-8b"), gpus, tp=tp)


@pytest.mark.parametrize(
    ("dealt", "message"),
    [
        ({"attention_ranks": 3}, "tp 8 is no multiple of 3 attention ranks"),
        ({"attention_ranks": 1, "dp_attention": True}, "attention_ranks 1 keeps them together"),
    ],
)
def test_ranks_that_gpus_cannot_be_are_refused(hand_model: Hand, dealt: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_parallel(hand_model("llama-3.1-8b"), 8, **dealt)


# Remedies and flags


def test_every_remedy_is_computed_and_true(hand_model: Hand, h100: GpuSpec) -> None:
    report = fit_model(hand_model("llama-3.1-70b"), h100, max_model_len=32768)
    assert not report.fits
    ways = {remedy.option: remedy for remedy in remedies(report)}
    assert ways["--gpus 4 --tp 4"].fits
    assert "--gpus 2 --tp 2" not in ways  # better than one GPU, and still not enough
    for remedy in ways.values():
        assert remedy.report.max_concurrency > report.max_concurrency


@pytest.mark.parametrize(("step", "has_room"), [(8192, True), (65536, False)])
def test_no_utilization_is_suggested_that_leaves_activations_no_room(
    hand_model: Hand, h100: GpuSpec, step: int, has_room: bool
) -> None:
    report = fit_model(
        hand_model("llama-3.1-8b"), h100, engine="sglang", utilization=0.7, max_num_batched_tokens=step
    )
    after = plan_again(report, utilization=0.95)
    assert (after.binding.bill.headroom_bytes >= 0) == has_room
    assert any("utilization" in remedy.option for remedy in remedies(report)) == has_room


def test_flags_say_what_was_planned(hand_model: Hand, h100: GpuSpec) -> None:
    report = fit_model(
        hand_model("llama-3.1-8b"), h100, max_model_len=8192, kv_dtype="fp8", parallel=Parallel(tp=2)
    )
    flags = engine_flags(report)
    assert flags["vllm"] == (
        "vllm serve meta-llama/Llama-3.1-8B --tensor-parallel-size 2 --max-model-len 8192 --kv-cache-dtype fp8 "
        "--gpu-memory-utilization 0.92 --max-num-seqs 1024 --max-num-batched-tokens 8192"
    )
    assert flags["sglang"] == (
        "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B --tp-size 2 --context-length 8192 "
        "--kv-cache-dtype fp8_e4m3"
    )


def test_a_format_no_engine_offers_has_no_flags(hand_model: Hand, h100: GpuSpec) -> None:
    flags = engine_flags(fit_model(hand_model("llama-3.1-8b"), h100, kv_dtype="kivi2"))
    assert flags == {"vllm": None, "sglang": None}


@pytest.mark.parametrize(("version", "spare"), [("0.33", 1), ("0.6.4", 0)])
def test_one_block_of_the_pool_is_the_engines_own(
    hand_model: Hand, h100: GpuSpec, version: str, spare: int
) -> None:
    """vLLM V1 keeps block 0 as the null block: a pool of just a request's blocks cannot serve it."""
    block = 16 * 131_072
    options = {"max_model_len": 8192, "version": version}
    model = hand_model("llama-3.1-8b")
    tight, roomy = (
        fit_model(model, h100, kv_pool_bytes=(512 + more) * block, **options)  # type: ignore[arg-type]
        for more in (spare - 1, spare)
    )
    assert (tight.fits, roomy.fits) == (False, True)
    assert (tight.longest_context(), roomy.longest_context()) == (8192 - 16, 8192)


@pytest.mark.parametrize(("budget", "blocks"), [(8192, 512), (2048, 128), (1504, 94)])
def test_cross_attention_is_given_room_for_a_whole_step(h100: GpuSpec, budget: int, blocks: int) -> None:
    """vLLM plans for ``max_num_encoder_input_tokens``, which is the step's budget: not Whisper's 1,500."""
    report = fit_model(load_model("whisper-large-v3"), h100, max_num_batched_tokens=budget, max_model_len=448)
    own, cross = report.binding.pool.layout(448).groups
    assert (own.reach[0], cross.reach[0]) == ("context", "encoder")
    assert (own.blocks_per_request, cross.blocks_per_request) == (28, blocks)
    assert report.max_concurrency == Fraction(report.num_blocks, 28 + blocks)


def test_a_stage_that_keeps_nothing_does_not_bind() -> None:
    """Gemma 3n and 4: the last layers read the KV of earlier ones, a stage of them alone has no pool."""
    report = fit_model(
        load_model("gemma-4-e2b"), load_gpu("b300"), parallel=Parallel(pp=2), max_model_len=8192
    )
    assert not report.stages[1].pool.pages
    assert report.fits
    assert report.num_blocks > 0
    assert report.max_concurrency == report.stages[0].capacity.concurrency >= 1
