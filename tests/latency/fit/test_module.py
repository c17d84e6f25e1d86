"""Modules of attention over latents: taken apart from their matrices, on a GPU that does not exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kvplan.errors import DataError
from kvplan.latency.fit.accuracy import score_fitted
from kvplan.latency.fit.calibrate import calibrate
from kvplan.latency.fit.families import FittedFamily, fit_families
from kvplan.latency.fit.module import matrices_of, taken_apart
from kvplan.latency.fit.profile_file import kernel_part
from kvplan.latency.fit.tables import Family, read_measurements
from kvplan.specs.catalog import load_gpu

GPU = load_gpu("h200-sxm")
AROUND_S = 5.5e-5
"""Small kernels of a module."""


def multiplied(m: Any, n: Any, k: Any) -> Any:
    """Seconds of a 16-bit multiplication."""
    m, n, k = (np.asarray(size, dtype=float) for size in (m, n, k))
    compute = 2.0 * np.ceil(m / 64) * 64 * n * k / (0.7 * 9.89e14)
    memory = 2.0 * (n * k + m * (n + k)) / (0.85 * GPU.bandwidth_bytes_per_s)
    return 3e-6 + np.maximum(compute, memory) + 0.2 * np.minimum(compute, memory)


def matrices(heads: Any, tokens: Any) -> Any:
    """DeepSeek-V3's, of so many heads."""
    shapes = ((2112, 7168), (192 * heads, 1536), (256 * heads, 512), (7168, 128 * heads))
    return sum(multiplied(tokens, n, k) for n, k in shapes)


def beside(batch: Any, ctx: Any, heads: Any) -> Any:
    """What is not a matrix in decode."""
    read = batch * ctx * 1152.0 / (0.8 * GPU.bandwidth_bytes_per_s)
    compute = batch * ctx * heads * 2176.0 / 4e14
    return AROUND_S + batch * heads * 7e3 / GPU.bandwidth_bytes_per_s + np.maximum(read, compute)


def gemms() -> pd.DataFrame:
    sizes = [
        (m, n, k)
        for m in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
        for n in (256, 768, 1536, 2112, 4096, 7168, 12288, 24576, 32768)
        for k in (512, 1536, 2048, 7168, 16384)
    ]
    m, n, k = map(np.array, zip(*sizes, strict=True))
    return pd.DataFrame(
        {"framework": "VLLM", "version": "1.0", "device": "NVIDIA H200", "op_name": "gemm",
         "kernel_source": "linear", "gemm_dtype": "bfloat16", "m": m, "n": n, "k": k,
         "latency": 1e3 * multiplied(m, n, k)}
    )  # fmt: skip


def modules(**changed: Any) -> pd.DataFrame:
    sizes = [
        (batch, ctx, heads)
        for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        for ctx in (2, 16, 128, 1024, 4096, 16384, 65536)
        for heads in (8, 16, 32, 128)
        if batch * ctx < 4e6
    ]
    batch, ctx, heads = map(np.array, zip(*sizes, strict=True))
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=batch.size))
    return pd.DataFrame(
        {"framework": "VLLM", "version": "1.0", "device": "NVIDIA H200", "op_name": "mla_generation_module",
         "kernel_source": "FLASH_ATTN_MLA", "model": "deepseek-ai/DeepSeek-V3", "mla_dtype": "bfloat16",
         "kv_cache_dtype": "bfloat16", "gemm_type": "bfloat16", "num_heads": heads, "batch_size": batch,
         "isl": 1, "step": ctx - 1,
         "latency": 1e3 * noise * (matrices(heads, batch) + beside(batch, ctx, heads))}
    ).assign(**changed)  # fmt: skip


def families(folder: Path, *tables: pd.DataFrame) -> tuple[Family, ...]:
    folder.mkdir(exist_ok=True)
    for index, table in enumerate(tables):
        table.to_csv(folder / f"{index}_perf.txt", index=False)
    return read_measurements([folder]).families


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[FittedFamily, FittedFamily]:
    """Multiplications and modules."""
    notes: list[str] = []
    read = families(tmp_path_factory.mktemp("tables"), modules(), gemms())
    first, second = fit_families(read, GPU, 120, notes.append)
    assert not notes
    return first, second


def test_what_is_beside_the_matrices_is_found_again(fitted: tuple[FittedFamily, FittedFamily]) -> None:
    _, module = fitted
    assert module.family.beside_s is not None
    shapes = module.family.shapes
    truth = matrices(shapes["q_heads"], shapes["batch"])
    assert np.median(np.abs(module.family.beside_s / truth - 1.0)) < 0.03
    guess = module.kernel.seconds(shapes)
    error = np.abs(guess / beside(shapes["batch"], shapes["ctx"], shapes["q_heads"]) - 1.0)
    assert np.median(error) < 0.05
    first = {name: column[:1] for name, column in shapes.items()}
    assert float(module.kernel.seconds(first)[0]) == pytest.approx(AROUND_S, rel=0.1)


def test_a_module_is_scored_with_its_matrices(fitted: tuple[FittedFamily, FittedFamily]) -> None:
    _, module = fitted
    (whole,) = score_fitted(module, GPU)
    (alone,) = score_fitted(replace(module, family=replace(module.family, beside_s=None)), GPU)
    assert whole.tested > 100
    assert whole.median < min(0.03, alone.median)
    assert whole.half_width < alone.half_width
    assert whole.coverage == alone.coverage


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model": "example/nobody-knows-it"}, "a model that has no spec"),
        ({"model": "meta-llama/Llama-3.1-8B"}, "has no attention over latents"),
        ({"gemm_type": "nvfp4"}, "of which no table has multiplications"),
        ({"latency": 1e-2}, "take longer than 100% of the modules"),
    ],
)
def test_modules_that_cannot_be_taken_apart_say_why(
    tmp_path: Path, fitted: tuple[FittedFamily, FittedFamily], changed: dict[str, Any], why: str
) -> None:
    gemm, _ = fitted
    part = kernel_part("gemm", gemm.family.labels, gemm.kernel, gemm.family.version, None)
    (module,) = families(tmp_path, modules(**changed))
    with pytest.raises(DataError, match=why):
        taken_apart(module, matrices_of([part], GPU))


def test_a_release_in_another_format_has_the_layers_of_its_model(
    tmp_path: Path, fitted: tuple[FittedFamily, FittedFamily]
) -> None:
    gemm, module = fitted
    part = kernel_part("gemm", gemm.family.labels, gemm.kernel, gemm.family.version, None)
    (release,) = families(tmp_path, modules(model="nvidia/DeepSeek-V3-NVFP4"))
    assert taken_apart(release, matrices_of([part], GPU)).seconds == pytest.approx(module.family.seconds)


def test_modules_without_multiplications_are_left_out_and_say_what_to_give(tmp_path: Path) -> None:
    notes: list[str] = []
    assert not list(fit_families(families(tmp_path, modules()), GPU, 120, notes.append))
    (note,) = notes
    assert note.startswith("mla_generation_module FLASH_ATTN_MLA")
    assert "no table has multiplications; give those of the same GPU (op_name gemm), too" in note


def test_modules_of_no_named_model_are_left_out(tmp_path: Path) -> None:
    found = read_measurements([_written(tmp_path, pd.concat([modules(model=None), gemms()]))])
    assert [family.op for family in found.families] == ["gemm"]
    assert any("'mla_generation_module' are left out: model" in note for note in found.notes)


def _written(folder: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(folder / "a_perf.txt", index=False)
    return folder


def test_a_weight_format_nobody_knows_is_left_out_and_named(tmp_path: Path) -> None:
    pd.concat([modules(), modules(gemm_type="ternary")]).to_csv(tmp_path / "a_perf.txt", index=False)
    read = read_measurements([tmp_path])
    assert [family.labels["gemm_type"] for family in read.families] == ["bfloat16"]
    assert any("gemm_type ternary is none kvplan knows" in note for note in read.notes)


def test_a_profile_times_steps_by_modules_as_whole(tmp_path: Path) -> None:
    """A step that decodes takes its modules, and what cached latents cost a chunk shows."""
    from kvplan.engine.protocols import StepBatch
    from kvplan.latency.build import build_latency
    from kvplan.latency.fit.profile_file import profile_text
    from kvplan.sizing.parallel import Parallel
    from kvplan.specs.catalog import load_model
    from kvplan.specs.formats import kv_format

    context = modules(op_name="mla_context_module", kernel_source="FLASH_ATTN")
    context = context.assign(isl=context["step"] + 1, step=0).query("batch_size * isl < 100000")
    tokens = (context["batch_size"] * context["isl"]).to_numpy()
    pairs = tokens * (context["isl"] + 1) / 2
    heads = context["num_heads"].to_numpy()
    seconds = matrices(heads, tokens) + AROUND_S + pairs * heads * 640.0 / 5e14 + tokens * heads * 2e-12
    for name, table in (("a", modules()), ("b", gemms()), ("c", context.assign(latency=1e3 * seconds))):
        table.to_csv(tmp_path / f"{name}_perf.txt", index=False)
    profile, _ = calibrate([str(tmp_path)])
    assert {part.op for part in profile.kernels} == {"gemm", "mla_generation_module", "mla_context_module"}
    path = tmp_path / "profile.json"
    path.write_text(profile_text(profile))
    model = load_model("deepseek-v3")
    clock = build_latency(
        {"model": "profile", "name": str(path)}, model=model, gpu=GPU, parallel=Parallel(tp=8),
        kv_format=kv_format("bf16"), weights_format="bf16", block_size=64,
    ).model  # fmt: skip

    def decoding(requests: int, ctx: int) -> float:
        return clock.step_seconds(StepBatch(requests, 0, requests, requests * ctx, [], 0))

    for requests in (1, 64):
        longer = decoding(requests, 16384) - decoding(requests, 1024)
        truth = 61 * (beside(requests, 16384, 16) - beside(requests, 1024, 16))
        assert longer == pytest.approx(truth, rel=0.15, abs=2e-4)

    def chunk(new: int, before: int) -> float:
        return clock.step_seconds(StepBatch(new, 0, 0, 0, [(before, new)], 0))

    extra = chunk(1024, 65536) - chunk(1024, 0)
    attended = 61 * 1024 * 65536 * 16 * 640.0 / 5e14
    expanded = 61 * multiplied(65536, 256 * 16, 512)
    assert extra == pytest.approx(attended + expanded, rel=0.2)
    assert expanded > 0.2 * attended
