"""A step clocked by kvplan's own kernels: every measured format, stand-ins that are stated, refusals."""

import pytest

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError
from kvplan.latency.fit.profile_file import read_profile
from kvplan.latency.kernel_set import KernelSet
from kvplan.sizing.weight_formats import weight_format

FORMATS = (
    "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "int8", "int8_per_head", "int8_per_token_head",
    "int4_per_token_head", "int4_g64", "int4_g32", "kivi4", "kivi2", "nvfp4", "mxfp4",
)  # fmt: skip


def decode(requests, context):
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


def prefill(new):
    return StepBatch(new, 0, 0, 0, [(0, new)], 1)


@pytest.fixture(scope="module")
def own_clock(clock_of, own_profile):
    def build(model="llama-3.1-8b", **options):
        return clock_of("profile", model, name=str(own_profile), **options)

    return build


@pytest.mark.parametrize("kv", FORMATS)
def test_every_measured_format_is_clocked_and_grows_with_work(own_clock, kv):
    model = own_clock(kv=kv).model
    seconds = [model.step_seconds(decode(n, c)) for n, c in ((1, 500), (1, 9000), (16, 9000), (64, 9000))]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    chunks = [model.step_seconds(prefill(new)) for new in (1, 100, 1000, 8000)]
    assert chunks == sorted(chunks)


def test_fewer_bits_are_faster_only_as_far_as_measured(own_clock):
    long = decode(64, 8000)
    seconds = {kv: own_clock(kv=kv).model.step_seconds(long) for kv in ("bf16", "fp8", "int4_g64", "kivi2")}
    assert seconds["int4_g64"] < seconds["fp8"] < seconds["bf16"]
    # Two bits are half the bytes of four, at less than two thirds of the rate: no gain.
    assert seconds["kivi2"] > seconds["int4_g64"]


def test_what_stands_in_for_a_measurement_is_stated_and_widens(own_clock):
    clock = own_clock(kv="mxfp4", weights="int4")
    said = {item.name: item.source for item in clock.assumptions}
    assert "fitted to 3 points, other parameters those of int4_g64" in said["latency.few_points"]
    assert "prefill over mxfp4 was not measured: timed as over int4" in said["latency.prefill_kernel"]
    assert "as fast as writing 16 bits" in said["latency.cache_write"]
    assert "rates of the measured 16-bit multiplication" in said["latency.matmul"]
    assert "measured with other formats" in said["latency.page_size"]
    assert any("int4 weights" in text for text in clock.warnings)
    assert clock.accuracy()["bands"]["tpot"] == [-0.3, 0.3]
    plain = {item.name for item in own_clock().assumptions}
    assert plain.isdisjoint({"latency.matmul", "latency.prefill_kernel"})


def test_weights_of_a_quarter_of_the_bytes_take_a_quarter_of_the_memory_time(own_clock):
    alone = decode(1, 16)
    wide = own_clock(step_s=0.0).model.tables.linear.at(1)
    narrow = own_clock(weights="int4", step_s=0.0).model.tables.linear.at(1)
    assert 0.2 < narrow / wide < 0.45
    assert own_clock(weights="fp8").model.step_seconds(alone) < own_clock().model.step_seconds(alone)


def test_latent_attention_runs_its_own_kernels(own_clock):
    for kv in ("bf16", "fp8_ds_mla"):
        clock = own_clock("deepseek-v2-lite", kv=kv)
        said = [item.source for item in clock.assumptions]
        assert any("expanded MLA heads" in text for text in said)
        assert clock.model.step_seconds(decode(64, 8000)) > clock.model.step_seconds(decode(1, 100)) > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv": "kvquant4"}, "over a cache of kvquant4_1p"),
        ({"kv": "mxfp8"}, "over a cache of mxfp8"),
        ({"kv": "fp8", "model": "deepseek-v2-lite"}, "MLA decode attention over a cache of fp8_e4m3"),
    ],
)
def test_formats_that_were_not_measured_are_refused_with_those_that_were(own_clock, options, words):
    with pytest.raises(SpecError, match=words) as caught:
        own_clock(**options)
    assert "measured: " in caught.value.hint
    assert "roofline" in caught.value.hint


def test_without_any_multiplication_the_ceilings_stand_in_and_without_them_nothing_does(own_profile):
    profile = read_profile(own_profile)
    attention = [part for part in profile.kernels if part.op != "gemm"]
    bare = profile.model_copy(update={"kernels": attention})
    rates = KernelSet(bare, "p").stand_in(weight_format("bf16"))
    assert rates.bandwidth_bytes_per_s == profile.measured.ceilings.read_bytes_per_s
    assert rates.flops == profile.measured.ceilings.matmul_flops["bf16"]
    none = profile.measured.ceilings.model_copy(update={"matmul_flops": {}})
    nothing = bare.model_copy(update={"measured": profile.measured.model_copy(update={"ceilings": none})})
    with pytest.raises(SpecError, match="matrix multiplication with bf16 weights"):
        KernelSet(nothing, "p").stand_in(weight_format("bf16"))


def test_page_size_moves_decode_by_what_was_measured(own_profile):
    profile = read_profile(own_profile)
    small, usual, between = (KernelSet(profile, "p", size).measured for size in (16, 64, 32))
    assert usual.page_factor("bf16") == 1.0
    assert small.page_factor("bf16") > between.page_factor("bf16") > 1.0
    assert usual.page_factor("nvfp4") == 1.0
    assert small.page_factor("nvfp4") > 1.0
    assert [item.name for item in between.assumptions()] == ["latency.page_size"]
