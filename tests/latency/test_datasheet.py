"""Kernels from a datasheet: laws, and shares of peaks that were published for GPUs nobody fitted."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import SpecError
from kvplan.latency.datasheet import Datasheet, norm, peak_flops
from kvplan.latency.efficiency import AMPERE, HOPPER, blended, efficiency_of
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.catalog import load_gpu

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


def gemm(one, m, n, k, form="bf16"):
    kind = weight_format(form)
    return one.gemm(m, n, k, n * k * kind.bits / 8, kind)


def decode(one, batch, context, heads=8, dim=128, element=2, group=4):
    flops = 4.0 * heads * group * dim
    return one.decode(heads, 2.0 * heads * dim * element, flops, 2.0 * dim, flops)(batch, context)


@settings(max_examples=80)
@given(m=SIZE, n=SIZE, k=SIZE, more=MORE)
def test_a_larger_multiplication_never_takes_less(any_sheet, m, n, k, more):
    small = gemm(any_sheet, m, n, k)
    assert small > any_sheet.efficiency.gemm.floor_s
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
    mean = efficiency_of(load_gpu("l40s"))
    assert mean == blended(AMPERE, HOPPER)
    for part in ("gemm", "decode", "prefill"):
        for name in ("floor_s", "memory", "sharpness"):
            ends = sorted(getattr(getattr(one, part), name) for one in (AMPERE, HOPPER))
            assert ends[0] <= getattr(getattr(mean, part), name) <= ends[1]


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


def test_a_gpu_without_a_16_bit_peak_is_refused():
    gpu = load_gpu("h100-sxm").model_copy(update={"peak_flops": {"fp32": 1e13}})
    with pytest.raises(SpecError, match="no bf16 peak"):
        Datasheet(gpu, replace(HOPPER))
