"""Start-up options that nobody gave, as SGLang fills them in on a GPU: expected values are its own formulas'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.overheads import captured_sizes
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.serving import Serving, engine_version, resolve_serving
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.huggingface import read_config
from kvplan.specs.schema import ModelSpec
from kvplan.units import GIB, MIB

Hand = Callable[[str], ModelSpec]


def start(gpu: str, version: str | None = None, **options: object) -> Serving:
    return resolve_serving("sglang", load_gpu(gpu), max_model_len=32768, version=version, **options)  # type: ignore[arg-type]


def held_mib(gpu: str, version: str, **options: object) -> float:
    """MiB the share leaves out; it is rounded to a thousandth."""
    return (1 - start(gpu, version, **options).utilization) * (load_gpu(gpu).usable_memory_bytes >> 20)


def close(gpu: str, mib: float) -> object:
    return pytest.approx(mib, abs=0.0006 * (load_gpu(gpu).usable_memory_bytes >> 20))


@pytest.mark.parametrize(
    ("gpu", "version", "tp", "chunk", "batch"),
    [
        ("rtx-4090", "0.5.2", 1, 2048, 8), ("rtx-4090", "0.5.4", 1, 2048, 16), ("rtx-4090", "0.5.5", 1, 2048, 24),
        ("rtx-4090", "0.5.19", 4, 2048, 80), ("rtx-4090", "0.5.20", 1, 4096, 48), ("rtx-4090", "0.5.23", 4, 4096, 160),
        ("t4", "0.5.23", 1, 2048, 8), ("l40s", "0.5.23", 1, 4096, 32), ("l40s", "0.5.2", 1, 8192, 160),
        ("h100-sxm", "0.5.2", 1, 8192, 160), ("h100-sxm", "0.5.3", 1, 8192, 256), ("h100-sxm", "0.5.23", 4, 8192, 512),
        ("b200", "0.5.3", 1, 16384, 512),
    ],
)  # fmt: skip
def test_steps_and_graphs_follow_gpu_and_version(
    gpu: str, version: str, tp: int, chunk: int, batch: int
) -> None:
    serving = start(gpu, version, tp=tp)
    assert (serving.max_num_batched_tokens, serving.graph_max_batch) == (chunk, batch)


def test_a_version_without_patch_is_the_newest_of_its_series() -> None:
    assert engine_version("sglang", None) == engine_version("sglang", "0.5") == (0, 5, 23)
    assert engine_version("sglang", "0.5.9.post1") == (0, 5, 9)
    assert engine_version("sglang", "0.4") == (0, 4, 0)
    assert engine_version("vllm", "0.33") == engine_version("vllm", None) == (0, 33, 0)


def test_a_limit_on_requests_bounds_the_graphs() -> None:
    assert start("h100-sxm", "0.5.22", max_num_seqs=64).graph_max_batch == 64
    assert start("h100-sxm", "0.5.21", max_num_seqs=64).graph_max_batch == 256


def test_the_largest_graph_is_captured_whatever_its_size() -> None:
    assert captured_sizes(start("h100-sxm", "0.5.23", max_num_seqs=100))[1][-2:] == (96, 100)
    assert captured_sizes(start("rtx-4090", "0.5.23"))[1][-3:] == (32, 40, 48)
    assert captured_sizes(start("h100-sxm", "0.5.2"))[1][:5] == (1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("gpu", "version", "mib"),
    [
        ("l40s", "0.5.2", (9.5 + 0.5) * 1024),
        ("l40s", "0.5.3", 512 + 1.5 * 4096 + 2 * 32 + 128),
        ("l40s", "0.5.9", 512 + 1.5 * 4096 + 2 * 32 + 128),
        ("l40s", "0.5.10", 512 + 1.5 * 4096 + 2 * 32 + 128 + 50 * 8),
        ("h100-sxm", "0.5.23", 512 + 1.5 * 8192 + 2 * 256 + 128 + 58 * 8),
    ],
)
def test_what_is_held_back(gpu: str, version: str, mib: float) -> None:
    assert held_mib(gpu, version) == close(gpu, mib)


def test_what_is_asked_for_counts() -> None:
    small = held_mib("l40s", "0.5.9", max_num_batched_tokens=2048, tp=2)
    assert small == close("l40s", 512 + 3072 + 64 + 256)
    assert held_mib("h100-sxm", "0.5.23", max_num_batched_tokens=2048) == close("h100-sxm", 10 * 1024)
    assert held_mib("l40s", "0.5.23", cuda_graphs=False) == close("l40s", 512 + 6144 + 128)
    assert held_mib("l40s", "0.5.13", cuda_graphs=False) == close("l40s", 512 + 6144 + 64 + 128 + 400)


def test_latents_hold_back_more_and_only_where_their_prefills_are_captured(hand_model: Hand) -> None:
    model, plain = hand_model("deepseek-v3"), 512 + 12288 + 2 * 512 + 8 * 128
    options = {"tp": 8, "model": model}
    assert held_mib("h200-sxm", "0.5.9", **options) == close("h200-sxm", plain)
    for version in ("0.5.10", "0.5.14", "0.5.18", "0.5.23"):
        assert held_mib("h200-sxm", version, **options) == close("h200-sxm", plain + 1536)
    for version in ("0.5.15", "0.5.17"):
        assert held_mib("h200-sxm", version, **options) == close("h200-sxm", plain)
    sparse = load_model("deepseek-v3.2")
    captured = {version: held_mib("h200-sxm", version, tp=8, model=sparse) > plain + 800 for version in
                ("0.5.12", "0.5.13", "0.5.15", "0.5.17", "0.5.23")}  # fmt: skip
    assert captured == {"0.5.12": False, "0.5.13": True, "0.5.15": False, "0.5.17": True, "0.5.23": True}


def test_ranks_of_data_parallel_attention(hand_model: Hand) -> None:
    model = hand_model("deepseek-v3")
    options = {"tp": 8, "ranks": 8, "model": model}
    plain = 512 + 12288 + 2 * 512 + 8 * 128 + 512 * 8 * 4.5
    assert held_mib("h200-sxm", "0.5.16", **options) == close("h200-sxm", plain)
    assert held_mib("h200-sxm", "0.5.23", **options) == close("h200-sxm", plain + 1536)
    report = fit_model(
        model, load_gpu("h200-sxm"), parallel=Parallel(tp=8, attention_ranks=8), engine="sglang"
    )
    assert report.serving.utilization == start("h200-sxm", "0.5.23", **options).utilization
    assert report.binding.bill.activation.body_formula.startswith("1,024 tokens")  # ranks share a chunk


@pytest.mark.parametrize(
    ("version", "drafts", "gib"),
    [
        ("0.5.1", "model", 2), ("0.5.2", "model", 6), ("0.5.2", "layers", 2), ("0.5.9", "layers", 2),
        ("0.5.10", "layers", 4), ("0.5.13", "model", 6), ("0.5.14", "layers", 0), ("0.5.23", "model", 0),
    ],
)  # fmt: skip
def test_drafting(hand_model: Hand, version: str, drafts: str, gib: int) -> None:
    options = {
        "model": hand_model("deepseek-v3"),
        "pp": 2,
    }  # with pipelines no prefill graphs but in 0.5.15 - 18
    more = held_mib("l40s", version, drafts=drafts, **options) - held_mib("l40s", version, **options)
    assert more == pytest.approx(gib * 1024, abs=60)


def test_pipelines_have_no_prefill_graphs_unless_they_are_captured_in_segments(hand_model: Hand) -> None:
    more = {}
    for version in ("0.5.14", "0.5.15", "0.5.18", "0.5.19"):
        one, two = (held_mib("l40s", version, model=hand_model("qwen3-8b"), pp=pp) for pp in (1, 2))
        more[version] = round((two - one) / 128)
    assert more == {"0.5.14": -2, "0.5.15": 1, "0.5.18": 1, "0.5.19": -2}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("google__gemma-3-12b-it", 1.0),  # it reads text alone unless SGLang is told otherwise
        ("Qwen__Qwen3-VL-30B-A3B-Instruct", 0.95 * (1.1 - 0.1 * 24 * 1152**2 / (24 * 1024**2))),
        ("moonshotai__Kimi-K2.5", 0.95 * (1.1 - 0.1 * 27 * 1152**2 / (24 * 1024**2))),
    ],
)
def test_models_that_read_images_leave_more(shared: Path, name: str, factor: float) -> None:
    model = read_config(shared / f"data/model_configs/{name}.json").model
    assert model.vision is not None
    text = model.model_copy(update={"vision": None})
    with_images, without = (start("h100-sxm", "0.5.9", model=item).utilization for item in (model, text))
    assert with_images == pytest.approx(without * factor, abs=1e-6)


@pytest.mark.shared
def test_embeddings_of_images_are_kept_beside_the_pool(shared: Path) -> None:
    gemma, newer, qwen = (
        read_config(shared / f"data/model_configs/{name}.json").model
        for name in ("google__gemma-3-4b-it", "google__gemma-4-31B-it", "Qwen__Qwen3-VL-8B-Instruct")
    )

    def kept(model: ModelSpec, gpu: str, version: str) -> int:
        bill = fit_model(model, load_gpu(gpu), engine="sglang", version=version).binding.bill
        assert bill.budget_bytes == (
            bill.weights_bytes + bill.runtime_bytes + bill.images_bytes + bill.kv_pool_bytes
        )
        return bill.images_bytes // MIB

    assert [kept(newer, "h100-sxm", version) for version in ("0.5.17", "0.5.18", "0.5.23")] == [0, 100, 100]
    assert kept(gemma, "h100-sxm", "0.5.23") == 0
    assert [kept(qwen, "h100-sxm", version) for version in ("0.5.19", "0.5.20")] == [100, 0]
    assert kept(qwen, "b200", "0.5.20") == 100


@pytest.mark.shared
def test_a_pool_that_is_sized_after_capture(shared: Path) -> None:
    """Muse Spark: the share leaves 1.5 GiB and 8 for images, then activations of eager steps stay free."""
    model = read_config(shared / "data/model_configs/meta-models__Muse-Spark-Open-816B-A42B.json").model
    gpu, options = load_gpu("b300"), {"engine": "sglang", "parallel": Parallel(tp=8), "weights_dtype": "fp8"}
    report = fit_model(model, gpu, **options)  # type: ignore[arg-type]
    memory = gpu.usable_memory_bytes >> 20
    assert (1 - report.serving.utilization) * memory == pytest.approx(1536 + 1024 + 8192, abs=200)
    bill = report.binding.bill
    assert bill.outside_bytes == (512 + 1.5 * 16384 + 1024) * MIB + bill.graph_bytes
    covered = fit_model(model, gpu, max_num_seqs=64, **options).binding.bill  # type: ignore[arg-type]
    assert covered.outside_bytes == pytest.approx((1536 + 1024 + 8192) * MIB + covered.graph_bytes, abs=GIB)
    eager = fit_model(model, gpu, cuda_graphs=False, **options)  # type: ignore[arg-type]
    assert eager.serving.after_capture_bytes is None
