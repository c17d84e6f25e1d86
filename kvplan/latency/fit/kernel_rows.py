"""From rows of a measurement file to what is fitted: shapes and times by kernel, hold-out kept apart.

What a row is for follows from its stage. ``grid``, ``formats``, ``mla``, ``window`` and pages of the usual
size are fitted; ``holdout`` only scores; other page sizes and ragged lengths become factors on a fitted
kernel, and so do several guessed tokens of a sequence (``verify``), against as many more query heads;
``drift`` tells whether the machine stayed the same; ``staged`` kernels are not the ones that run, and
``warm`` ones read a cache that already lay in the L2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kvplan.latency.fit.kernel_measurements import HOLDOUT, Ceiling, Point
from kvplan.latency.fit.solve import Array

USUAL_PAGE = 64
"""Tokens of a page in the calibration grid."""
_LEFT_OUT = ("staged", "drift", "peer", "warm")
_VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Rows:
    """Timed shapes: columns as the structure of the kernel wants them, and seconds."""

    shapes: dict[str, Array]
    seconds: Array

    def __len__(self) -> int:
        return int(self.seconds.size)

    def at(self, rows: Sequence[int]) -> Rows:
        """Some of the rows."""
        index = np.asarray(rows, dtype=np.intp)
        return Rows({name: column[index] for name, column in self.shapes.items()}, self.seconds[index])


@dataclass(frozen=True, slots=True)
class KernelRows:
    """The rows of one kernel.

    Args:
        op: generation_attention, context_attention or mla_generation, as in other measurements.
        format: the kernels' name of the cache format.
        fit: what may be fitted.
        held: what was registered as held out.
        pages: rows of other page sizes, by page size (the usual one included).
        ragged: rows of unequal lengths, at their mean context.
        verify: rows of several tokens of a sequence, by how many; they count as query heads.
        split_rule: (programs per multiprocessor, least tokens of a split) that explain the splits chosen.
    """

    op: str
    format: str
    fit: Rows
    held: Rows
    pages: dict[int, Rows]
    ragged: Rows
    verify: dict[int, Rows]
    split_rule: tuple[int, int] | None

    @property
    def title(self) -> str:
        """Op and format."""
        return f"{self.op} {self.format}"


_OPS = {"decode": "generation_attention", "append": "context_attention", "mla": "mla_generation"}


def kernel_rows(points: Iterable[Point], multiprocessors: int) -> list[KernelRows]:
    """Group attention rows by kernel, in the order of op and first appearance."""
    groups: dict[tuple[str, str], list[Point]] = {}
    guessed = []
    for point in points:
        if point.op in _OPS and point.stage not in _LEFT_OUT:
            if point.stage == _VERIFY:
                guessed.append(point)
            else:
                groups.setdefault((_OPS[point.op], point.format), []).append(point)
    for point in guessed:
        # They say something beside the kernel that decodes one token: without it nothing.
        decoding = (_OPS["mla" if point.op == "mla" else "decode"], point.format)
        if decoding in groups and point.new_tokens > 1:
            groups[decoding].append(point)
    return [
        _one(op, name, rows, multiprocessors)
        for (op, name), rows in sorted(groups.items(), key=lambda item: list(_OPS.values()).index(item[0][0]))
    ]


def _one(op: str, name: str, points: list[Point], multiprocessors: int) -> KernelRows:
    columns = _prefill_columns if op == "context_attention" else _decode_columns
    held = [p for p in points if p.stage == HOLDOUT]
    guessed = [p for p in points if p.stage == _VERIFY]
    rest = [p for p in points if p.stage not in (HOLDOUT, _VERIFY)]
    plain = [p for p in rest if not p.ragged]
    paged = [p for p in plain if p.stage == "page"]
    ragged = _ragged_rows([p for p in rest if p.ragged], plain, columns)
    sizes = sorted({p.block_size for p in paged})
    usual = [p for p in plain if p.block_size == USUAL_PAGE] or plain
    return KernelRows(
        op, name, _rows(usual, columns), _rows(held, columns),
        {size: _rows([p for p in paged if p.block_size == size], columns) for size in sizes},
        ragged,
        {
            count: _rows([p for p in guessed if p.new_tokens == count], _guessed_columns)
            for count in sorted({p.new_tokens for p in guessed})
        },
        _split_rule(usual, multiprocessors) if op == "generation_attention" else None,
    )  # fmt: skip


_Columns = Callable[[Point], dict[str, float]]


def _rows(points: list[Point], columns: _Columns) -> Rows:
    table = [columns(p) for p in points]
    names = table[0].keys() if table else ()
    return Rows(
        {name: np.array([row[name] for row in table], dtype=np.float64) for name in names},
        np.array([p.median_s for p in points], dtype=np.float64),
    )


def _decode_columns(p: Point) -> dict[str, float]:
    mla = p.op == "mla"
    # One latent of 576 elements is K and V at once: 2 * D * e counts it once with D = 288.
    return {
        "batch": p.batch, "ctx": p.context, "window": p.window, "q_heads": p.hq, "kv_heads": p.hkv,
        "head_dim": p.d / 2 if mla else p.d, "kv_element_bytes": p.element_bytes,
    }  # fmt: skip


def _guessed_columns(p: Point) -> dict[str, float]:
    return _decode_columns(p) | {"q_heads": p.hq * p.new_tokens}


def _prefill_columns(p: Point) -> dict[str, float]:
    return {
        "batch": p.batch, "new": p.new_tokens, "before": p.context - p.new_tokens, "window": p.window,
        "q_heads": p.hq, "kv_heads": p.hkv, "head_dim": p.d, "kv_element_bytes": p.element_bytes,
    }  # fmt: skip


def _ragged_rows(ragged: list[Point], plain: list[Point], columns: _Columns) -> Rows:
    """Rows of unequal lengths at their true mean context, which their bytes of cache tell."""
    element = {(p.hkv, p.d): p.element_bytes for p in plain}
    usable = [p for p in ragged if (p.hkv, p.d) in element and p.op == "decode" and not p.window]
    table = []
    for p in usable:
        one = element[p.hkv, p.d]
        tokens = p.kv_bytes / (2 * p.hkv * p.d * one)
        table.append(columns(p) | {"ctx": max(tokens / p.batch, 1.0), "kv_element_bytes": one})
    names = table[0].keys() if table else ()
    return Rows(
        {name: np.array([row[name] for row in table], dtype=np.float64) for name in names},
        np.array([p.median_s for p in usable], dtype=np.float64),
    )


FEW_SPLITS = 8
"""Splits below which a launcher may choose more than fit at once, to fill the GPU evenly."""


def _split_rule(points: list[Point], multiprocessors: int) -> tuple[int, int] | None:
    """The rule by which the kernel chose its splits, if one explains at least 95 % of the rows it decides.

    As many splits as fit at once, each of a least number of tokens and none empty. Where few fit it decides
    nothing. How many programs a multiprocessor holds depends on the width of heads: the commonest decides.
    """
    rows = [p for p in points if p.splits and not p.window and p.hq // p.hkv <= 8]
    widths = Counter(p.d for p in rows).most_common(1)
    rows = [p for p in rows if p.d == widths[0][0]]
    best: tuple[int, tuple[int, int]] | None = None
    for each in range(1, 9):
        for least in (32, 64, 128, 256, 512, 1024):
            found, decided = 0, 0
            for p in rows:
                fitting = max(1, multiprocessors * each // (p.batch * p.hkv))
                splits = min(fitting, max(1, min(128, p.context // least)))
                if fitting < FEW_SPLITS and splits == fitting:
                    continue
                shares = -(-p.context // least)
                splits = -(-shares // -(-shares // splits))
                decided += 1
                # A residual ring takes a split of its own.
                found += p.splits in (splits, splits + 1)
            if found >= 0.95 * decided and (best is None or found > best[0]):
                best = (found, (each, least))
    return best[1] if best is not None and best[0] else None


def drift(points: Iterable[Point]) -> list[float]:
    """Time at the end over time at the start of what was timed at both, sorted."""
    pairs: dict[str, dict[int, float]] = {}
    for p in points:
        if p.stage == "drift":
            pairs.setdefault(p.key.rpartition("/")[0], {})[p.repeat] = p.median_s
    return sorted(times[1] / times[0] for times in pairs.values() if {0, 1} <= times.keys())


def matmul_rows(ceilings: Iterable[Ceiling], dtype: str) -> Rows:
    """Matrix products ``(m, k) x (k, n)`` of one dtype, as the GEMM structure wants them."""
    rows = [row for row in ceilings if row.key.startswith(f"matmul_{dtype}/")]
    named = {"m": "tokens", "n": "features_out", "k": "features_in"}
    return Rows(
        {
            column: np.array([getattr(row, name) for row in rows], dtype=np.float64)
            for column, name in named.items()
        },
        np.array([row.median_s for row in rows], dtype=np.float64),
    )
