"""The datasheet roofline against arithmetic done by hand, and its refusals."""

import math

import pytest

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError, UnknownName
from kvplan.latency.build import build_latency
from kvplan.latency.datasheet import GLUE_S, GLUE_STREAMS
from kvplan.latency.efficiency import HOPPER
from kvplan.latency.engine_overhead import REQUEST_S, STEP_S
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model

BW = 3.35e12 * HOPPER.gemm.memory
KV_BW = 3.35e12 * HOPPER.decode.memory
CLOCK = 66.9e12 / 132 / 256


def decode(requests, context):
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


def prefill(new, before=0):
    return StepBatch(new, 0, 0, 0, [(before, new)], 1)


def llama_matrices():
    """Parameters of Llama 3.1 8B's linear layers: 32 x (qkv, o, up and gate, down)."""
    return 32 * 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14336)


def norm(p, *values):
    return sum(value**p for value in values) ** (1 / p)


def fastest_tiles(outputs, inputs):
    """One token, 64 columns a program: 16 rows, which wait for operands, or 64, which are multiplied."""
    waited = (16 + 64) * 2 / 47 / CLOCK
    multiplied = 2 * 64 * 64 * 132 / 989.4e12
    ways = []
    for splits in (1, 4, 16):
        program = inputs / splits * min(waited, multiplied) / HOPPER.gemm.compute
        seconds = math.ceil(outputs / 64 * splits / 132) * (program + HOPPER.gemm.tile_cycles / CLOCK)
        merge = HOPPER.gemm.split_cycles / CLOCK + splits * 16 * outputs * 8 / BW
        ways.append(seconds + (merge if splits > 1 else 0))
    return min(ways)


def test_one_token_by_hand(clock_of):
    gemm, attention = HOPPER.gemm, HOPPER.decode
    want = STEP_S + REQUEST_S + 32 * (GLUE_S + GLUE_STREAMS * 4096 * 2 / BW)
    # q and o of 4096 x 4096, k and v of 1024 rows are one matrix; gate, up and down.
    shapes = {(6144, 4096): 32, (4096, 4096): 32, (28672, 4096): 32, (4096, 14336): 32, (128256, 4096): 1}
    for (outputs, inputs), count in shapes.items():
        memory = 2 * (outputs * inputs + outputs + inputs) / BW
        want += count * (
            gemm.floor_cycles / CLOCK + norm(gemm.sharpness, fastest_tiles(outputs, inputs), memory)
        )
    memory = (1000 * 2 * 8 * 128 * 2 + 4 * 4096) / KV_BW
    compute = 1000 * 4 * 4096 / (989.4e12 * attention.compute)
    splits = 1000 / 128  # fewer than 132 multiprocessors / 8 heads
    walk = (128 * attention.token_cycles + attention.unit_cycles) / CLOCK
    assert splits < 132 / 8
    want += 32 * (attention.floor_cycles / CLOCK + norm(attention.sharpness, memory, compute, walk))
    got = clock_of("roofline").model.step_seconds(decode(1, 1000))
    assert got == pytest.approx(want, rel=1e-3)


def test_a_long_prompt_is_bound_by_tensor_cores(clock_of):
    flops = 2 * llama_matrices() * 8192 / (989.4e12 * HOPPER.gemm.compute)
    pairs = 32 * 4 * 32 * 128 * 8192 * 8193 / 2 / (989.4e12 * HOPPER.prefill.compute)
    got = clock_of("roofline").model.parts(prefill(8192))
    assert flops < got.linear_s < 1.15 * flops
    assert pairs < got.prefill_s < 1.6 * pairs


def test_fp8_weights_and_cache_read_half_and_multiply_faster(clock_of):
    wide, narrow = clock_of("roofline").model, clock_of("roofline", kv="fp8", weights="fp8").model
    for batch in (decode(8, 50_000), prefill(8192)):
        before, after = wide.parts(batch), narrow.parts(batch)
        assert 0.45 < after.linear_s / before.linear_s < 0.95
    # Half of the bytes, but converted: never half of the time.
    assert 0.5 < narrow.parts(decode(8, 50_000)).decode_s / wide.parts(decode(8, 50_000)).decode_s < 0.7


def test_fp8_weights_on_a_gpu_without_fp8_run_at_the_16_bit_peak(clock_of):
    plain = clock_of("roofline", gpu="a100-80g").model.parts(prefill(8192)).linear_s
    eight = clock_of("roofline", gpu="a100-80g", weights="fp8").model.parts(prefill(8192)).linear_s
    assert 0.95 * plain < eight < plain


def test_experts_touched_follow_even_routing(clock_of):
    model = clock_of("roofline", "mixtral-8x7b", tp=2, routing_skew=0).model
    expert = 3 * 4096 * 14336 // 2 * 2  # bytes of one expert on one of two ranks

    def touched(tokens):
        return 8 * (1 - (1 - 2 / 8) ** tokens)

    difference = model.parts(decode(4, 10)).linear_s - model.parts(decode(1, 10)).linear_s
    assert difference == pytest.approx(32 * expert * (touched(4) - touched(1)) / BW, rel=0.02)


def test_a_window_bounds_what_decode_reads(clock_of):
    model = clock_of("roofline", "gemma-2-27b").model

    def read(context):
        return model.parts(decode(64, context)).decode_s

    # Half of the layers have a window of 4,096: they read no more, the others as much again.
    assert read(16_384) - read(8192) == pytest.approx(2 * (read(8192) - read(4096)), rel=0.05)
    assert read(8192) < 1.6 * read(4096)


def test_latent_attention_reads_the_latent_whatever_the_ranks(clock_of):
    model = clock_of("roofline", "deepseek-v3", tp=8).model
    grown = model.parts(decode(64, 100_000)).decode_s - model.parts(decode(64, 50_000)).decode_s
    stream = 61 * 576 * 2 * 64 * 50_000 / KV_BW
    assert stream < grown < 1.6 * stream


def test_pipeline_stages_add_hops_but_read_no_more(clock_of):
    one, two = clock_of("roofline").model, clock_of("roofline", pp=2).model
    batch = decode(8, 1000)
    assert two.parts(batch).linear_s == one.parts(batch).linear_s
    hop = two.parts(batch).collective_s
    assert hop == pytest.approx(8e-6 + 8 * 4096 * 2 / (450e9 * 0.8), rel=1e-9)


def test_parts_add_up_to_the_step(clock_of):
    for name, tp in (("llama-3.1-8b", 1), ("mixtral-8x7b", 2), ("gemma-2-27b", 1), ("deepseek-v3", 8)):
        model = clock_of("roofline", name, tp=tp).model
        batch = StepBatch(2112, 64_000, 64, 64_064, [(0, 1024), (4096, 1024)], 65)
        assert model.parts(batch).seconds == pytest.approx(model.step_seconds(batch), rel=1e-12)


def test_the_clock_says_what_it_is_and_what_it_assumed(clock_of):
    clock = clock_of("roofline", tp=2)
    accuracy = clock.accuracy()
    assert accuracy["bands"] == {"ttft": [-0.3, 0.3], "tpot": [-0.2, 0.2], "e2e": [-0.2, 0.2]}
    assert "datasheet" in accuracy["statement"]
    named = {item.name: item.value for item in clock.assumptions}
    assert named["latency.memory_efficiency"] == HOPPER.gemm.memory
    assert named["latency.compute_efficiency"] == HOPPER.gemm.compute
    assert named["latency.reduce_s"] == 8e-6


def test_a_generation_nobody_measured_has_wider_bands_and_says_so(clock_of):
    for gpu, known in (("l40s", False), ("b200", False), ("h200-sxm", True), ("a10g", True)):
        accuracy = clock_of("roofline", gpu=gpu).accuracy()
        assert accuracy["bands"]["tpot"][1] == pytest.approx(0.2 if known else 0.25)
        assert ("none of its own was measured" in accuracy["statement"]) is not known


def test_parts_that_no_kernel_was_timed_for_widen_the_bands_and_are_named(clock_of):
    """No clock of the roofline claims more than the measured one of the same model."""
    for model, what in (
        ("deepseek-v3", "experts"), ("deepseek-v3", "latents"), ("mixtral-8x7b", "experts"),
        ("falcon-mamba-7b", "state"), ("flan-t5-xl", "encoder"),
    ):  # fmt: skip
        clock = clock_of("roofline", model)
        assert clock.bands["tpot"][1] == pytest.approx(0.3)
        assert clock.bands["ttft"][1] == pytest.approx(0.45)
        assert what in clock.statement
    for model in ("deepseek-v3", "mixtral-8x7b", "falcon-mamba-7b", "llama-3.1-8b", "jamba-v0.1"):
        drawn, measured = clock_of("roofline", model), clock_of("profile", model)
        assert drawn.bands["tpot"][1] >= 0.99 * measured.bands["tpot"][1]
    assert "nobody measured" not in clock_of("roofline").statement


def test_the_two_clocks_of_a_model_do_not_contradict_each_other(clock_of):
    for model, tp in (("deepseek-v3", 1), ("deepseek-v3", 8), ("qwen3-30b-a3b", 1), ("falcon-mamba-7b", 8)):
        drawn, measured = (clock_of(kind, model, tp=tp) for kind in ("roofline", "profile"))
        for name, batch in (("tpot", decode(1, 1000)), ("tpot", decode(64, 4000)), ("ttft", prefill(4096))):
            a, b = drawn.model.step_seconds(batch), measured.model.step_seconds(batch)
            assert a * (1 + drawn.bands[name][0]) <= b * (1 + measured.bands[name][1])
            assert b * (1 + measured.bands[name][0]) <= a * (1 + drawn.bands[name][1])


def test_another_vendors_gpu_is_farther_from_what_was_measured(clock_of):
    for gpu in ("mi300x", "mi355x"):
        clock = clock_of("roofline", gpu=gpu)
        assert clock.bands["ttft"][1] == pytest.approx(1.6 * 0.3)
        assert "amd" in clock.statement.lower()
        members = [clock.perturbed(seed).step_seconds(prefill(8192)) for seed in range(60)]
        nvidia = clock_of("roofline")
        others = [nvidia.perturbed(seed).step_seconds(prefill(8192)) for seed in range(60)]
        assert max(members) / min(members) > 1.2 * max(others) / min(others)


def test_given_efficiencies_scale_attention_alike(clock_of):
    batch = decode(64, 8000)
    plain, slow = clock_of("roofline").model, clock_of("roofline", memory_efficiency=0.425).model
    for part in ("linear_s", "decode_s"):
        assert 1.4 < getattr(slow.parts(batch), part) / getattr(plain.parts(batch), part) < 2.0


def test_perturbed_members_differ_by_seed_repeat_and_span_the_band(clock_of):
    clock = clock_of("roofline")
    batch = decode(16, 4000)
    base = clock.model.step_seconds(batch)
    ratios = [clock.perturbed(seed).step_seconds(batch) / base for seed in range(200)]
    again = [clock.perturbed(seed).step_seconds(batch) / base for seed in range(200)]
    assert ratios == again
    assert len(set(ratios)) == 200
    inside = sum(0.8 <= ratio <= 1.2 for ratio in ratios) / 200
    assert 0.84 <= inside <= 0.97


@pytest.mark.parametrize("kind", ["roofline", "profile"])
@pytest.mark.parametrize("value", [-1, 1e30, math.inf, "long"])
def test_times_beyond_a_minute_are_refused(clock_of, kind, value):
    """A clock of 1e30 s a step made results that could not be written."""
    with pytest.raises(SpecError, match="from 0 to 60"):
        clock_of(kind, step_s=value)


@pytest.mark.parametrize("name", ["compute_efficiency", "memory_efficiency", "link_efficiency"])
@pytest.mark.parametrize("value", [0, 1e-300, 1.01, -0.5, math.nan, "fast", True])
def test_bad_efficiencies_are_refused_by_name(clock_of, name, value):
    with pytest.raises(SpecError) as caught:
        clock_of("roofline", **{name: value})
    assert caught.value.where == f"latency.{name}"


def test_unknown_parameters_are_refused_with_a_suggestion(clock_of):
    with pytest.raises(UnknownName) as caught:
        clock_of("roofline", compute_eficiency=0.5)
    assert "compute_efficiency" in caught.value.hint


def test_a_gpu_without_links_cannot_be_split(clock_of):
    gpu = load_gpu("h100-sxm").model_copy(update={"interconnect": type(load_gpu("h100-sxm").interconnect)()})
    assert clock_of("roofline", gpu=gpu).model.step_seconds(decode(1, 1)) > 0
    with pytest.raises(SpecError, match="no link between GPUs"):
        clock_of("roofline", gpu=gpu, tp=2)


def test_a_gpu_without_a_16_bit_peak_has_no_roofline(clock_of):
    gpu = load_gpu("h100-sxm").model_copy(update={"peak_flops": {"fp32": 1e13}})
    with pytest.raises(SpecError, match="no bf16 peak"):
        clock_of("roofline", gpu=gpu)


def build(spec, **over):
    facts = {"model": load_model("llama-3.1-8b"), "gpu": load_gpu("h100-sxm"), "kv_format": None}
    return build_latency(spec, **{**facts, **over}, parallel=Parallel(), weights_format=None, block_size=16)


def test_linear_is_built_without_model_or_gpu_and_makes_no_claim():
    clock = build({"model": "linear", "a": 1e-3, "b": 0.0, "c": 0.0}, model=None, gpu=None)
    assert clock.model.step_seconds(decode(1, 1)) == 1e-3
    assert clock.accuracy()["bands"] is None


@pytest.mark.parametrize(
    ("spec", "error", "where"),
    [
        ({"model": "rooflin"}, UnknownName, "latency.model"),
        ({}, UnknownName, "latency.model"),
        ({"model": "linear", "a": 1.0, "b": 1.0}, SpecError, "latency.c"),
        ({"model": "linear", "a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, UnknownName, "latency.d"),
        ({"model": "roofline"}, SpecError, "latency.model"),
    ],
)
def test_bad_latency_sections_are_refused_with_their_place(spec, error, where):
    with pytest.raises(error) as caught:
        build(spec, model=None)
    assert caught.value.where == where
