"""Measurement files are read whole or refused with their place; held-out rows never reach a fit."""

import json

import numpy as np
import pytest

from kvplan.errors import DataError
from kvplan.kernels.splits import choose_splits
from kvplan.latency.fit.calibrate import calibrate
from kvplan.latency.fit.kernel_measurements import (
    KernelMeasurements,
    is_kernel_measurements,
    read_kernel_measurements,
)
from kvplan.latency.fit.kernel_rows import drift, kernel_rows, matmul_rows
from kvplan.latency.fit.machine import ceilings, check_possible, writers
from kvplan.latency.fit.structure import Hardware

H100 = Hardware("h100-sxm", 132, 3.35e12, 50 << 20, 9.9e14)


@pytest.fixture(scope="module")
def few(document):
    """The document with a few rows of every kind, to be broken."""
    keep = [p for p in document["points"] if p["stage"] in ("mla", "prefill", "write", "holdout")][:60]
    return {**document, "points": keep}


@pytest.fixture
def copy(few):
    return json.loads(json.dumps(few))


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_what_is_nested_without_end_is_refused_by_name(tmp_path, opens, closes):
    path = tmp_path / "deep.json"
    for text in (opens * 100_000, opens * 100_000 + "1" + closes * 100_000):
        path.write_text(text, encoding="utf-8")
        assert is_kernel_measurements(path)
        with pytest.raises(DataError, match="malformed JSON: nested too deeply"):
            read_kernel_measurements(path)


def saved(tmp_path, document):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(document):
    return KernelMeasurements.model_validate(document)


def test_a_complete_file_is_read_with_its_environment(tmp_path, copy):
    path = saved(tmp_path, copy)
    assert is_kernel_measurements(path)
    read = read_kernel_measurements(path)
    assert read.environment.multiprocessors == 132
    assert read.facts["gpu_state.driver_version"] == "580.1"
    assert len(read.points) == len(copy["points"])
    assert read.ceiling("copy").bytes == 8 << 30


def put(document, keys, value):
    for key in keys[:-1]:
        document = document[key]
    if value is None:
        del document[keys[-1]]
    else:
        document[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "message", "place"),
    [
        (["schema"], "kvplan.kernel-measurements/2", "kernel-measurements/2", "m.json"),
        (["schema"], None, "schema 'None'", "m.json"),
        (["environment", "dry_run"], True, "durations are made up", "environment.dry_run"),
        (["environment", "dry_run"], None, "required", "environment.dry_run"),
        (["environment", "device"], 7, "string", "environment.device"),
        (["points", 3, "median_s"], -1e-6, "greater than 0", "points[3].median_s (holdout/"),
        (["points", 3, "median_s"], 0.0, "greater than 0", "points[3].median_s"),
        (["points", 3, "median_s"], float("nan"), "", "points[3].median_s"),
        (["points", 3, "median_s"], float("inf"), "", "points[3].median_s"),
        (["points", 3, "median_s"], "1e-5", "number", "points[3].median_s"),
        (["points", 3, "median_s"], 1.0, "least_s <= p25_s", "points[3]"),
        (["points", 3, "median_s"], None, "required", "points[3].median_s"),
        (["points", 3, "batch"], 0, "greater than or equal to 1", "points[3].batch"),
        (["points", 3, "batch"], True, "integer", "points[3].batch"),
        (["points", 3, "op"], "dream", "decode", "points[3].op"),
        (["points", 3, "format"], "../etc", "pattern", "points[3].format"),
        (["points", 3, "kv_bytes"], 1, "bytes an element", "points[3]"),
        (["points"], 7, "tuple", "points"),
        (["ceilings", 0, "bytes"], None, "needs bytes", "ceilings[0] (copy)"),
        (["ceilings", 6, "tokens"], None, "needs tokens", "ceilings[6]"),
        (["correctness", 0, "ok"], False, "correctness checks failed", "correctness"),
    ],
)
def test_what_is_no_measurement_is_refused_with_its_place(tmp_path, copy, keys, value, message, place):
    put(copy, keys, value)
    with pytest.raises(DataError) as caught:
        read_kernel_measurements(saved(tmp_path, copy))
    assert message in caught.value.message
    assert place in caught.value.where


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": []}', '{"a":' * 90_000, "{\x00}"])
def test_text_that_is_no_measurement_is_refused(tmp_path, text):
    path = tmp_path / "m.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        read_kernel_measurements(path)


def test_a_row_that_comes_twice_is_refused(tmp_path, copy):
    copy["points"].append(copy["points"][5])
    with pytest.raises(DataError, match="comes twice"):
        read_kernel_measurements(saved(tmp_path, copy))


def test_more_bytes_than_the_memory_delivers_are_refused(whole):
    check_possible(whole, H100, "m.json")
    slow = Hardware("l4", 58, 3e11, 48e6, 1.2e14)
    with pytest.raises(DataError, match="of the memory bandwidth of l4") as caught:
        check_possible(whole, slow, "m.json")
    assert caught.value.where == "m.json: ceilings[0].median_s"


def test_nothing_that_can_be_fitted_is_an_error_that_says_why(tmp_path, copy):
    copy["points"], copy["ceilings"] = [], copy["ceilings"][:4]
    with pytest.raises(DataError, match="no kernel has enough") as caught:
        calibrate([str(saved(tmp_path, copy))])
    assert "0 measurements of gemm cannot fix its 15 parameters" in caught.value.hint


def test_an_unknown_or_another_gpu_is_refused(tmp_path, copy):
    with pytest.raises(DataError, match="not of a100-80g"):
        calibrate([str(saved(tmp_path, copy))], gpu="a100-80g")


def test_held_out_rows_are_kept_apart_whatever_they_say(document, whole):
    kernels = kernel_rows(whole.points, 132)
    held = sum(len(rows.held) for rows in kernels)
    assert held == sum(p["stage"] == "holdout" for p in document["points"]) == 40
    wrong = json.loads(json.dumps(document))
    for point in wrong["points"]:
        if point["stage"] == "holdout":
            for name in ("median_s", "p25_s", "p75_s", "least_s"):
                point[name] *= 7.0
    again = kernel_rows(KernelMeasurements.model_validate(wrong).points, 132)
    for left, right in zip(kernels, again, strict=True):
        assert np.array_equal(left.fit.seconds, right.fit.seconds)
        assert not len(left.held) or np.allclose(right.held.seconds, 7.0 * left.held.seconds)


def test_rows_become_shapes_and_the_launchers_split_rule_is_read_off(whole):
    by = {(rows.op, rows.format): rows for rows in kernel_rows(whole.points, 132)}
    decode = by["generation_attention", "int4_g64"]
    assert decode.split_rule == (3, 64)
    assert set(decode.fit.shapes["kv_element_bytes"]) == {0.5625}
    assert sorted(by["generation_attention", "bf16"].pages) == [16, 64, 256]
    mla = by["mla_generation", "mla_fp8"].fit.shapes
    assert mla["kv_element_bytes"][0] == pytest.approx(656 / 576)
    assert set(mla["head_dim"]) == {288.0}
    prefill = by["context_attention", "bf16"].fit.shapes
    assert {0.0, 1920.0, 7680.0, 32256.0} <= set(prefill["before"].tolist())
    ragged = by["generation_attention", "bf16"].ragged
    assert len(ragged) == 7
    assert 2000 < ragged.shapes["ctx"].min() <= ragged.shapes["ctx"].max() < 8000
    assert len(matmul_rows(whole.ceilings, "bf16")) == 45
    assert len(matmul_rows(whole.ceilings, "fp8")) == 33


def test_the_split_rule_is_that_of_the_commonest_head_width(whole):
    def launched(point):
        each = 4 if point.d == 128 else 3
        splits = choose_splits(programs=point.batch * point.hkv, tokens=point.context, multiprocessors=132,
                               per_multiprocessor=each, enough=2, smallest_share=64, ring=False)  # fmt: skip
        return point.model_copy(update={"splits": splits})

    rows = [launched(p) for p in whole.points if p.stage == "grid" and p.format == "fp8_e4m3"]
    assert {p.d for p in rows} == {128, 256}
    assert kernel_rows(rows, 132)[0].split_rule == (4, 64)


def test_the_machine_is_a_few_numbers_each_near_what_made_them(whole):
    found = ceilings(whole.ceilings)
    assert found.copy_bytes_per_s == pytest.approx(0.9 * 3.35e12, rel=0.06)
    assert found.read_bytes_per_s == pytest.approx(0.94 * 3.35e12, rel=0.06)
    assert set(found.matmul_flops) == {"bf16", "fp8"}
    assert len(found.host) == 4
    for host in found.host:
        assert host.bytes_per_s == pytest.approx(5.5e10 if host.pinned else 9e9, rel=0.1)
        assert 0 <= host.latency_s < 3e-5
    wrote = writers(whole.points)
    assert {"bf16", "int4", "kivi2", "mla_fp8", "nvfp4"} <= set(wrote)
    assert wrote["bf16"].bytes_per_s == pytest.approx(0.5 * 3.35e12, rel=0.2)
    assert drift(whole.points) == pytest.approx([1.0] * 10, abs=0.12)
