"""Kernels from a datasheet: laws, and shares of peaks that were published for GPUs nobody fitted."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import SpecError
from kvplan.latency.datasheet import USUAL_CLOCK_HZ, Datasheet, clock_hz, norm, peak_flops
from kvplan.latency.efficiency import AMPERE, COMMON, HOPPER, NarrowEfficiency, efficiency_of
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.catalog import entries, load_gpu

SIZE = st.integers(1, 1 << 14)
MORE = st.integers(1, 1 << 12)
GPUS = ("h100-sxm", "a100-80g", "l40s", "b200", "t4", "mi300x")
SLACK = 1 - 1e-12


def sheet(name):
    gpu = load_gpu(name)
    return Datasheet(gpu, efficiency_of(gpu))


@pytest.fixture(scope="module", params=GPUS)
def any_sheet(request):
    return sheet(request.param)


def gemm(one, m, n=4096, k=4096, form="bf16"):
    kind = weight_format(form)
    return one.gemm(m, n, k, n * k * kind.bits / 8, kind)


def prefill(one, new):
    return one.prefill(4.0 * 32 * 128, 2.0 * 8 * 128 * 2, 4.0 * 32 * 128)(new, new / 2.0, new)


def decode(one, batch, context=1000, heads=8, dim=128, element=2, group=4):
    flops = 4.0 * heads * group * dim
    return one.decode(heads, 2.0 * heads * dim * element, flops, 2.0 * dim, flops)(batch, context)


@settings(max_examples=80)
@given(m=SIZE, n=SIZE, k=SIZE, more=MORE)
def test_a_larger_multiplication_never_takes_less(any_sheet, m, n, k, more):
    small = gemm(any_sheet, m, n, k)
    assert small > any_sheet.efficiency.gemm.floor_cycles / clock_hz(any_sheet.gpu)
    for larger in ((m + more, n, k), (m, n + more, k), (m, n, k + more)):
        assert gemm(any_sheet, *larger) >= small * SLACK


@settings(max_examples=80)
@given(batch=SIZE, context=st.integers(1, 1 << 20), heads=st.integers(1, 128), more=MORE)
def test_more_or_longer_sequences_never_take_less(any_sheet, batch, context, heads, more):
    small = decode(any_sheet, batch, context, heads)
    assert decode(any_sheet, batch + more, context, heads) >= small * SLACK
    assert decode(any_sheet, batch, context + more, heads) >= small * SLACK


def test_the_norm_is_the_larger_where_one_is_much_larger():
    assert norm(3.0, 1e-6, 1.0) == pytest.approx(1.0)
    assert norm(1.0, 2.0, 3.0) == 5.0
    assert norm(2.0, 3.0, 4.0) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("gpu", "element", "share"),
    [("h100-sxm", 2, 0.86), ("h100-sxm", 1, 0.79), ("h200-sxm", 2, 0.83), ("l40s", 2, 0.84),
     ("l40s", 1, 0.80), ("a100-80g", 2, 0.75)],
)  # fmt: skip
def test_large_caches_are_read_at_about_the_share_that_was_reported(gpu, element, share):
    """Reported: KV above 0.5 GB, heads of 128, groups of 4 to 8; FlashAttention 2 and 3 and FlashInfer."""
    one = sheet(gpu)
    size = 64 * 16_384 * 2 * 8 * 128 * element
    reached = size / decode(one, 64, 16_384, element=element) / one.gpu.bandwidth_bytes_per_s
    assert reached == pytest.approx(share, rel=0.15)


def test_an_unmeasured_generation_lies_between_the_measured_ones():
    assert efficiency_of(load_gpu("l40s")) == COMMON
    for part in ("gemm", "decode", "prefill"):
        sizes = {"gemm": gemm, "decode": decode, "prefill": prefill}[part]
        for many in (1, 64, 4096):
            ends = sorted(sizes(Datasheet(load_gpu("l40s"), one), many) for one in (AMPERE, HOPPER))
            # A short prompt is a launch and a tile, which a fit to both tables trades for one another.
            near = 0.85 if part == "prefill" and many <= 64 else 0.97
            assert near * ends[0] <= sizes(sheet("l40s"), many) <= 1.03 * ends[1]


def test_scaling_moves_every_share_and_every_second():
    twice = HOPPER.times(compute=0.5, memory=0.25, seconds=2.0)
    assert twice.gemm.compute == HOPPER.gemm.compute / 2
    assert twice.decode.memory == HOPPER.decode.memory / 4
    assert twice.prefill.tile_s == HOPPER.prefill.tile_s * 2
    assert twice.gemm.sharpness == HOPPER.gemm.sharpness
    assert HOPPER.times() == HOPPER


def test_narrow_weights_use_their_own_peak_where_there_is_one():
    one, old = sheet("h100-sxm"), sheet("a100-80g")
    assert one.multiplication(weight_format("fp8"))[0] == peak_flops(one.gpu, "fp8")
    assert old.multiplication(weight_format("fp8"))[0] == peak_flops(old.gpu, "bf16")
    assert one.multiplication(weight_format("fp32"))[0] == peak_flops(one.gpu, "tf32")
    # Weight-only formats are read narrow and multiplied wide.
    assert one.multiplication(weight_format("awq"))[0] == peak_flops(one.gpu, "bf16")
    assert gemm(one, 1, 8192, 8192, "awq") < 0.5 * gemm(one, 1, 8192, 8192)


def test_a_gpu_without_the_number_of_multiprocessors_is_timed_all_the_same():
    gpu = load_gpu("h100-sxm").model_copy(update={"sm_count": None})
    one = Datasheet(gpu, HOPPER)
    assert 0.5 < decode(one, 16, 4096) / decode(sheet("h100-sxm"), 16, 4096) < 2.0


def test_the_clock_is_the_one_behind_the_32_bit_peak():
    """Boost clocks of the datasheets, which specs do not repeat."""
    for name, clock in (
        ("a100-80g", 1.41e9),
        ("h100-sxm", 1.98e9),
        ("l40s", 2.52e9),
        ("v100-32g", 1.53e9),
        ("t4", 1.59e9),
    ):
        assert clock_hz(load_gpu(name)) == pytest.approx(clock, rel=0.01)
    for entry in entries("gpu"):
        assert 1.2e9 < clock_hz(load_gpu(entry.name)) < 3e9
    gpu = load_gpu("l40s")
    for lacking in ({"sm_count": None}, {"peak_flops": {"bf16": 3.6e14}}, {"sm_count": 1}):
        assert clock_hz(gpu.model_copy(update=lacking)) == USUAL_CLOCK_HZ


def test_latencies_are_cycles_and_work_is_not():
    gpu = load_gpu("h100-sxm")
    slow = gpu.model_copy(update={"peak_flops": {**gpu.peak_flops, "fp32": gpu.peak_flops["fp32"] / 1.5}})
    one, other = Datasheet(gpu, HOPPER), Datasheet(slow, HOPPER)
    assert other.decode_floor_s == pytest.approx(1.5 * one.decode_floor_s)
    assert gemm(other, 1, 64, 64) == pytest.approx(1.5 * gemm(one, 1, 64, 64), rel=0.05)
    assert decode(other, 1, 16) == pytest.approx(1.5 * decode(one, 1, 16), rel=0.05)
    assert gemm(other, 8192, 8192, 8192) == pytest.approx(gemm(one, 8192, 8192, 8192), rel=0.02)
    assert prefill(other, 512) == prefill(one, 512)


def test_what_the_last_wave_leaves_idle_is_paid():
    """4 by 33 tiles of 128x128 are one wave of 132 multiprocessors, and more than one of any fewer."""
    gpu = load_gpu("h100-sxm")
    taken = {}
    for count in (132, 131, 120, 66):
        peaks = {**gpu.peak_flops, "fp32": gpu.peak_flops["fp32"] * count / 132}
        fewer = gpu.model_copy(update={"sm_count": count, "peak_flops": peaks})
        assert clock_hz(fewer) == pytest.approx(clock_hz(gpu))
        taken[count] = gemm(Datasheet(fewer, HOPPER), 512, 128 * 33, 16_384)
    assert taken[131] > 1.05 * taken[132]
    assert taken[120] > 1.05 * taken[132]
    # Two whole waves of half as many, each twice as fast.
    assert taken[66] == pytest.approx(taken[132], rel=0.02)


def test_few_rows_cost_no_more_than_reading_where_peaks_are_low():
    """Tiles of 64 rows would take 1.7 times as long as the weights of one token on an RTX 3090."""
    one = sheet("rtx-3090")
    read = 2 * 8192 * 8192 / one.gpu.bandwidth_bytes_per_s
    assert gemm(one, 1, 8192, 8192) < 1.4 * read
    assert gemm(one, 64, 8192, 8192) > 1.6 * read


def test_activations_are_quantised_for_narrow_multiplications_only():
    new, old = sheet("h100-sxm"), sheet("a100-80g")
    assert isinstance(new.multiplication(weight_format("fp8"))[1], NarrowEfficiency)
    assert not isinstance(old.multiplication(weight_format("fp8"))[1], NarrowEfficiency)
    assert not isinstance(new.multiplication(weight_format("awq"))[1], NarrowEfficiency)
    # So few rows that the launches are all there is; so few outputs that reading rows is.
    assert gemm(new, 1, 64, 64, "fp8") > 1.7 * gemm(new, 1, 64, 64)
    assert gemm(new, 8192, 128, 8192, "fp8") > 2.0 * gemm(new, 8192, 128, 8192)


def test_a_gpu_without_a_16_bit_peak_is_refused():
    gpu = load_gpu("h100-sxm").model_copy(update={"peak_flops": {"fp32": 1e13}})
    with pytest.raises(SpecError, match="no bf16 peak"):
        Datasheet(gpu, replace(HOPPER))
