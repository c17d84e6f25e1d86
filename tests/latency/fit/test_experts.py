"""Routed experts: how collectors deal tokens, laws of the formula, and times of kernels that do not exist."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import DataError
from kvplan.latency.fit.accuracy import score_families
from kvplan.latency.fit.distributions import dealt
from kvplan.latency.fit.experts import Experts
from kvplan.latency.fit.structure import Hardware
from kvplan.latency.fit.tables import read_measurements
from kvplan.specs.catalog import load_gpu

HARDWARE = Hardware("test-gpu", 100, 2e12, 40e6, 4e14)
STRUCTURE = Experts(HARDWARE)
START = np.array([parameter.start for parameter in STRUCTURE.parameters()])
MODELS = (
    # hidden, inter, chosen, experts
    (2048, 768, 8, 128), (4096, 1536, 8, 128), (7168, 2048, 8, 256), (4096, 14336, 2, 8), (2880, 2880, 4, 128),
)  # fmt: skip
TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256, 384, 512, 1024, 2048, 4096, 8192, 16384)


def counts(
    distribution: str, tokens: int, experts: int, chosen: int, ranks: int, rng: np.random.Generator
) -> Any:
    """Tokens of each expert on the timed rank, dealt one by one."""
    held = experts // ranks
    if distribution == "balanced":
        stride = -(-experts // chosen)
        step = 1.0 if tokens >= stride else stride / tokens
        picked = (np.arange(tokens)[:, None] * step + np.arange(chosen)[None, :] * stride) % experts
        return np.bincount(picked.astype(int).ravel(), minlength=experts)[:held]
    exponent = float(distribution.removeprefix("power_law_"))
    low, high = (1.0, 0.8 * tokens) if tokens * chosen > experts else (0.01, 2.0)
    power = 1.0 - exponent
    popularity = ((high**power - low**power) * rng.random(experts) + low**power) ** (1 / power)
    whole = np.round(popularity / popularity.sum() * tokens * chosen).astype(int)
    whole = np.minimum(whole, tokens)
    by_rank = whole.reshape(ranks, held)
    missing = tokens * chosen - int(whole.sum())
    for turn in range(abs(missing)):
        row = by_rank[turn % ranks]
        row[np.argmin(row) if missing > 0 else np.argmax(row)] += 1 if missing > 0 else -1
    return by_rank[np.argmax(by_rank.sum(axis=1))]


def true_seconds(counted: Any, hidden: int, inter: int, gpu: Any, element: float, peak: float) -> float:
    """A fused kernel that chooses its tile by the mean rows and counts tiles and waves one by one."""
    touched = counted[counted > 0]
    mean = touched.mean()
    tile = 16 if mean <= 16 else 32 if mean <= 32 else 64 if mean <= 96 else 128
    total = 9e-6 + 4e-6 + 2e-9 * counted.size + 1e-10 * counted.sum()
    weights = 3 * touched.size * hidden * inter * element
    rate = gpu.bandwidth_bytes_per_s * (0.83 if weights > 0.9 * gpu.l2_bytes else 1.7)
    for n, k in ((2 * inter, hidden), (hidden, inter)):
        blocks = int(np.ceil(touched / tile).sum()) * -(-n // 128)
        waves = -(-blocks // (gpu.sm_count * 2))
        work = k * (4e-10 + 2 * tile * 128 * gpu.sm_count * 2 / (0.6 * peak)) + 1.2e-6
        read = touched.size * n * k * element / rate
        total += max(waves * work, read) + 0.15 * min(waves * work, read)
    return float(total + counted.sum() * (3 * hidden + 6 * inter) * 2 / (0.6 * gpu.bandwidth_bytes_per_s))


def table(device: str, dtype: str = "bfloat16", element: float = 2.0, seed: int = 0) -> pd.DataFrame:
    gpu, rng = load_gpu(device), np.random.default_rng(seed)
    peak = dict(gpu.peak_flops)["fp8" if dtype.startswith("fp8") else "bf16"]
    rows = []
    for hidden, inter, chosen, experts in MODELS:
        for tensor, ranks in ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (1, 8)):
            for distribution in ("balanced", "power_law_1.01", "power_law_1.2"):
                for tokens in TOKENS:
                    counted = counts(distribution, tokens, experts, chosen, ranks, rng)
                    if not counted.sum():
                        continue
                    exact = true_seconds(counted, hidden, inter // tensor, gpu, element, peak)
                    rows.append(
                        (tokens, hidden, inter, chosen, experts, tensor, ranks, distribution,
                         exact * 1e3 * rng.lognormal(0.0, 0.03))
                    )  # fmt: skip
    names = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size",
             "distribution", "latency")  # fmt: skip
    frame = pd.DataFrame(rows, columns=names)
    about = {"framework": "VLLM", "version": "0.1", "device": device, "op_name": "moe",
             "kernel_source": "vllm_fused_moe", "moe_dtype": dtype}  # fmt: skip
    return frame.assign(**about)


@pytest.mark.parametrize("distribution", ["balanced", "power_law_1.01", "power_law_1.2"])
@pytest.mark.parametrize("ranks", [1, 8])
def test_tokens_are_dealt_as_the_collectors_do(distribution: str, ranks: int) -> None:
    rng = np.random.default_rng(0)
    for experts, chosen in ((128, 8), (256, 8), (512, 10)):
        for tokens in (16, 64, 256, 1024, 8192):
            drawn = [counts(distribution, tokens, experts, chosen, ranks, rng) for _ in range(25)]
            touched, assignments = dealt(distribution, tokens, experts, chosen, ranks)
            assert touched == pytest.approx(np.mean([(one > 0).sum() for one in drawn]), rel=0.12, abs=1.0)
            # Strides that do not divide the experts leave some ranks a fifth more than others.
            assert assignments == pytest.approx(np.mean([one.sum() for one in drawn]), rel=0.2, abs=1.0)


def test_even_routers_by_hand() -> None:
    assert dealt("balanced", 4, 128, 8, 1) == (32.0, 32.0)
    assert dealt("balanced", 64, 128, 8, 4) == (32.0, 128.0)
    touched, assignments = dealt("uniform", 2, 128, 8, 1)
    assert (touched, assignments) == (pytest.approx(16 - 0.5), 16.0)


def shapes(assignments: float, touched: float, hidden: float = 4096, inter: float = 1536) -> dict[str, Any]:
    sizes = {"assignments": assignments, "touched": touched, "held": 128.0, "hidden": hidden, "inter": inter}
    return {name: np.array([value]) for name, value in sizes.items()}


@settings(max_examples=60)
@given(st.floats(1, 128), st.floats(1, 2), st.floats(1, 500), st.floats(1, 4), st.booleans())
def test_laws(touched: float, more: float, each: float, longer: float, cold: bool) -> None:
    """Positive; more tokens, larger experts and cold caches never take less."""
    less = STRUCTURE.seconds(START, shapes(touched * each, touched), cold=cold)[0]
    assert less > 0
    more_touched = min(touched * more, 128.0)
    for other in (
        shapes(touched * each * more * longer, max(more_touched, touched)),
        shapes(touched * each, touched, hidden=4096 * longer),
        shapes(touched * each, touched, inter=1536 * longer),
    ):
        assert STRUCTURE.seconds(START, other, cold=cold)[0] >= less * (1 - 1e-9)
    assert STRUCTURE.seconds(START, shapes(touched * each, touched), cold=True)[0] >= less * (1 - 1e-9)


def test_twice_the_bandwidth_halves_what_memory_binds() -> None:
    slow = Experts(Hardware("s", 1000, 1e12, 40e6, 4e15))
    values = np.array([parameter.start for parameter in slow.parameters()])
    faster = values.copy()
    faster[2] *= 2.0
    many = shapes(128.0, 128.0, hidden=7168, inter=2048)
    times = [float(slow.seconds(one, many)[0]) - values[0] for one in (values, faster)]
    assert times[0] / times[1] == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("device", ["h200-sxm", "l40s", "b200"])
def test_held_out_shapes_of_a_kernel_that_counts_its_tiles(device: str, tmp_path: Any) -> None:
    table(device).to_csv(tmp_path / "moe_perf.txt", index=False)
    (family,) = read_measurements([tmp_path]).families
    assert family.labels == {"kernel_source": "vllm_fused_moe", "moe_dtype": "bfloat16"}
    (score,) = score_families([family], load_gpu(device))
    assert score.trained <= 120
    assert score.tested > 1_400
    assert score.median <= 0.08
    assert score.p90 <= 0.25
    assert 0.85 <= score.coverage <= 0.97


def test_what_nobody_knows_is_left_out_by_name(tmp_path: Any) -> None:
    frame = table("l40s").iloc[:60]
    odd = frame.assign(distribution="moonlight").iloc[:9]
    pd.concat([frame, odd]).to_csv(tmp_path / "t.csv", index=False)
    read = read_measurements([tmp_path])
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert read.families[0].seconds.tolist() == read_measurements([tmp_path]).families[0].seconds.tolist()
    assert any("9 rows of 'moe'" in note and "moonlight" in note for note in read.notes)
    frame.assign(topk=1000).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="more experts than there are"):
        read_measurements([tmp_path])
