"""Laws of every clock: positive, finite, and never faster for more work."""

import math
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.latency.build import build_latency
from kvplan.latency.linear import LinearLatency
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.serving import resolve_serving
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format

CASES = {
    "linear": ("linear", "llama-3.1-8b", "h100-sxm", 1),
    "roofline-dense": ("roofline", "llama-3.1-8b", "h100-sxm", 1),
    "roofline-window": ("roofline", "gemma-2-27b", "l40s", 2),
    "roofline-experts": ("roofline", "mixtral-8x7b", "a100-80g", 4),
    "roofline-latent": ("roofline", "deepseek-v3", "h200-sxm", 8),
    "profile-h100": ("profile", "llama-3.1-8b", "h100-sxm", 1),
    "profile-h100-tp": ("profile", "llama-3.1-70b", "h100-sxm", 4),
    "profile-window": ("profile", "gemma-2-27b", "h100-sxm", 1),
    "profile-latent": ("profile", "deepseek-v3", "h100-sxm", 8),
    "profile-a100": ("profile", "llama-3.1-8b", "a100-80g", 1),
    "roofline-graphs": ("roofline", "llama-3.2-1b", "h100-sxm", 1, "vllm"),
    "roofline-eager": ("roofline", "llama-3.2-1b", "h100-sxm", 1, "vllm", False),
    "roofline-sglang": ("roofline", "qwen3-30b-a3b", "h100-sxm", 2, "sglang"),
    "profile-graphs": ("profile", "llama-3.2-1b", "h100-sxm", 1, "vllm"),
    "profile-eager": ("profile", "llama-3.2-1b", "h100-sxm", 1, "vllm", False),
    "profile-sglang": ("profile", "llama-3.1-8b", "h100-sxm", 1, "sglang"),
    "roofline-dealt": ("roofline", "qwen3-30b-a3b", "h100-sxm", 4, "vllm"),
    "roofline-sent": ("roofline", "deepseek-v3", "h200-sxm", 8, "sglang"),
    "profile-sent": ("profile", "qwen3-30b-a3b", "h100-sxm", 4, "sglang"),
    "roofline-ring": ("roofline", "llama-3.1-8b", "h100-sxm", 2, "vllm"),
    "roofline-ring-window": ("roofline", "gemma-2-27b", "h100-sxm", 1),
    "roofline-ring-latent": ("roofline", "deepseek-v3", "h200-sxm", 4),
    "profile-ring": ("profile", "llama-3.1-8b", "h100-sxm", 1, "vllm"),
    "profile-ring-window": ("profile", "gemma-2-27b", "h100-sxm", 1),
}
SENT = {"ep": True, "expert_exchange": "deepep_high_throughput"}
OPTIONS = {"roofline-dealt": {"ep": True, "routing_skew": 2.0}, "roofline-sent": SENT, "profile-sent": SENT}
OPTIONS |= {name: {"cp": 4} for name in CASES if "-ring" in name}
SETTINGS = settings(max_examples=60)
SLACK = 1 - 1e-12
"""Sums of doubles in another order may differ in the last bits."""


def build(kind, model, gpu, tp, engine=None, graphs=True, *, ep=False, cp=1, **spec):
    return whole_clock(kind, model, gpu, tp, engine, graphs, ep=ep, cp=cp, **spec).model


def whole_clock(kind, model, gpu, tp, engine=None, graphs=True, *, ep=False, cp=1, **spec):
    serving = None
    if engine is not None:
        serving = resolve_serving(engine, load_gpu(gpu), max_model_len=32_768, cuda_graphs=graphs, tp=tp)
    spec = {"model": kind, **spec}
    if kind == "linear":
        spec |= {"a": 5e-3, "b": 2e-5, "c": 1e-8}
    return build_latency(
        spec, model=load_model(model), gpu=load_gpu(gpu), parallel=Parallel(tp=tp, cp=cp),
        kv_format=kv_format("bf16"), weights_format=None, block_size=16, serving=serving, expert_parallel=ep,
    )  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def clock(request):
    return build(*CASES[request.param], **OPTIONS.get(request.param, {}))


def batch(requests, context, chunks):
    """``requests`` decoding at ``context`` tokens each, and prefill chunks."""
    tokens = requests + sum(new for _, new in chunks)
    return StepBatch(
        scheduled_tokens=tokens, decode_context=requests * context, decode_requests=requests,
        decode_kv_tokens=requests * context, prefill_chunks=list(chunks),
        sampled_requests=requests + len(chunks),
    )  # fmt: skip


REQUESTS = st.integers(0, 2048)
CONTEXT = st.integers(1, 1 << 20)
CHUNKS = st.lists(st.tuples(st.integers(0, 1 << 18), st.integers(1, 1 << 14)), max_size=4)
MORE = st.integers(1, 4096)


@SETTINGS
@given(requests=REQUESTS, context=CONTEXT, chunks=CHUNKS)
def test_a_step_takes_a_positive_finite_time(clock, requests, context, chunks):
    seconds = clock.step_seconds(batch(requests, context, chunks))
    assert math.isfinite(seconds)
    assert seconds > 0


@SETTINGS
@given(requests=REQUESTS, context=CONTEXT, chunks=CHUNKS, more=MORE)
def test_more_requests_of_the_same_context_never_take_less(clock, requests, context, chunks, more):
    small = clock.step_seconds(batch(requests, context, chunks))
    assert clock.step_seconds(batch(requests + more, context, chunks)) >= small * SLACK


@SETTINGS
@given(requests=st.integers(1, 2048), context=CONTEXT, chunks=CHUNKS, more=MORE)
def test_longer_contexts_never_take_less(clock, requests, context, chunks, more):
    small = clock.step_seconds(batch(requests, context, chunks))
    assert clock.step_seconds(batch(requests, context + more, chunks)) >= small * SLACK


@SETTINGS
@given(requests=REQUESTS, context=CONTEXT, chunks=CHUNKS, before=st.integers(0, 1 << 17), new=MORE)
def test_another_chunk_never_takes_less(clock, requests, context, chunks, before, new):
    small = clock.step_seconds(batch(requests, context, chunks))
    assert clock.step_seconds(batch(requests, context, [*chunks, (before, new)])) >= small * SLACK


@SETTINGS
@given(before=st.integers(0, 1 << 17), new=st.integers(1, 1 << 14), more=MORE)
def test_a_longer_chunk_or_one_further_in_never_takes_less(clock, before, new, more):
    small = clock.step_seconds(batch(0, 1, [(before, new)]))
    assert clock.step_seconds(batch(0, 1, [(before, new + more)])) >= small * SLACK
    assert clock.step_seconds(batch(0, 1, [(before + more, new)])) >= small * SLACK


def test_a_clock_keeps_nothing_of_the_batch(clock):
    one = batch(3, 100, [(0, 64)])
    first = clock.step_seconds(one)
    clock.step_seconds(batch(500, 9000, []))
    assert clock.step_seconds(one) == first


@SETTINGS
@given(requests=REQUESTS, context=CONTEXT, chunks=CHUNKS)
def test_the_parts_of_a_step_are_the_step(clock, requests, context, chunks):
    if isinstance(clock, LinearLatency):
        return
    one = batch(requests, context, chunks)
    parts = clock.parts(one)
    assert parts.seconds == pytest.approx(clock.step_seconds(one), rel=1e-9)
    assert all(getattr(parts, field.name) >= 0.0 for field in fields(parts))
    assert requests or parts.decode_s == 0.0
    assert chunks or parts.prefill_s == 0.0


ROOFLINES = [name for name, case in CASES.items() if case[0] == "roofline"]


@pytest.fixture(scope="module", params=ROOFLINES)
def roofline(request):
    return whole_clock(*CASES[request.param], **OPTIONS.get(request.param, {}))


@SETTINGS
@given(requests=REQUESTS, context=CONTEXT, chunks=CHUNKS)
def test_no_part_of_a_roofline_is_faster_than_the_peaks(roofline, requests, context, chunks):
    one = batch(requests, context, chunks)
    parts, roofs = roofline.model.parts(one), roofline.roofs.step(one)
    for seconds, roof in (
        (parts.linear_s, roofs.linear), (parts.decode_s, roofs.decode), (parts.prefill_s, roofs.prefill),
        (parts.state_s, roofs.state), (parts.head_s, roofs.head),
    ):  # fmt: skip
        assert seconds >= max(roof.compute_s, roof.memory_s) * SLACK


def test_the_roofs_of_a_dense_model_are_arithmetic():
    """Llama 3.1 8B: 6.98e9 weights in its layers, 128 kiB of cache a token, on 989.4 TFLOP/s and 3.35 TB/s."""
    roofs = whole_clock("profile", "llama-3.1-8b", "h100-sxm", 1).roofs
    layers = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336)
    decode = roofs.step(batch(16, 1000, []))
    assert decode.linear.memory_s == pytest.approx(2 * layers / 3.35e12)
    assert decode.linear.compute_s == pytest.approx(2 * 16 * layers / 989.4e12)
    assert decode.decode.memory_s == pytest.approx(16 * 1000 * 131_072 / 3.35e12)
    assert decode.decode.compute_s == pytest.approx(32 * 16 * 1000 * 4 * 32 * 128 / 989.4e12)
    assert not decode.linear.computes
    assert not decode.decode.computes
    prompt = roofs.step(batch(0, 1, [(0, 4096)]))
    assert prompt.linear.computes
    assert prompt.prefill.computes
    assert prompt.prefill.compute_s == pytest.approx(32 * 4 * 32 * 128 * 4096 * 4097 / 2 / 989.4e12)
    assert prompt.whole.memory_s == pytest.approx(
        (2 * layers + 4096 * 131_072 + 2 * 4096 * 128_256) / 3.35e12
    )


def test_twice_the_bandwidth_halves_the_memory_bound_part():
    gpu = load_gpu("h100-sxm")

    def seconds(times):
        chip = gpu.model_copy(update={"bandwidth_bytes_per_s": times * gpu.bandwidth_bytes_per_s})
        return build_latency(
            {"model": "roofline", "step_s": 0.0}, model=load_model("llama-3.1-70b"), gpu=chip,
            parallel=Parallel(), kv_format=kv_format("bf16"), weights_format=None, block_size=16,
        ).model.step_seconds(batch(1, 4096, []))  # fmt: skip

    # Where nothing else is near to bounding a step, it takes half as long; at the GPU's own rate loading operands
    # into multiprocessors overlaps with reading memory, and is not faster with it.
    assert seconds(1 / 64) / seconds(1 / 32) == pytest.approx(2, rel=0.01)
    assert 1.8 < seconds(1) / seconds(2) < 2


def test_one_gpu_has_no_collective():
    model = build("roofline", "llama-3.1-8b", "h100-sxm", 1)
    assert model.parts(batch(64, 1000, [(0, 4096)])).collective_s == 0.0
    assert build("roofline", "llama-3.1-8b", "h100-sxm", 2).parts(batch(64, 1000, [])).collective_s > 0.0
