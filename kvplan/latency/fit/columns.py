"""Columns of collectors' tables by kernel: which it needs, which tell kernels apart, what shapes they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kvplan.errors import DataError
from kvplan.latency.fit.distributions import BALANCED, dealt, known
from kvplan.latency.fit.solve import Array
from kvplan.latency.table_formats import ELEMENT_BYTES, canonical, multiplication

if TYPE_CHECKING:
    import pandas as pd

NEEDED = {
    "generation_attention": ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim"),
    "context_attention": ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"),
    "gemm": ("m", "n", "k", "gemm_dtype"),
    "mla_generation": ("batch_size", "isl", "step", "num_heads"),
    "mla_context": ("batch_size", "isl", "num_heads"),
    "all_reduce": ("num_gpus", "message_size"),
    "moe": ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_dtype"),
}
_NAMED_BY = ("kernel_source", "kv_cache_dtype", "gemm_dtype", "moe_dtype", "nccl_dtype", "head_dim")
_COMPUTE = ("attn_dtype", "mla_dtype")
"""What attention computes in names a kernel where it is not 16 bits wide."""
TEXTS = (
    "op_name", "device", "framework", "version", "kernel_source", "kv_cache_dtype", "gemm_dtype",
    "moe_dtype", "nccl_dtype", "allreduce_dtype", "distribution", *_COMPUTE,
)  # fmt: skip
UNNAMED, WIDE = "unknown", "16 bits"
"""Labels of rows that say nothing, and of attention that computes in 16 bits, which is not named."""


def labels_of(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """What tells kernels of one op apart: a text for each row, by label.

    A column that only some rows have still tells them from the others; one that none has is of another op.
    """
    found = {}
    for name in _NAMED_BY:
        if name in rows and rows[name].notna().any():
            found[name] = rows[name].map(_text)
    for name in _COMPUTE:
        if name in rows:
            texts = rows[name].map(_text)
            wide = texts.map(canonical).isin(("bfloat16", UNNAMED))
            if not wide.all():
                found[name] = texts.where(~wide, WIDE)
    return found


def unknown_distributions(op: str, rows: pd.DataFrame) -> tuple[str, pd.Series | None]:
    """(column, per row whether it deals tokens to experts in a way nobody knows) of an op."""
    if op != "moe" or "distribution" not in rows:
        return "distribution", None
    return "distribution", rows["distribution"].map(lambda text: not known(_text(text)))


def unknown_formats(op: str, rows: pd.DataFrame) -> tuple[str, pd.Series | None]:
    """(column, per row whether its number format is one nobody knows the width of) of an op."""
    if op in ("gemm", "moe"):
        name = f"{op}_dtype"
        return name, rows[name].map(lambda text: multiplication(_text(text)) is None)
    name = _message_dtype(rows) if op == "all_reduce" else "kv_cache_dtype"
    if name not in rows or not rows[name].notna().any():
        return name, None
    return name, rows[name].map(lambda value: canonical(_text(value)) not in ELEMENT_BYTES)


def shapes_of(op: str, rows: pd.DataFrame) -> dict[str, Array]:
    """The shapes of rows of one op, as its structure wants them.

    Raises:
        DataError: a column is missing or has values that are no sizes.
    """
    shapes = _SHAPES[op](rows)
    for name, column in shapes.items():
        if name not in _MAY_BE_ZERO and not np.all(column > 0):
            raise DataError(f"column {name!r} of {op!r} has values that are no sizes")
    return shapes


_MAY_BE_ZERO = ("window", "before")


def _text(value: object) -> str:
    """A label's text: whole numbers without a fraction, nothing as ``unknown``."""
    if value is None or value != value:
        return UNNAMED
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _column(rows: pd.DataFrame, name: str, *, least: float = 1.0, default: float | None = None) -> Array:
    import pandas as pd

    if name not in rows:
        assert default is not None
        return np.full(len(rows), default)
    values = pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64)
    if default is not None:
        values = np.where(np.isnan(values), default, values)
    if not np.all(np.isfinite(values)) or np.any(values < least):
        bad = rows[name][~(np.isfinite(values) & (values >= least))]
        raise DataError(f"column {name!r} has values that are no sizes, the first is {bad.iloc[0]}")
    return values


def _element(rows: pd.DataFrame) -> Array:
    names = rows.get("kv_cache_dtype")
    if names is None or names.isna().all():
        return np.full(len(rows), 2.0)
    return np.array([ELEMENT_BYTES[canonical(str(name))] for name in names])


def _windows(rows: pd.DataFrame) -> Array:
    """Tokens of the window; tables say "none" with 0, -1 or nothing."""
    return np.maximum(_column(rows, "window_size", least=-1.0, default=0.0), 0.0)


def _context(rows: pd.DataFrame) -> Array:
    return np.asarray(_column(rows, "isl", least=0.0) + _column(rows, "step", least=0.0))


def _heads(rows: pd.DataFrame) -> dict[str, Array]:
    return {
        "q_heads": _column(rows, "num_heads"),
        "kv_heads": _column(rows, "num_key_value_heads"),
        "head_dim": _column(rows, "head_dim"),
        "kv_element_bytes": _element(rows),
    }


def _decode(rows: pd.DataFrame) -> dict[str, Array]:
    sizes = {"batch": _column(rows, "batch_size"), "ctx": _context(rows), "window": _windows(rows)}
    return sizes | _heads(rows)


def _chunks(rows: pd.DataFrame) -> dict[str, Array]:
    return {
        "batch": _column(rows, "batch_size"),
        "new": _column(rows, "isl"),
        "before": _column(rows, "step", least=0.0, default=0.0),
    }


def _prefill(rows: pd.DataFrame) -> dict[str, Array]:
    return _chunks(rows) | {"window": _windows(rows)} | _heads(rows)


def _mla_decode(rows: pd.DataFrame) -> dict[str, Array]:
    ones = np.ones(len(rows))
    return {
        "batch": _column(rows, "batch_size"),
        "ctx": _context(rows),
        "window": 0.0 * ones,
        "q_heads": _column(rows, "num_heads"),
        "kv_heads": ones,
        # K and V are one latent of 512 + 64 elements: 2 * D * e counts it once with D = 288.
        "head_dim": 288.0 * ones,
        "kv_element_bytes": _element(rows),
    }


def _mla_prefill(rows: pd.DataFrame) -> dict[str, Array]:
    ones = np.ones(len(rows))
    heads = _column(rows, "num_heads")
    return _chunks(rows) | {
        "window": 0.0 * ones,
        "q_heads": heads,
        "kv_heads": heads,
        # Expanded heads: 192 for scores, 128 for values, 160 on average.
        "head_dim": 160.0 * ones,
        "kv_element_bytes": _element(rows),
    }


def _gemm(rows: pd.DataFrame) -> dict[str, Array]:
    return {name: _column(rows, name) for name in ("m", "n", "k")}


def _experts(rows: pd.DataFrame) -> dict[str, Array]:
    """Of the timed rank: what its distribution of tokens gives it, and its share of each expert."""
    tokens, total, chosen = (_column(rows, name) for name in ("num_tokens", "num_experts", "topk"))
    ranks, shares = _column(rows, "moe_ep_size", default=1.0), _column(rows, "moe_tp_size", default=1.0)
    if np.any(chosen > total) or np.any(ranks > total):
        raise DataError("tokens choose more experts than there are, or more ranks hold them")
    names = [BALANCED] * len(rows) if "distribution" not in rows else rows["distribution"].map(_text).tolist()
    cases = list(zip(names, tokens.tolist(), total.tolist(), chosen.tolist(), ranks.tolist(), strict=True))
    counts = {
        case: dealt(case[0], case[1], int(case[2]), int(case[3]), int(case[4]))
        for case in dict.fromkeys(cases)
    }
    return {
        "assignments": np.array([counts[case][1] for case in cases]),
        "touched": np.array([counts[case][0] for case in cases]),
        "held": np.ceil(total / ranks),
        "hidden": _column(rows, "hidden_size"),
        "inter": _column(rows, "inter_size") / shares,
    }


def _message_dtype(rows: pd.DataFrame) -> str:
    names = [name for name in ("allreduce_dtype", "nccl_dtype") if name in rows and rows[name].notna().any()]
    return names[0] if names else "allreduce_dtype"


def _all_reduce(rows: pd.DataFrame) -> dict[str, Array]:
    """``message_size`` counts elements of the dtype column."""
    name = _message_dtype(rows)
    if name not in rows:
        raise DataError(f"rows of 'all_reduce' lack the column {name}")
    element = np.array([ELEMENT_BYTES[canonical(str(value))] for value in rows[name]])
    return {"ranks": _column(rows, "num_gpus"), "bytes": _column(rows, "message_size") * element}


_SHAPES: dict[str, Callable[[pd.DataFrame], dict[str, Array]]] = {
    "generation_attention": _decode,
    "context_attention": _prefill,
    "mla_generation": _mla_decode,
    "mla_context": _mla_prefill,
    "gemm": _gemm,
    "all_reduce": _all_reduce,
    "moe": _experts,
}
