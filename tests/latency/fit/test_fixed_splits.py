"""Decode kernels whose launch fixes the number of splits: the formula, and how such a kernel is found."""

import numpy as np
import pytest

from kvplan.latency.fit.decode import DecodeAttention
from kvplan.latency.fit.fixed_splits import CAPTURED, FixedSplits
from kvplan.latency.fit.kernel import fit_kernel, fit_likeliest, take
from kvplan.latency.fit.profile_file import kernel_part, restore_kernel
from tests.latency.fit.conftest import HARDWARE, decode_grid

STRUCTURE = FixedSplits(HARDWARE)
START = np.array([p.start for p in STRUCTURE.parameters()])
NAMES = [p.name for p in STRUCTURE.parameters()]
SHAPE = {"batch": 64, "ctx": 4096, "window": 0, "q_heads": 8, "kv_heads": 1, "head_dim": 512,
         "kv_element_bytes": 2}  # fmt: skip


def seconds(values=START, *, cold=False, **changes):
    shape = {**SHAPE, **changes}
    columns = dict(
        zip(shape, np.broadcast_arrays(*(np.asarray(v, float) for v in shape.values())), strict=True)
    )
    return STRUCTURE.seconds(values, columns, cold=cold)


def changed(**parameters):
    values = START.copy()
    for name, value in parameters.items():
        values[NAMES.index(name)] = value
    return values


def measured(structure, seed=5):
    """Times by a formula, 2 % of noise."""
    truth = np.array([p.start for p in structure.parameters()])
    shapes = decode_grid()
    noise = np.random.default_rng(seed).normal(0.0, 0.02, shapes["batch"].size)
    return shapes, structure.seconds(truth, shapes) * np.exp(noise)


def both():
    return (DecodeAttention(HARDWARE), FixedSplits(HARDWARE))


@pytest.mark.parametrize("kind", [DecodeAttention, FixedSplits])
def test_the_launch_is_found_from_the_times(kind):
    shapes, times = measured(kind(HARDWARE))
    some = np.arange(times.size) % 4 == 0
    fitted = fit_likeliest(both(), take(shapes, some), times[some])
    assert type(fitted.structure) is kind
    error = np.abs(fitted.seconds(take(shapes, ~some)) / times[~some] - 1.0)
    assert np.median(error) < 0.03


def test_too_few_times_for_the_other_way_leave_the_usual_one():
    class Wide(FixedSplits):
        def parameters(self):
            return [*FixedSplits.parameters(self)] * 30

    shapes, times = measured(FixedSplits(HARDWARE))
    shapes, times = take(shapes, np.arange(times.size) % 5 == 0), times[::5]
    fitted = fit_likeliest((DecodeAttention(HARDWARE), Wide(HARDWARE)), shapes, times)
    assert type(fitted.structure) is DecodeAttention


def test_time_grows_with_context_and_captured_batch():
    assert np.all(np.diff(seconds(ctx=2.0 ** np.arange(1, 18))) >= 0)
    assert np.all(np.diff(seconds(batch=np.arange(1.0, CAPTURED + 1))) > 0)


def test_short_contexts_cost_what_the_programs_cost():
    """Every program's first tile loads while it starts: 32 splits of 64 tokens hide 2,048."""
    values = changed(flops=1e15)
    assert seconds(values, ctx=2048) == pytest.approx(seconds(values, ctx=2), rel=0.02)
    assert seconds(values, ctx=8192) > 1.3 * seconds(values, ctx=2048)


def test_programs_walk_through_the_batch():
    values = changed(walk_s=1e-8, bandwidth=1e15, launch_s=5e-7, dram_s=1e-9)
    small, large = seconds(values, batch=128, ctx=64), seconds(values, batch=512, ctx=64)
    assert large > 4.5 * small


def test_larger_batches_than_are_captured_are_not_split():
    assert seconds(batch=CAPTURED + 1, ctx=64) < seconds(batch=CAPTURED, ctx=64) / 4


def test_twice_the_bandwidth_halves_what_memory_takes():
    slow, fast = (changed(bandwidth=rate, token_s=1e-10) for rate in (1e12, 2e12))
    long = {"batch": 32, "q_heads": 1}
    streamed = [seconds(v, ctx=131072, **long) - seconds(v, ctx=65536, **long) for v in (slow, fast)]
    assert streamed[0] == pytest.approx(2 * streamed[1], rel=0.02)


def test_a_cold_cache_is_never_faster():
    shapes = {"batch": np.array([1.0, 4, 16, 64, 256, 600]), "ctx": 2.0 ** np.arange(4, 16)[:, None]}
    assert np.all(seconds(cold=True, **shapes) >= seconds(**shapes) * (1 - 1e-12))


def test_a_profile_keeps_which_formula_it_was():
    shapes, times = measured(FixedSplits(HARDWARE))
    shapes, times = take(shapes, np.arange(times.size) % 5 == 0), times[::5]
    fitted = fit_kernel(FixedSplits(HARDWARE), shapes, times)
    part = kernel_part("generation_attention", {"kernel_source": "x"}, fitted, "1", None)
    assert part.structure == "decode_attention_fixed_splits"
    back = restore_kernel(part, "here")
    assert type(back.structure) is FixedSplits
    assert back.seconds(shapes) == pytest.approx(fitted.seconds(shapes), rel=1e-6)
