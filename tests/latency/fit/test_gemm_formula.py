"""Multiplications: tiles, splits, quantised rows; what the host's launches hide of those timed eagerly."""

import numpy as np
import pytest

from kvplan.latency.fit.gemm import HOST, Gemm
from kvplan.latency.fit.kernel import designed_rows, fit_kernel, take
from kvplan.latency.fit.structure import Hardware
from kvplan.latency.kernel_set import KernelSet
from kvplan.latency.profile import profile_path
from kvplan.specs.catalog import load_gpu

HARDWARE = Hardware("test-gpu", 132, 3e12, 50e6, 1e15)
STRUCTURE = Gemm(HARDWARE, 1.0, 1.0)


def grid():
    sizes = [
        (m, n, k)
        for m in (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
        for n in (512, 2048, 4096, 8192, 16384)
        for k in (512, 2048, 4096, 8192, 16384)
    ]
    return dict(zip("mnk", np.array(sizes, dtype=float).T, strict=True))


def truth(host_s):
    values = np.array([p.start for p in STRUCTURE.parameters()])
    values[HOST] = host_s
    return values


def test_the_order_of_the_parameters():
    assert STRUCTURE.parameters()[HOST].name == "host_s"


def at(values, m, n, k):
    one = {name: np.array([float(size)]) for name, size in zip("mnk", (m, n, k), strict=True)}
    return float(STRUCTURE.seconds(values, one)[0])


@pytest.mark.parametrize("choice", [0.02, 0.5, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 4.0])
def test_more_of_anything_never_takes_less(choice, penalty):
    names = [p.name for p in STRUCTURE.parameters()]
    values = truth(1e-6)
    values[names.index("choice")], values[names.index("small_tile_penalty")] = choice, penalty
    sizes = np.unique(np.concatenate([np.arange(1, 600), np.geomspace(600, 40_000, 400).astype(int)])).astype(
        float
    )
    for fixed in (32.0, 1000.0, 16_384.0):
        for other in (64.0, 5000.0):
            for order in ("mnk", "nmk", "kmn"):
                row = np.full(sizes.size, 1.0)
                shapes = dict(zip(order, (sizes, fixed * row, other * row), strict=True))
                assert np.all(np.diff(STRUCTURE.seconds(values, shapes)) >= -1e-15), (order, fixed, other)


def test_a_deep_and_narrow_product_is_split():
    # 8x64 outputs of 65,536 products each keep one multiprocessor busy, or sixteen.
    names = [p.name for p in STRUCTURE.parameters()]
    values = truth(1e-8)
    values[names.index("choice")] = 1.0
    one = 65_536 * 2.0 * 64 * 64 * 132 / values[1]
    assert at(values, 8, 64, 65_536) < 0.5 * one
    # Partial sums of a wide output cost more than splitting gains.
    slower = values.copy()
    slower[names.index("split_s")] *= 10
    assert at(slower, 8192, 8192, 4096) == at(values, 8192, 8192, 4096)


def test_quantising_a_short_row_costs_as_much_as_one_of_a_whole_block():
    names = [p.name for p in STRUCTURE.parameters()]
    place, row = names.index("quantise_s"), names.index("quantise_row")

    def quantising(k):
        with_it, without = truth(1e-8), truth(1e-8)
        with_it[place], without[place] = 1e-11, 1e-16
        with_it[row] = without[row] = 1024.0
        return (at(with_it, 4096, 256, k) - at(without, 4096, 256, k)) / (4096 * 1e-11)

    assert quantising(32) == pytest.approx(1024, rel=0.01)
    assert quantising(512) == pytest.approx(1024, rel=0.01)
    assert quantising(8192) == pytest.approx(8192, rel=0.01)


def test_a_call_waits_for_the_host_or_for_the_gpu_and_not_for_both():
    shapes, values = grid(), truth(9e-5)
    timed, gpu = STRUCTURE.seconds(values, shapes), STRUCTURE.gpu_seconds(values, shapes)
    longer = np.maximum(gpu, 9e-5)
    assert np.all(timed >= longer)
    assert np.all(timed <= 2**0.125 * longer * (1 + 1e-12))


@pytest.mark.parametrize("host_s", [1e-6, 9e-5])
def test_a_fit_tells_the_host_from_the_gpu(host_s):
    shapes, values = grid(), truth(host_s)
    noise = np.random.default_rng(3).normal(0.0, 0.03, shapes["m"].size)
    timed = STRUCTURE.seconds(values, shapes) * np.exp(noise)
    rows = designed_rows(STRUCTURE, shapes, 100)
    fitted = fit_kernel(STRUCTURE, take(shapes, rows), timed[rows])
    gpu, found = STRUCTURE.gpu_seconds(values, shapes), STRUCTURE.gpu_seconds(fitted.values, shapes)
    seen = gpu > host_s
    assert np.median(np.abs(found[seen] / gpu[seen] - 1.0)) < 0.05
    if host_s > 2e-5:
        assert fitted.values[HOST] == pytest.approx(host_s, rel=0.05)
    else:
        assert fitted.values[HOST] < 1e-5


def test_no_bundled_multiplication_is_faster_in_a_graph_than_the_datasheet_allows():
    from kvplan.latency.fit.profile_file import read_profile

    gpu = load_gpu("h100-sxm")
    kernels = KernelSet(read_profile(profile_path("h100-sxm")), "h100-sxm")
    tokens = 2.0 ** np.arange(6, 15)
    eager = 0
    for op, labels, kernel in kernels._kernels:
        if op != "gemm":
            continue
        narrow = labels["gemm_dtype"] != "bfloat16"
        peak = gpu.peak_flops["fp8" if narrow else "bf16"]
        for n, k in ((1024, 7168), (4096, 4096), (7168, 2048), (14336, 4096)):
            shapes = {"m": tokens, "n": np.full(tokens.size, float(n)), "k": np.full(tokens.size, float(k))}
            graphed = kernels.gemm_seconds(kernel, shapes, kernel.seconds(shapes))
            least = np.maximum(2.0 * tokens * n * k / peak, n * k * (1 if narrow else 2) / 3.6e12)
            usable = (tokens >= kernel.low["m"]) & (tokens <= kernel.high["m"]) & (least > 2e-5)
            assert np.all(graphed[usable] > least[usable]), (labels, n, k)
        eager += kernel.values[HOST] > 2e-5
    assert eager == 3
