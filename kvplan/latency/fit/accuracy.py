"""How well kernels never timed are predicted: fit on a designed few, score on all others.

``python -m kvplan.latency.fit.accuracy TABLES... -o reports/accuracy`` writes ``report.md`` and
``results.json`` and prints the report. The split looks at shapes only (edges and typical shapes in log sizes,
at most ``--points`` of a family), so nothing of the test rows reaches the fit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from kvplan.errors import KvplanError
from kvplan.latency.fit.band import COVERAGE
from kvplan.latency.fit.choose import hardware_of
from kvplan.latency.fit.families import FittedFamily, fit_families
from kvplan.latency.fit.kernel import take
from kvplan.latency.fit.possible import believable
from kvplan.latency.fit.tables import Family, read_measurements
from kvplan.latency.fit.unseen import score_unseen_tables
from kvplan.latency.fit.unseen_report import unseen_text
from kvplan.latency.fit.unseen_steps import score_steps
from kvplan.latency.profile import profile_names
from kvplan.specs.catalog import load_gpu
from kvplan.specs.schema import GpuSpec

POINTS = 120
FEW = 100
"""Test shapes of a family below which its coverage is a rough figure: one of 35 shapes is 3 %."""
LARGE_KV = 100e6
"""Bytes of KV above which decode attention is scored apart."""
LARGE_GEMM = 1024
"""n and k from which matrix multiplications are scored apart."""


@dataclass(frozen=True, slots=True)
class Score:
    """Held-out errors of one family, or of a part of its test rows. Errors are |predicted/measured - 1|."""

    gpu: str
    op: str
    labels: dict[str, str]
    version: str
    part: str
    trained: int
    tested: int
    median: float
    p90: float
    bias: float
    coverage: float
    half_width: float
    formula_median: float


def score_families(families: Sequence[Family], gpu: GpuSpec, points: int = POINTS) -> list[Score]:
    """Fit each on ``points`` designed rows and score it on all others; says on stderr what cannot be."""
    scores: list[Score] = []
    for fitted in fit_families(families, gpu, points, lambda why: _say(f"skipped: {why}")):
        found = score_fitted(fitted, gpu)
        if not found:
            _say(f"skipped: {fitted.family.title}: only {fitted.family.seconds.size} rows")
        for score in found:
            _say(f"{score.gpu} {fitted.family.title} | {score.part}: {_line(score)}")
        scores += found
    return scores


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def score_fitted(fitted: FittedFamily, gpu: GpuSpec) -> list[Score]:
    """Score a fitted kernel on the rows of its family that it has not seen.

    A module counts whole: its matrices, as they were predicted, with what is beside them.
    """
    kernel, family = fitted.kernel, fitted.family
    test = np.ones(family.seconds.size, dtype=bool)
    test[fitted.rows] = False
    if not test.any():
        return []
    shapes = take(family.shapes, test)
    guess = kernel.predict(shapes)
    beside = np.zeros(test.sum()) if family.beside_s is None else family.beside_s[test]
    truth, seconds, low, high = (
        part + beside for part in (family.seconds[test], guess.seconds, guess.low, guess.high)
    )
    formula = kernel.structure.seconds(kernel.values, shapes) + beside
    parts = {"all": np.ones(truth.size, dtype=bool)}
    if family.op == "generation_attention":
        seen = np.where(shapes["window"] > 0, np.minimum(shapes["ctx"], shapes["window"]), shapes["ctx"])
        kv = 2 * shapes["batch"] * shapes["kv_heads"] * seen * shapes["head_dim"] * shapes["kv_element_bytes"]
        if (shapes["window"] > 0).any():
            parts["full attention"] = shapes["window"] == 0
            parts["sliding window"] = shapes["window"] > 0
        parts["full attention, KV > 100 MB"] = (kv > LARGE_KV) & (shapes["window"] == 0)
    elif family.op == "context_attention" and (shapes["window"] > 0).any():
        parts["full attention"] = shapes["window"] == 0
        parts["sliding window"] = shapes["window"] > 0
    elif family.op == "gemm":
        parts["n, k >= 1024"] = (shapes["n"] >= LARGE_GEMM) & (shapes["k"] >= LARGE_GEMM)
    scores = []
    for part, rows in parts.items():
        if not rows.any():
            continue
        ratio = seconds[rows] / truth[rows]
        error = np.abs(ratio - 1.0)
        inside = (truth[rows] >= low[rows]) & (truth[rows] <= high[rows])
        scores.append(
            Score(
                gpu=gpu.name,
                op=family.op,
                labels=family.labels,
                version=family.version,
                part=part,
                trained=int(fitted.rows.size),
                tested=int(rows.sum()),
                median=float(np.median(error)),
                p90=float(np.quantile(error, 0.9)),
                bias=float(np.median(ratio) - 1.0),
                coverage=float(inside.mean()),
                half_width=float(np.median(np.log(high[rows] / seconds[rows]))),
                formula_median=float(np.median(np.abs(formula[rows] / truth[rows] - 1.0))),
            )
        )
    return scores


def score_tables(places: Sequence[str], points: int = POINTS, gpu: str | None = None) -> list[Score]:
    """Score every family of every table; the GPU is the one the tables name unless given."""
    measured = read_measurements(places)
    scores: list[Score] = []
    for device, group in groupby(measured.families, key=lambda family: family.device):
        scores += _score_gpu(list(group), load_gpu(gpu or device), points)
    return scores


def _score_gpu(families: Sequence[Family], spec: GpuSpec, points: int) -> list[Score]:
    hardware = hardware_of(spec)
    kept, doubts = believable(
        families, hardware.bandwidth_bytes_per_s, hardware.l2_bytes, dict(spec.peak_flops)
    )
    for note in doubts:
        _say(note)
    return score_families(kept, spec, points)


def _line(score: Score) -> str:
    return (
        f"n {score.tested:,}, median {score.median:.1%}, p90 {score.p90:.1%}, "
        f"band covers {score.coverage:.1%} at ±{np.expm1(score.half_width):.0%}"
    )


def report_text(scores: Sequence[Score], points: int) -> str:
    """The report as Markdown."""
    lines = [
        "# Accuracy of predicted kernel times",
        "",
        "Each family is one compiled kernel (op, source, number formats, head size). At most",
        f"{points} of its shapes, and at most half, fitted it, half of them at the edges of the range and",
        "half typical, without looking at any time; every other shape of the table is the test. Error is",
        "abs(predicted / measured - 1); bias is the median of predicted / measured - 1; the band aims at",
        f"{COVERAGE:.0%} of test shapes, its half width is the median one; *formula* is the median error of",
        "the physical formula before its smooth residual. Nothing was tuned per family; what was chosen",
        "while looking at test scores is the structure of the formulas, so these figures are slightly kinder",
        "than those of a GPU nobody has seen. Modules (attention over latents with its matrices) are scored",
        "whole: matrices as the kernels of gemm tables were predicted, and what was fitted beside them.",
        "",
        "The published figures use NVIDIA aiconfigurator's tables (Apache-2.0): warm, sequences of one",
        "length, mostly CUDA-graph replay (block-scaled fp8 multiplications carry tens of microseconds of",
        "launches). An engine's step adds ragged batches and gaps that the tables lack.",
        "",
    ]
    whole = [score for score in scores if score.part == "all"]
    if whole:
        tested = sum(score.tested for score in whole)
        pooled = sum(score.tested * score.coverage for score in whole) / tested
        within = sum(0.85 <= score.coverage <= 0.95 for score in whole)
        lines += [
            f"Over all {len(whole)} families and {tested:,} test shapes the bands cover {pooled:.1%};",
            f"in {within} of the families they cover between 85 % and 95 %.",
            *_beyond(whole),
            "",
        ]
    for op in dict.fromkeys(score.op for score in scores):
        lines += [f"## {op}", ""]
        header = "| GPU | kernel | part | fitted on | tested on | median | p90 | bias | band covers |"
        lines += [header + " half width | formula |", "| " + " | ".join(["---"] * 3 + ["---:"] * 8) + " |"]
        for score in (item for item in scores if item.op == op):
            cells = [
                score.gpu, " ".join([*score.labels.values(), f"({score.version})"]), score.part,
                f"{score.trained:,}",
                f"{score.tested:,}", f"{score.median:.1%}", f"{score.p90:.1%}", f"{score.bias:+.1%}",
                f"{score.coverage:.1%}", f"±{np.expm1(score.half_width):.0%}", f"{score.formula_median:.1%}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _beyond(whole: Sequence[Score]) -> list[str]:
    """The families whose bands are too narrow or too wide, by name."""
    lines = []
    for text, some in (
        ("Too narrow", [score for score in whole if score.coverage < 0.85]),
        ("Too wide", [score for score in whole if score.coverage > 0.95]),
    ):
        named = (
            f"{' '.join([score.op, *score.labels.values()])} on {score.gpu} ({score.coverage:.1%}"
            + (f" of {score.tested})" if score.tested < FEW else ")")
            for score in some
        )
        lines += [f"{text}: {'; '.join(named)}."] if some else []
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description="Held-out accuracy of fitted kernel times.")
    parser.add_argument("tables", nargs="+", help="Parquet or CSV tables, or directories of them")
    parser.add_argument("-o", "--output", help="directory for report.md and results.json")
    parser.add_argument("--points", type=int, default=POINTS, help="most shapes a family is fitted on")
    parser.add_argument("--gpu", help="GPU spec, when it is not the one the tables name")
    options = parser.parse_args(arguments)
    try:
        scores = score_tables(options.tables, options.points, options.gpu)
        unseen, left_out = score_unseen_tables(options.tables, options.gpu)
        gpus = dict.fromkeys(score.gpu for score in unseen)
        steps = [score for gpu in gpus if gpu in profile_names() for score in score_steps(gpu)]
    except KvplanError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_code
    except OSError as exc:
        sys.stderr.write(f"error: {exc.filename or 'tables'}: {exc.strerror or exc}\n")
        return 1
    parts = (report_text(scores, options.points), unseen_text(unseen, left_out, steps))
    text = "\n".join(part for part in parts if part)
    sys.stdout.write(text)
    if options.output:
        directory = Path(options.output)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.md").write_text(text, encoding="utf-8")
        body = {
            "schema": "kvplan.accuracy/1",
            "points": options.points,
            "scores": [asdict(s) for s in scores],
            "unseen_gpu": [asdict(s) for s in unseen],
            "unseen_gpu_left_out": left_out,
            "unseen_gpu_steps": [asdict(s) for s in steps],
        }
        (directory / "results.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
