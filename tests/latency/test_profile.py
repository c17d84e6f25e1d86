"""Profiles as files and as clocks: what is damaged, foreign or not measured is refused by name."""

import json
import math

import pytest

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError, UnknownName
from kvplan.latency.fit.profile_file import profile_text, read_profile, restore_kernel
from kvplan.latency.monotone import DenseTable, LogTable
from kvplan.latency.profile import profile_names, profile_path
from kvplan.sizing.size import size_model
from kvplan.specs.catalog import load_gpu, load_model


def decode(requests, context):
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


@pytest.fixture(scope="module")
def document():
    return json.loads(profile_path("a100-80g").read_text(encoding="utf-8"))


def saved(tmp_path, document):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", profile_names())
def test_bundled_profiles_load_name_their_source_and_say_how_good_they_are(name):
    profile = read_profile(profile_path(name))
    assert profile.name == name
    if profile.measured is None:
        assert name == profile.gpu
        assert "aiconfigurator" in profile.provenance.source
    else:
        assert name == f"{profile.gpu}-kvplan"
        assert profile.measured.held_out is not None
    assert profile.provenance.license != "unknown"
    assert all(not item["path"].startswith("/") for item in profile.provenance.inputs)
    for part in profile.kernels:
        restore_kernel(part, name)
        assert part.held_out is not None
        assert part.held_out.tested > 0


def test_reading_and_writing_a_profile_changes_nothing():
    path = profile_path("a100-80g")
    assert profile_text(read_profile(path)) == path.read_text(encoding="utf-8")


def test_bundled_names_include_both_tabulated_gpus():
    assert {"h100-sxm", "a100-80g"} <= set(profile_names())


def set_at(document, keys, value):
    for key in keys[:-1]:
        document = document[key]
    document[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["schema"], "kvplan.profile/2"),
        (["schema"], "kvplan.profile/3"),
        (["kernels", 0, "parameters", "launch_s"], -1e-6),
        (["kernels", 0, "parameters", "launch_s"], math.nan),
        (["kernels", 0, "parameters", "launch_s"], "fast"),
        (["kernels", 0, "band_factor"], 0.0),
        (["kernels", 0, "structure"], "magic"),
        (["kernels"], []),
        (["surprise"], 1),
    ],
)
def test_damaged_profiles_are_refused(tmp_path, document, keys, value):
    broken = json.loads(json.dumps(document))
    set_at(broken, keys, value)
    with pytest.raises(SpecError) as caught:
        read_profile(saved(tmp_path, broken))
    assert str(tmp_path) in caught.value.where


def test_parts_that_do_not_belong_together_are_refused(tmp_path, document):
    for keys, value in (
        (["kernels", 0, "parameters"], {"launch_s": 1e-6}),
        (["kernels", 0, "residual", "weights"], [1.0]),
        (["kernels", 0, "hardware"], {"name": "x"}),
        (["kernels", 0, "low"], {}),
    ):
        broken = json.loads(json.dumps(document))
        set_at(broken, keys, value)
        profile = read_profile(saved(tmp_path, broken))
        with pytest.raises(SpecError):
            restore_kernel(profile.kernels[0], "p.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"schema": 3}', "[" * 100_000])
def test_text_that_is_no_profile_is_refused(tmp_path, text):
    path = tmp_path / "p.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError):
        read_profile(path)


def test_a_profile_of_another_gpu_is_refused_not_replaced(clock_of):
    with pytest.raises(SpecError, match="measured on a100-80g, not on h100-sxm"):
        clock_of("profile", name="a100-80g")
    with pytest.raises(UnknownName, match="latency profile"):
        clock_of("profile", gpu="l4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv": "int4"}, "cache of"),
        ({"gpu": "a100-80g", "kv": "fp8"}, "fp8 attention"),
        ({"gpu": "a100-80g", "model": "deepseek-v2-lite"}, "attention"),
    ],
)
def test_what_was_not_measured_is_refused_with_a_way_out(clock_of, options, words):
    with pytest.raises(SpecError, match=words) as caught:
        clock_of("profile", **options)
    assert "roofline" in caught.value.hint


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1ms", True])
def test_bad_overheads_are_refused(clock_of, value):
    with pytest.raises(SpecError, match="step_s"):
        clock_of("profile", step_s=value)


def test_the_clock_names_profile_bands_and_assumptions(clock_of):
    clock = clock_of("profile", step_s=1e-3)
    accuracy = clock.accuracy()
    assert accuracy["name"] == "h100-sxm"
    assert accuracy["bands"]["tpot"] == [-0.15, 0.15]
    named = {item.name: item for item in clock.assumptions}
    assert named["latency.step_s"].source == "given in the scenario"
    assert "not measured" in named["latency.request_s"].source


def test_shapes_outside_the_measured_range_warn_and_widen(clock_of):
    clock = clock_of("profile", "gemma-2-27b")
    assert any("lm_head" in text for text in clock.warnings)
    assert clock.accuracy()["bands"]["tpot"] == [-0.3, 0.3]


@pytest.mark.parametrize("model", ["qwen3-next-80b-a3b", "qwen3.5-27b"])
def test_a_sequence_has_its_state_read_and_written_no_faster_than_memory_is(clock_of, model):
    gpu, spec = load_gpu("h100-sxm"), load_model(model)
    moved = 2 * size_model(spec, context_tokens=1).state_bytes_per_sequence
    least = moved / gpu.bandwidth_bytes_per_s
    assert least <= clock_of("profile", model, weights="fp8").model.tables.sequence_s <= 1.5 * least


def test_one_gpu_has_no_collective_and_two_have(clock_of):
    one, two = clock_of("profile").model, clock_of("profile", tp=2).model
    assert "collective" not in one.tables.spread
    assert two.tables.spread["collective"] > 0


def test_a_profile_and_the_roofline_agree_within_the_rooflines_band_where_memory_binds(clock_of):
    for context in (1_000, 30_000):
        batch = decode(16, context)
        measured = clock_of("profile").model.step_seconds(batch)
        drawn = clock_of("roofline").model.step_seconds(batch)
        assert measured == pytest.approx(drawn, rel=0.25)


def test_ensemble_members_repeat_by_seed_and_scatter(clock_of):
    clock = clock_of("profile")
    batch = decode(16, 4000)
    base = clock.model.step_seconds(batch)
    ratios = [clock.perturbed(seed).step_seconds(batch) / base for seed in range(40)]
    assert ratios == [clock.perturbed(seed).step_seconds(batch) / base for seed in range(40)]
    assert min(ratios) < 1 < max(ratios)
    assert all(0.6 < ratio < 1.7 for ratio in ratios)


def test_tables_refuse_to_fall_and_grow_past_their_end():
    with pytest.raises(ValueError, match="must not fall"):
        DenseTable([2.0, 1.0])
    with pytest.raises(ValueError, match="must not fall"):
        LogTable([[1.0, 2.0], [0.5, 3.0]], 1)
    dense = DenseTable([0.0, 1.0, 2.0, 3.0])
    assert dense.at(10) == pytest.approx(10.0)
    log = LogTable([[1.0, 2.0], [2.0, 4.0]], 1)
    assert log.at(1, 1) == 1.0
    assert log.at(2, 2) == 4.0
    assert log.at(8, 2) == pytest.approx(16.0)
    assert log.at(2**0.5, 1) == pytest.approx(1.5)


def prefill(new, before=0):
    return StepBatch(new, 0, 0, 0, [(before, new)], 1)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_factors_stretch_reading_and_computing_each_by_itself(clock_of, model):
    plain, slow_memory, slow_compute, both = (
        clock_of("profile", model, step_s=0.0, request_s=0.0, **factors).model
        for factors in ({}, {"memory_factor": 1.5}, {"compute_factor": 1.5},
                        {"memory_factor": 1.5, "compute_factor": 1.5})
    )  # fmt: skip
    one, long = decode(1, 30_000), prefill(8_000)
    assert slow_memory.step_seconds(one) == pytest.approx(1.5 * plain.step_seconds(one), rel=0.01)
    assert slow_compute.step_seconds(one) == pytest.approx(plain.step_seconds(one), rel=0.01)
    assert slow_compute.step_seconds(long) > 1.35 * plain.step_seconds(long)
    assert both.step_seconds(long) == pytest.approx(1.5 * plain.step_seconds(long), rel=0.02)
    for batch in (one, decode(64, 2_000), long, prefill(100, 10_000)):
        parts = sorted(m.step_seconds(batch) for m in (plain, slow_memory, slow_compute, both))
        assert parts[0] == plain.step_seconds(batch)
        assert parts[-1] == both.step_seconds(batch)
    assert clock_of("profile", model, memory_factor=1.0).model.step_seconds(one) == clock_of(
        "profile", model
    ).model.step_seconds(one)


def test_factors_are_named_stay_in_members_and_are_refused_where_they_are_none(clock_of):
    clock = clock_of("profile", memory_factor=1.3)
    assert {"latency.memory_factor"} == {a.name for a in clock.assumptions if a.name.endswith("_factor")}
    batch, plain = decode(16, 4000), clock_of("profile")
    ratios = [
        clock.perturbed(seed).step_seconds(batch) / plain.perturbed(seed).step_seconds(batch)
        for seed in range(5)
    ]
    assert min(ratios) > 1.1
    for value in (0.0, -1.0, 0.05, 11.0, math.nan, True, "1.2"):
        with pytest.raises(SpecError, match="compute_factor must be a number"):
            clock_of("profile", compute_factor=value)


def held_out(document, op, p90, tested=500):
    for kernel in document["kernels"]:
        if kernel["op"] == op:
            kernel["held_out"] = None if p90 is None else {**kernel["held_out"], "p90": p90, "tested": tested}


@pytest.mark.parametrize(
    ("op", "p90", "tested", "tpot", "ttft"),
    [
        ("gemm", 0.05, 500, 0.15, 0.25),
        ("gemm", 0.405, 500, 0.324, 0.324),
        ("generation_attention", 0.4, 500, 0.32, 0.25),
        ("context_attention", 0.5, 500, None, 0.4),
        # What nobody tested, or on a handful of shapes, is as uncertain as its band.
        ("gemm", None, 0, None, None), ("gemm", 0.01, 3, None, None),
    ],
)  # fmt: skip
def test_a_clock_claims_no_more_than_its_kernels_held_out(
    clock_of, tmp_path, document, op, p90, tested, tpot, ttft
):
    copied = json.loads(json.dumps(document))
    for other in ("gemm", "generation_attention", "context_attention"):
        held_out(copied, other, 0.1)
    held_out(copied, op, p90, tested)
    clock = clock_of("profile", gpu="a100-80g", name=str(saved(tmp_path, copied)))
    band = math.expm1(1.645 * clock.model.tables.spread["linear"])
    assert clock.bands["tpot"][1] == pytest.approx(
        tpot if tpot is not None else 0.15 if op != "gemm" else 0.8 * band, abs=2e-3
    )
    assert clock.bands["ttft"][1] == pytest.approx(
        ttft if ttft is not None else max(0.25, 0.8 * band), abs=2e-3
    )
    assert clock.bands["e2e"] == clock.bands["tpot"]
