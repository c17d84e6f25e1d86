"""Layers of routed experts in a profile that timed them: the kernel decides, and only where there is one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError
from kvplan.latency.fit.experts import Experts
from kvplan.latency.fit.kernel import fit_kernel
from kvplan.latency.fit.profile_file import KernelPart, kernel_part, read_profile, restore_kernel
from kvplan.latency.fit.structure import Hardware
from kvplan.latency.profile import profile_path

FACTOR = 2.0
"""How much slower than its datasheet the invented kernel streams weights."""


def experts_part(labels: dict[str, str], factor: float = FACTOR) -> KernelPart:
    structure = Experts(Hardware("h100-sxm", 132, 3.35e12, 52e6, 9.9e14))
    values = np.array([parameter.start for parameter in structure.parameters()])
    values[2] /= factor
    rng = np.random.default_rng(0)
    touched = np.exp2(rng.uniform(0.0, 7.0, 150))
    shapes = {
        "assignments": touched * np.exp2(rng.uniform(0.0, 10.0, 150)), "touched": touched,
        "held": np.full(150, 128.0), "hidden": np.exp2(rng.uniform(10.5, 13.0, 150)),
        "inter": np.exp2(rng.uniform(8.5, 12.0, 150)),
    }  # fmt: skip
    seconds = structure.seconds(values, shapes) * rng.lognormal(0.0, 0.02, 150)
    fitted = fit_kernel(structure, shapes, seconds)
    return kernel_part("moe", {"kernel_source": "vllm_fused_moe"} | labels, fitted, "VLLM 0.24.0", None)


@pytest.fixture(scope="module")
def part() -> KernelPart:
    return experts_part({"moe_dtype": "bfloat16"})


@pytest.fixture(scope="module")
def timed(part: KernelPart, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A profile of an H100 with experts."""
    document = json.loads(profile_path("h100-sxm").read_text(encoding="utf-8"))
    document["kernels"].append(part.model_dump(mode="json", exclude={"detail"}))
    path = tmp_path_factory.mktemp("experts") / "p.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


def decode(requests: int) -> StepBatch:
    return StepBatch(requests, requests * 1000, requests, requests * 1000, [], requests)


def test_a_profile_keeps_experts_as_they_were_fitted(timed: str, part: KernelPart) -> None:
    kept = read_profile(profile_path(timed)).kernels[-1]
    assert kept.structure == "experts"
    again, first = (restore_kernel(one, "p.json") for one in (kept, part))
    shapes = {name: np.array([high]) for name, high in part.high.items()}
    assert again.seconds(shapes) == pytest.approx(first.seconds(shapes), rel=1e-6)
    broken = kept.model_copy(update={"hardware": {"name": "x"}})
    with pytest.raises(SpecError, match="incomplete"):
        restore_kernel(broken, "p.json")


def test_the_timed_kernel_takes_the_place_of_the_estimate(timed: str, clock_of: Any) -> None:
    own = clock_of("profile", "qwen3-30b-a3b", name=timed)
    estimated = clock_of("profile", "qwen3-30b-a3b")
    # Weights of all experts at half the rate: about twice as long.
    ratio = own.model.step_seconds(decode(256)) / estimated.model.step_seconds(decode(256))
    assert 1.5 < ratio < 2.2
    steps = [own.model.step_seconds(decode(count)) for count in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)]
    assert steps == sorted(steps)
    names = {item.name for item in own.assumptions}
    assert "latency.choosing_s" in names
    assert not names & {"latency.moe_efficiency", "latency.sorting_s"}


def test_bands_are_those_of_the_kernel_and_no_longer_twice_as_wide(timed: str, clock_of: Any) -> None:
    own, estimated = (clock_of("profile", "qwen3-30b-a3b", tp=2, **kept) for kept in ({"name": timed}, {}))
    assert own.bands["tpot"][1] < estimated.bands["tpot"][1]
    assert not [warning for warning in own.warnings if "experts" in warning]


def test_experts_far_from_what_was_timed_are_said_and_widen(timed: str, clock_of: Any) -> None:
    own = clock_of("profile", "mixtral-8x7b", name=timed, tp=1)
    assert any("experts of 14336 x 4096" in warning for warning in own.warnings)
    assert own.bands["tpot"][1] >= 0.3


@pytest.mark.parametrize(("model", "weights"), [("llama-3.1-8b", None), ("qwen3-30b-a3b", "fp8")])
def test_nothing_changes_for_dense_models_and_other_formats(
    timed: str, clock_of: Any, model: str, weights: str | None
) -> None:
    own, plain = (clock_of("profile", model, weights=weights, **kept) for kept in ({"name": timed}, {}))
    assert own.model.step_seconds(decode(64)) == plain.model.step_seconds(decode(64))
    assert own.bands == plain.bands


def test_experts_dealt_to_ranks_are_those_of_the_heaviest() -> None:
    from kvplan.latency.expert_layer import expert_shapes
    from kvplan.latency.work import step_work
    from kvplan.sizing.parallel import Parallel
    from kvplan.specs.catalog import load_model
    from kvplan.specs.formats import kv_format

    work = step_work(
        load_model("qwen3-30b-a3b"),
        parallel=Parallel(tp=4),
        kv_format=kv_format("bf16"),
        expert_parallel=True,
    )
    (item,) = work.experts
    shapes = expert_shapes(item, np.array([1.0, 1024.0]))
    assert shapes["held"].tolist() == [32.0, 32.0]
    assert shapes["inter"].tolist() == [768.0, 768.0]
    assert shapes["assignments"][1] == item.routing.heaviest(1024.0) > 1024 * 8 / 4
    assert shapes["touched"][0] >= 1.0
