"""The bill of one GPU: it adds up, moves the right way, and equals what vLLM and SGLang logged."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import UsageError
from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.overheads import capture_sizes
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.serving import parse_version, resolve_serving
from kvplan.specs.catalog import load_gpu
from kvplan.specs.schema import GpuSpec, ModelSpec
from kvplan.units import GIB

Hand = Callable[[str], ModelSpec]
VERSIONS = ("0.6.6", "0.8.5", "0.11.2", "0.15", "0.19", "0.20", "0.25", "0.33")


@pytest.fixture(scope="session")
def h100() -> GpuSpec:
    return load_gpu("h100-sxm")


# Laws


@settings(max_examples=60)
@given(
    version=st.sampled_from(VERSIONS),
    utilization=st.floats(0.3, 1.0),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 3]),
    seqs=st.integers(1, 2048),
    tokens=st.integers(16, 65536),
    graphs=st.booleans(),
)
def test_the_bill_sums_to_memory_times_utilization(
    hand_model: Hand, h100: GpuSpec, version: str, utilization: float, tp: int, pp: int, seqs: int,
    tokens: int, graphs: bool,
) -> None:  # fmt: skip
    report = fit_model(
        hand_model("llama-3.1-8b"), h100, parallel=Parallel(tp=tp, pp=pp), version=version,
        utilization=utilization, max_num_seqs=seqs, max_num_batched_tokens=tokens, cuda_graphs=graphs,
    )  # fmt: skip
    for stage in report.stages:
        bill = stage.bill
        graphs_inside = bill.graph_bytes if bill.graphs_in_budget else 0
        parts = bill.weights_bytes + bill.activation_bytes + bill.runtime_bytes + graphs_inside
        assert parts + bill.kv_pool_bytes == bill.budget_bytes == int(h100.usable_memory_bytes * utilization)
        assert bill.budget_bytes + bill.outside_bytes == h100.usable_memory_bytes
        assert (bill.graph_bytes > 0) == graphs


@settings(max_examples=40)
@given(
    low=st.floats(0.4, 0.9), more=st.floats(0, 0.1), seqs=st.integers(1, 1024), tokens=st.integers(64, 32768)
)
def test_more_utilization_or_smaller_steps_never_shrink_the_pool(
    hand_model: Hand, h100: GpuSpec, low: float, more: float, seqs: int, tokens: int
) -> None:
    model = hand_model("qwen2.5-7b")

    def pool(utilization: float, seqs: int, tokens: int) -> int:
        return fit_model(
            model, h100, utilization=utilization, max_num_seqs=seqs, max_num_batched_tokens=tokens
        ).kv_pool_bytes

    base = pool(low, seqs, tokens)
    assert pool(low + more, seqs, tokens) >= base
    assert pool(low, 2 * seqs, tokens) <= base
    assert pool(low, seqs, 2 * tokens) <= base


def test_sglang_shares_what_is_free(hand_model: Hand, h100: GpuSpec) -> None:
    bill = fit_model(hand_model("llama-3.1-8b"), h100, engine="sglang", utilization=0.8).binding.bill
    free = bill.total_bytes - bill.runtime_bytes
    assert bill.kv_pool_bytes + bill.weights_bytes == int(free * 0.8)
    assert not bill.activation_in_budget
    assert not bill.graphs_in_budget


# Golden values


@pytest.mark.parametrize(
    ("version", "logged_gib"),
    [("0.15", 5.64), ("0.17", 2.23)],  # one 14B model on H100, before and after top-k stopped sorting
)
def test_the_activation_peak_fell_with_the_sampler(
    hand_model: Hand, h100: GpuSpec, version: str, logged_gib: float
) -> None:
    report = fit_model(hand_model("qwen3-14b"), h100, version=version)
    assert report.activation_bytes / GIB == pytest.approx(logged_gib, abs=0.07)


@pytest.mark.parametrize(
    ("name", "options", "logged_gib"),
    [
        # vLLM 0.6, 20,000 tokens in one step: the MLP is the peak
        ("llama-3.1-8b", {"max_model_len": 20000, "version": "0.6.4"}, 2.07),
        # vLLM 0.6.5, 256 sequences: sorting the logits is
        ("llama-3.1-8b", {"max_model_len": 8192, "version": "0.6.5"}, 1.26),
        # vLLM 0.2x, LLM class (8,192 tokens a step) on a 16 GB card
        ("qwen2.5-7b", {"version": "0.21", "max_num_seqs": 256, "weights_dtype": "awq"}, 1.04),
    ],
)
def test_activation_peaks_of_published_logs(
    hand_model: Hand, h100: GpuSpec, name: str, options: dict[str, object], logged_gib: float
) -> None:
    report = fit_model(hand_model(name), h100, **options)  # type: ignore[arg-type]
    assert report.activation_bytes / GIB == pytest.approx(logged_gib, rel=0.05)


@pytest.mark.parametrize(
    ("seqs", "captured"),
    [(256, (51, 35)), (1024, (51, 51)), (128, (35, 19)), (32, (11, 7)), (8, (5, 4))],
)
def test_captured_graphs_are_those_vllm_prints(h100: GpuSpec, seqs: int, captured: tuple[int, int]) -> None:
    assert capture_sizes(resolve_serving("vllm", h100, max_model_len=8192, max_num_seqs=seqs)) == captured


def test_defaults_follow_the_engine(h100: GpuSpec) -> None:
    small, old = load_gpu("l4"), load_gpu("a100-80g")

    def limits(gpu: GpuSpec, version: str, context: int = 8192) -> tuple[int, int]:
        serving = resolve_serving("vllm", gpu, max_model_len=context, version=version)
        return serving.max_num_batched_tokens, serving.max_num_seqs

    assert limits(h100, "0.33") == (8192, 1024)
    assert limits(old, "0.33") == limits(small, "0.33") == (2048, 256)
    assert limits(h100, "0.6", 20000) == (20000, 256)
    assert limits(h100, "0.6", 131072) == (2048, 256)
    sglang = resolve_serving("sglang", h100, max_model_len=8192)
    assert (sglang.max_num_batched_tokens, sglang.utilization) == (8192, 0.829)


def test_versions_are_read_as_they_are_written() -> None:
    assert parse_version("v0.8.5") == (0, 8, 5)
    assert parse_version("0.20.1rc1") == (0, 20, 1)
    assert parse_version("0.33") == (0, 33, 0)
    assert parse_version("0.19.1rc1.dev123+g0a1b2c3.d20260101") == (0, 19, 1)
    assert parse_version("0.5.4.post1") == (0, 5, 4)
    for text in ("latest", "0.33;x", "0.33abc", "0.9 or so", "33", "0.x", "٠.٣"):
        with pytest.raises(UsageError, match=f"'{text}' is not an engine version"):
            parse_version(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"utilization": 1.5}, "utilization 1.5 must be above 0 and at most 1"),
        ({"utilization": 0.0}, "utilization 0.0 must be above 0"),
        ({"engine": "triton"}, "unknown engine 'triton'"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1"),
    ],
)
def test_impossible_options_are_refused(
    hand_model: Hand, h100: GpuSpec, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        fit_model(hand_model("llama-3.1-8b"), h100, **options)  # type: ignore[arg-type]


# The logs


def test_sglang_pool_of_a_published_log(hand_model: Hand, h100: GpuSpec) -> None:
    report = fit_model(
        hand_model("qwen3-235b-a22b"), h100, engine="sglang", parallel=Parallel(tp=4), utilization=0.93,
        weights_dtype="fp8_block128", kv_dtype="bf16",
    )  # fmt: skip
    assert report.kv_pool_bytes / GIB == pytest.approx(16.46, rel=0.01)
    assert report.kv_tokens == pytest.approx(367_404, rel=0.01)


NAMES = {"meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b", "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b"}


def _plan(row: dict[str, str], hand_model: Hand, gpu: GpuSpec) -> FitReport:
    weights = "fp32" if row["dtype"] == "float32" else row["quantization"] or None
    return fit_model(
        hand_model(NAMES[row["model"]]), gpu, version="0.19",
        max_model_len=int(row["max_model_len"]), utilization=float(row["gpu_memory_utilization"]),
        parallel=Parallel(tp=int(row["tensor_parallel_size"]), pp=int(row["pipeline_parallel_size"])),
        weights_dtype=weights, kv_dtype=row["kv_cache_dtype"],
    )  # fmt: skip


@pytest.mark.shared
def test_every_start_up_of_the_study(shared: Path, hand_model: Hand, h100: GpuSpec) -> None:
    with (shared / "data/latency/engine_startup_memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    errors: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        report = _plan(row, hand_model, h100)
        # The log line of the pool is the first stage's; the blocks are the smallest of all stages.
        pool = report.stages[0].bill.kv_pool_bytes / GIB
        errors["pool"].append(abs(pool / float(row["kv_cache_memory_gib"]) - 1))
        errors["blocks"].append(abs(report.num_blocks / int(row["kv_cache_blocks"]) - 1))
        errors["tokens"].append(abs(report.kv_tokens / int(row["kv_cache_tokens"]) - 1))
        errors["concurrency"].append(abs(float(report.max_concurrency) / float(row["max_concurrency"]) - 1))
    assert len(errors["pool"]) >= 24
    for what, found in errors.items():
        assert fmean(found) < 0.001, (what, fmean(found))
        assert max(found) < 0.002, (what, max(found))


@pytest.mark.shared
@pytest.mark.parametrize("held_out", sorted(NAMES))
def test_constants_fitted_on_one_model_predict_the_other(
    shared: Path, hand_model: Hand, h100: GpuSpec, held_out: str
) -> None:
    """Refit runtime and collectives on the other model's rows alone; predict this one's pools."""
    with (shared / "data/latency/engine_startup_memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    residuals: dict[tuple[bool, str], list[float]] = defaultdict(list)
    for row in rows:
        bill = _plan(row, hand_model, h100).stages[0].bill
        residual = bill.kv_pool_bytes / GIB - float(row["kv_cache_memory_gib"])
        residuals[row["model"] == held_out, row["tensor_parallel_size"]].append(residual)
    for (is_held_out, tp), found in residuals.items():
        if is_held_out and (False, tp) in residuals:
            shift = fmean(residuals[False, tp])  # what the refit constants would change
            assert all(abs(value - shift) < 0.05 for value in found), (tp, found, shift)


@pytest.mark.parametrize(
    ("version", "utilization", "planned"),
    [("0.19.1", 0.9, False), ("0.20.0", 0.92, True), ("0.21", 0.92, True)],
)
def test_vllm_plans_graphs_and_takes_more_by_default_from_0_20_on(
    hand_model: Hand, h100: GpuSpec, version: str, utilization: float, planned: bool
) -> None:
    """As the envs and cache options of 0.19.1, 0.20.0 and 0.21.0 say; the log line still promises 0.21."""
    report = fit_model(hand_model("llama-3.1-8b"), h100, version=version)
    assert report.serving.utilization == utilization
    assert report.binding.bill.graphs_in_budget is planned


@pytest.mark.parametrize(
    ("gpu", "version", "tokens", "seqs"),
    [
        ("b200", "0.27", 8192, 1024), ("b200", "0.28", 16384, 1024), ("mi300x", "0.33", 16384, 1024),
        ("h200-sxm", "0.33", 8192, 1024), ("a100-80g", "0.8.5", 8192, 1024), ("a100-80g", "0.9", 2048, 256),
        ("gb10", "0.31", 8192, 1024), ("gb10", "0.33", 2048, 256), ("l40s", "0.33", 2048, 256),
    ],
)  # fmt: skip
def test_vllm_s_batches_grow_with_the_gpu(gpu: str, version: str, tokens: int, seqs: int) -> None:
    """``EngineArgs.get_batch_defaults`` of 0.8.5, 0.9.0, 0.27.0, 0.28.0, 0.31.0 and 0.33.0."""
    serving = resolve_serving("vllm", load_gpu(gpu), version=version, max_model_len=32_768)
    assert (serving.max_num_batched_tokens, serving.max_num_seqs) == (tokens, seqs)
