"""Leaving one GPU out: constants are found again, scores are what they say, and the shipped ones are a fit."""

from dataclasses import replace

import numpy as np
import pytest

from kvplan.latency.datasheet import Datasheet
from kvplan.latency.efficiency import AMPERE, BANDS, COMMON, GENERATIONS, HOPPER
from kvplan.latency.fit.tables import Family, read_measurements
from kvplan.latency.fit.unseen import (
    _rows,
    fit_efficiency,
    kind_of,
    score_unseen,
    seconds_of,
)
from kvplan.latency.fit.unseen_report import unseen_text
from kvplan.latency.fit.unseen_steps import score_steps
from kvplan.specs.catalog import load_gpu


def family(sheet, dtype="bfloat16", noise=0.0):
    """A table of multiplications that takes exactly what ``sheet`` says, times noise."""
    sizes = [(m, n, k) for m in (1, 16, 64, 512, 4096) for n in (512, 4096, 16384) for k in (512, 4096, 8192)]
    shapes = {name: np.array([row[i] for row in sizes], dtype=float) for i, name in enumerate("mnk")}
    made = Family(
        "gemm", {"kernel_source": "mine", "gemm_dtype": dtype}, "h100-sxm", "1", shapes, np.ones(45), "t"
    )
    rng = np.random.default_rng(1)
    seconds = np.array([seconds_of(sheet, made, row) for row in _rows(made)])
    return replace(made, seconds=seconds * np.exp(rng.normal(0.0, noise, seconds.size)))


def test_constants_are_found_again():
    gpu = load_gpu("h100-sxm")
    found = fit_efficiency([(gpu, [family(Datasheet(gpu, HOPPER))])], "mine")
    for name in ("compute", "memory", "floor_cycles"):
        assert getattr(found.gemm, name) == pytest.approx(getattr(HOPPER.gemm, name), rel=0.02)
    # What was not timed keeps the other constants; multiplications of 8 bits those of 16.
    assert found.decode == HOPPER.decode
    assert (found.narrow.compute, found.narrow.quantise) == (found.gemm.compute, HOPPER.narrow.quantise)


def test_a_table_is_scored_with_the_other_generation():
    gpu = load_gpu("h100-sxm")
    (score,), left = score_unseen([family(Datasheet(gpu, AMPERE))], gpu)
    assert (score.donor, score.kind, score.tested) == ("ampere", "gemm", 45)
    assert score.median == pytest.approx(0.0, abs=1e-9)
    assert score.coverage == 1.0
    (score,), _ = score_unseen(
        [family(Datasheet(gpu, AMPERE.times(seconds=3.0, compute=1 / 3, memory=1 / 3)))], gpu
    )
    assert score.bias == pytest.approx(-2 / 3, rel=1e-9)
    assert score.coverage == 0.0
    assert not left


def test_eager_tables_are_named_as_left_out_and_other_ops_passed_over():
    gpu = load_gpu("h100-sxm")
    made = family(Datasheet(gpu, AMPERE))
    eager = replace(made, labels={"kernel_source": "x", "gemm_dtype": "fp8_block"})
    scores, left = score_unseen([eager, replace(made, op="all_reduce")], gpu)
    assert not scores
    assert left == ["gemm x fp8_block on h100-sxm"]
    assert score_unseen([made], load_gpu("l40s")) == ([], [])


def test_kinds_have_bands():
    made = family(Datasheet(load_gpu("h100-sxm"), HOPPER), "fp8")
    assert kind_of(made) == "narrow"
    for op in ("gemm", "generation_attention", "context_attention", "mla_context", "mla_generation"):
        assert kind_of(replace(made, op=op, labels={})) in BANDS


def test_the_report_counts_each_gpu_alike():
    gpus = [load_gpu(name) for name in ("h100-sxm", "a100-80g")]
    wrong = family(Datasheet(gpus[0], AMPERE.times(seconds=9.0, compute=0.1, memory=0.1)))
    right = family(Datasheet(gpus[1], HOPPER))
    scores = score_unseen([wrong], gpus[0])[0] + score_unseen([right, right], gpus[1])[0]
    text = unseen_text(scores, ["x on y"], [])
    assert "covers 50.0% (mean of both directions)" in text
    assert "x on y" in text
    assert unseen_text([], [], []) == ""


@pytest.mark.parametrize("gpu", ["h100-sxm", "a100-80g"])
def test_steps_of_a_measured_generation_are_within_the_stated_bands(gpu):
    for score in score_steps(gpu):
        # Either way: what is different is the clock and the multiprocessors, and the datasheet has both.
        if score.constants.startswith("the other"):
            assert score.median <= 0.1
            assert score.p90 <= 0.2
        if score.constants == "its own generation's":
            assert score.median <= 0.05
            assert score.coverage >= 0.9
        if score.constants == "both generations'":
            assert score.median <= 0.07
            assert score.coverage >= 0.9


@pytest.mark.shared
@pytest.mark.slow
def test_the_shipped_constants_are_fits_of_the_tables(shared):
    place = shared / "data" / "latency" / "kernel_tables"
    read = [read_measurements([place / tables]).families for tables in ("a100_sxm", "h100_sxm")]
    tables = [(load_gpu(families[0].device), families) for families in read]
    assert fit_efficiency(tables, COMMON.name) == COMMON
    for one in tables:
        name = one[0].architecture
        assert fit_efficiency([one], name) == GENERATIONS[name]
