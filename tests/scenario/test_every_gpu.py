"""Every GPU that is known goes through sizing, a simulation with its datasheet's clock, and a plan."""

from __future__ import annotations

import pytest

from kvplan.scenario.axes import parse_axis
from kvplan.scenario.plan import Plan
from kvplan.scenario.sweep import Sweep
from kvplan.sizing.capacity import fit_model
from kvplan.sizing.flags import engine_flags
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import entries, load_gpu, load_model

GPUS = [entry.name for entry in entries("gpu") if entry.origin == "bundled"]
MODEL = "qwen3-0.6b"
TINY = {
    "model": MODEL,
    "engine.max_model_len": "2k",
    "workload.synthesize": "fixed",
    "workload.prompt_tokens": 100,
    "workload.output_tokens": 4,
    "workload.rate": 50,
    "parallel.tp": 2,
}


@pytest.mark.parametrize("weights", [None, "fp8", "nvfp4"])
def test_every_gpu_is_sized_for_both_engines(weights: str | None) -> None:
    model = load_model(MODEL)
    for name in GPUS:
        for engine in ("vllm", "sglang"):
            report = fit_model(
                model, load_gpu(name), parallel=Parallel(tp=2), max_model_len=2048, engine=engine,
                weights_dtype=weights,
            )  # fmt: skip
            assert report.kv_tokens > 2048, name
            assert set(engine_flags(report)) == {"vllm", "sglang"}


def test_every_gpu_is_simulated_as_a_candidate_of_a_plan() -> None:
    kinds = Sweep(
        None, [parse_axis(f"gpu={','.join(GPUS)}")], flags=TINY, assignments=["slo.ttft_p99_s=30"], count=3
    )
    plan = Plan(kinds, longest=3)
    plan.execute()
    candidates = plan.document([])["candidates"]
    assert len(candidates) == len(GPUS)
    assert not [(item["values"], item["error"]) for item in candidates if item["status"] != "meets"]
