"""How well a GPU is predicted that nobody measured: constants of one GPU's tables on the tables of another.

``fit_efficiency`` learns ``kvplan.latency.efficiency`` from the tables of a GPU or of several (their 16-bit
kernels, and the fp8 multiplication where one has it). ``score_unseen`` predicts every table of a GPU with the
constants of the other generation and the datasheet alone: leave one GPU out. Families that were timed with
the launches of eager code (block-scaled fp8), or in formats without constants, are left out and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from kvplan.latency.datasheet import Datasheet
from kvplan.latency.efficiency import (
    AMPERE,
    BANDS,
    HOPPER,
    DecodeEfficiency,
    Efficiency,
    GemmEfficiency,
    NarrowEfficiency,
    Part,
    PrefillEfficiency,
)
from kvplan.latency.fit.solve import Array, Parameter, least_squares
from kvplan.latency.fit.tables import Family, read_measurements
from kvplan.latency.pairs import chunk_pairs, chunk_span
from kvplan.latency.table_formats import canonical
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.catalog import load_gpu
from kvplan.specs.schema import GpuSpec

ROWS = 1_000
"""Rows a constant's kernel is fitted on."""
WINDOW_TILE = 64
"""Keys beyond a window that decode reads, because tiles are read whole."""
OTHER = {"ampere": HOPPER, "hopper": AMPERE}
"""Whose constants predict a generation that is left out."""
KIND = {
    "gemm": "gemm", "generation_attention": "decode", "mla_generation": "decode",
    "context_attention": "prefill", "mla_context": "prefill",
}  # fmt: skip

_SHARE, _STREAMED = (0.05, 1.0), (0.05, 0.93)
"""Of peaks, and of the bandwidth: no kernel was seen to read memory faster."""
_GEMM = (
    ("floor_cycles", 5e3, 2e2, 1e5), ("compute", 0.75, *_SHARE), ("memory", 0.85, *_STREAMED),
    ("tile_cycles", 2e3, 2e1, 1e5), ("split_cycles", 3e3, 2e1, 1e5), ("sharpness", 2.5, 1.0, 8.0),
)  # fmt: skip
_UNKNOWNS: dict[type[Any], tuple[tuple[str, float, float, float], ...]] = {
    GemmEfficiency: _GEMM,
    NarrowEfficiency: (*_GEMM, ("quantise", 0.5, *_STREAMED)),
    DecodeEfficiency: (
        ("floor_cycles", 1.5e4, 1e3, 2e5), ("memory", 0.85, *_STREAMED), ("compute", 0.4, *_SHARE),
        ("token_cycles", 1e1, 1e-1, 2e3), ("unit_cycles", 4e3, 2e1, 2e5), ("sharpness", 2.5, 1.0, 8.0),
    ),
    PrefillEfficiency: (
        ("floor_s", 8e-6, 5e-7, 1e-4), ("compute", 0.6, *_SHARE), ("memory", 0.6, *_STREAMED),
        ("tile_s", 3e-6, 1e-8, 1e-4), ("token_s", 2e-8, 1e-10, 1e-6), ("sharpness", 2.5, 1.0, 8.0),
    ),
}  # fmt: skip


def fit_efficiency(tables: Sequence[tuple[GpuSpec, Sequence[Family]]], name: str) -> Efficiency:
    """The constants of GPUs' tables together, called ``name``.

    At most ``ROWS`` rows of each kind of kernel and GPU: each GPU counts alike. Without a timed fp8
    multiplication ``narrow`` is what 16-bit ones reach, and quantising what it does on Hopper; kinds without
    any table keep Hopper's constants.
    """
    base = replace(HOPPER, name=name)

    def fit(kind: type[Part], field: str, op: str, dtype: str) -> Part | None:
        def sheet(gpu: GpuSpec, part: Part) -> Datasheet:
            given: Any = {field: part}
            return Datasheet(gpu, replace(base, **given))

        return _fit(kind, [(gpu, _chosen(families, op, dtype)) for gpu, families in tables], sheet)

    gemm = fit(GemmEfficiency, "gemm", "gemm", "bfloat16") or base.gemm
    narrow = fit(NarrowEfficiency, "narrow", "gemm", "fp8")
    decode = fit(DecodeEfficiency, "decode", "generation_attention", "bfloat16")
    prefill = fit(PrefillEfficiency, "prefill", "context_attention", "bfloat16")
    if narrow is None:
        narrow = NarrowEfficiency(**asdict(gemm), quantise=HOPPER.narrow.quantise)
    return Efficiency(name, gemm, narrow, decode or base.decode, prefill or base.prefill)


def _chosen(families: Sequence[Family], op: str, dtype: str) -> list[Family]:
    """Families of one op and format, as engines run them: heads of up to 256 elements."""
    return [
        family for family in families
        if family.op == op and dtype in (_format(family, "gemm_dtype"), _format(family, "kv_cache_dtype"))
        and int(family.labels.get("head_dim", 0)) <= 256
    ]  # fmt: skip


def _format(family: Family, label: str) -> str:
    return canonical(family.labels.get(label, ""))


def _fit(
    kind: type[Part],
    tables: Sequence[tuple[GpuSpec, Sequence[Family]]],
    sheet: Callable[[GpuSpec, Part], Datasheet],
) -> Part | None:
    """Constants of one kind of kernel; None without a family of it."""
    rows: list[tuple[int, Family, dict[str, float]]] = []
    seconds = []
    for place, (_, families) in enumerate(tables):
        rng = np.random.default_rng(0)
        for family in families:
            count = min(family.seconds.size, ROWS // len(families))
            chosen = set(rng.permutation(family.seconds.size)[:count].tolist())
            rows += [(place, family, row) for index, row in enumerate(_rows(family)) if index in chosen]
            seconds += [family.seconds[index] for index in sorted(chosen)]
    if not rows:
        return None

    def model(values: Array) -> Array:
        part = kind(*map(float, values))
        sheets = [sheet(gpu, part) for gpu, _ in tables]
        return np.array([seconds_of(sheets[place], family, row) for place, family, row in rows])

    unknowns = [Parameter(*item) for item in _UNKNOWNS[kind]]
    found = least_squares(model, np.array(seconds), unknowns, restarts=1, iterations=40).values
    return kind(*(float(f"{value:.3g}") for value in found))


def _rows(family: Family) -> Iterator[dict[str, float]]:
    names = list(family.shapes)
    for values in zip(*(column.tolist() for column in family.shapes.values()), strict=True):
        yield dict(zip(names, values, strict=True))


def seconds_of(sheet: Datasheet, family: Family, row: dict[str, float]) -> float:
    """What a datasheet says of one row of a table."""
    if family.op == "gemm":
        form = weight_format("bf16" if canonical(family.labels["gemm_dtype"]) == "bfloat16" else "fp8")
        size = row["n"] * row["k"] * form.bits / 8
        return sheet.gemm(row["m"], int(row["n"]), int(row["k"]), size, form)
    dim, element, batch, window = row["head_dim"], row["kv_element_bytes"], row["batch"], row["window"]
    pair_flops = query_bytes = 4.0 * row["q_heads"] * dim
    token_bytes = 2.0 * row["kv_heads"] * dim * element
    if "ctx" in row:
        seen = min(row["ctx"], window + WINDOW_TILE) if window else row["ctx"]
        layer = sheet.decode(row["kv_heads"], token_bytes, pair_flops, 2.0 * dim, query_bytes)
        return layer(batch, seen)
    before, new, limit = int(row["before"]), int(row["new"]), int(window) or None
    keys, span = chunk_pairs(before, new, limit) / new, chunk_span(before, new, limit)
    chunk = sheet.prefill(pair_flops, token_bytes, query_bytes)
    return sheet.efficiency.prefill.floor_s + chunk(new, keys, span, batch)


def kind_of(family: Family) -> str:
    """Which of ``BANDS`` applies."""
    if family.op == "mla_context":
        return "mla"
    return "narrow" if family.labels.get("gemm_dtype", "").startswith("fp8") else KIND[family.op]


@dataclass(frozen=True, slots=True)
class UnseenScore:
    """Errors |predicted / measured - 1| of one family, predicted with the constants of ``donor``."""

    gpu: str
    op: str
    kind: str
    labels: dict[str, str]
    version: str
    donor: str
    tested: int
    median: float
    p90: float
    bias: float
    coverage: float
    half_width: float


def score_unseen(families: Sequence[Family], gpu: GpuSpec) -> tuple[list[UnseenScore], list[str]]:
    """(scores of every family as an unseen GPU's, what was left out): see the module."""
    scores, left_out = [], []
    other = OTHER.get(gpu.architecture or "")
    for family in families:
        if other is None or family.op not in KIND:
            continue
        if _format(family, "gemm_dtype") not in ("", "bfloat16", "fp8"):
            left_out.append(f"{family.title} on {gpu.name}")
            continue
        sheet = Datasheet(gpu, other)
        ratio = np.array([seconds_of(sheet, family, row) for row in _rows(family)]) / family.seconds
        band, error = BANDS[kind_of(family)], np.abs(ratio - 1.0)
        scores.append(
            UnseenScore(
                gpu.name, family.op, kind_of(family), family.labels, family.version, other.name,
                int(ratio.size),
                float(np.median(error)), float(np.quantile(error, 0.9)), float(np.median(ratio) - 1.0),
                float(np.mean(np.abs(np.log(ratio)) <= band)), band,
            )
        )  # fmt: skip
    return scores, left_out


def score_unseen_tables(places: Sequence[str], gpu: str | None = None) -> tuple[list[UnseenScore], list[str]]:
    """``score_unseen`` of every table; the GPU is the one the tables name unless given."""
    scores: list[UnseenScore] = []
    left_out: list[str] = []
    for device, group in groupby(read_measurements(places).families, key=lambda family: family.device):
        found, left = score_unseen(list(group), load_gpu(gpu or device))
        scores += found
        left_out += left
    return scores, left_out
