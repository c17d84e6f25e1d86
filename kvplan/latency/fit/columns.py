"""Columns of collectors' tables by kernel: which it needs, which tell kernels apart, what shapes they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kvplan.errors import DataError
from kvplan.latency.attention_shapes import ABSORBED_DIM, EXPANDED_DIM
from kvplan.latency.fit.distributions import BALANCED, dealt, known
from kvplan.latency.fit.paired_rows import PHASES
from kvplan.latency.fit.solve import Array
from kvplan.latency.routing import Routing, sends_to_experts
from kvplan.latency.table_formats import ELEMENT_BYTES, canonical, multiplication

if TYPE_CHECKING:
    import pandas as pd

NEEDED = {
    "generation_attention": ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim"),
    "context_attention": ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"),
    "gemm": ("m", "n", "k", "gemm_dtype"),
    "mla_generation": ("batch_size", "isl", "step"),
    "mla_context": ("batch_size", "isl"),
    "mla_generation_module": ("batch_size", "isl", "step", "num_heads", "gemm_type", "model"),
    "mla_context_module": ("batch_size", "isl", "num_heads", "gemm_type", "model"),
    "all_reduce": ("num_gpus", "message_size"),
    "all_gather": ("num_gpus", "message_size"),
    "reduce_scatter": ("num_gpus", "message_size"),
    "moe_a2a": ("comm_backend", "phase", "ep_size", "hidden_size", "topk", "num_experts", "num_tokens"),
    "moe": ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_dtype"),
}
_NAMED_BY = ("kernel_source", "kv_cache_dtype", "gemm_dtype", "moe_dtype", "nccl_dtype", "head_dim")
MODULES = ("mla_generation_module", "mla_context_module")
"""Attention over latents timed with the matrices of its layer (``kvplan.latency.fit.module``)."""
_OF_OP = {
    **dict.fromkeys(MODULES, ("gemm_type", "model")),
    "moe_a2a": ("comm_backend", "phase", "comm_dtype", "node_num"),
}
"""What else tells kernels of one op apart."""
LARGEST = 1e15
"""No size of a shape is larger; sums of squares of such are still numbers."""
COMPUTE = ("attn_dtype", "mla_dtype")
"""What attention computes in names a kernel where it is not 16 bits wide."""
LATENT_HEADS = 128.0
"""Query heads of DeepSeek's V2 and V3, which alone first tables of attention over latents are of."""
TEXTS = (
    "op_name", "device", "framework", "version", "kernel_source", "kv_cache_dtype", "gemm_dtype",
    "moe_dtype", "nccl_dtype", "allreduce_dtype", "distribution", "gemm_type", "model",
    "comm_backend", "phase", "comm_dtype", *COMPUTE,
)  # fmt: skip
UNNAMED, WIDE = "unknown", "16 bits"
"""Labels of rows that say nothing, and of attention that computes in 16 bits, which is not named."""


def labels_of(op: str, rows: pd.DataFrame) -> dict[str, pd.Series]:
    """What tells kernels of an op apart: a text for each row, by label.

    A column that only some rows have still tells them from the others; one that none has is of another op.
    """
    found = {}
    for name in (*_NAMED_BY, *_OF_OP.get(op, ())):
        if name in rows and rows[name].notna().any():
            found[name] = rows[name].map(_text)
    for name in COMPUTE:
        if name in rows:
            texts = rows[name].map(_text)
            wide = texts.map(canonical).isin(("bfloat16", UNNAMED))
            if not wide.all():
                found[name] = texts.where(~wide, WIDE)
    return found


def unknown_values(op: str, rows: pd.DataFrame) -> dict[str, pd.Series]:
    """By column of an op, per row, whether it says something nobody knows.

    Those are number formats whose width is not known, ways to deal tokens to experts, and what tells a kernel
    from others: a module's model, a dispatch kernel's backend and direction.
    """
    found: dict[str, pd.Series] = {}
    matrix = {"gemm": "gemm_dtype", "moe": "moe_dtype"}.get(op, "gemm_type" if op in MODULES else None)
    if matrix is not None:
        found[matrix] = rows[matrix].map(lambda text: multiplication(_text(text)) is None)
    if op not in ("gemm", "moe", "moe_a2a"):
        name = _message_dtype(rows) if op in COLLECTIVES else "kv_cache_dtype"
        # Attention whose arithmetic has a format of weights (fp8_block) was timed with its layer's matrices.
        for column in (name, *COMPUTE):
            if column in rows and rows[column].notna().any():
                odd = rows[column].map(lambda value: canonical(_text(value)) not in ELEMENT_BYTES)
                found[column] = odd & rows[column].notna() if column in COMPUTE else odd
    if op in MODULES:
        found["model"] = rows["model"].isna()
    if op == "moe_a2a":
        found["comm_backend"] = rows["comm_backend"].isna()
        found["phase"] = ~rows["phase"].map(_text).isin(PHASES)
    if op == "moe" and "distribution" in rows:
        found["distribution"] = rows["distribution"].map(lambda text: not known(_text(text)))
    return found


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


COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")
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
        if default is None:
            raise DataError(f"the column {name!r} is missing")
        return np.full(len(rows), default)
    values = pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64)
    if default is not None:
        values = np.where(np.isnan(values), default, values)
    good = (values >= least) & (values <= LARGEST)
    if not np.all(good):
        bad = rows[name][~good]
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


def _latent_heads(rows: pd.DataFrame) -> Array:
    """Query heads of the timed rank; tables that only say how many ranks share them are of one model."""
    if "num_heads" in rows or "tp_size" not in rows:
        return _column(rows, "num_heads")
    return np.asarray(LATENT_HEADS / _column(rows, "tp_size"))


def _mla_decode(rows: pd.DataFrame) -> dict[str, Array]:
    ones = np.ones(len(rows))
    return {
        "batch": _column(rows, "batch_size"),
        "ctx": _context(rows),
        "window": 0.0 * ones,
        "q_heads": _latent_heads(rows),
        "kv_heads": ones,
        # K and V are one latent of 512 + 64 elements: 2 * D * e counts it once with D = 288.
        "head_dim": 288.0 * ones,
        "kv_element_bytes": _element(rows),
    }


def _mla_prefill(rows: pd.DataFrame) -> dict[str, Array]:
    ones = np.ones(len(rows))
    heads = _latent_heads(rows)
    return _chunks(rows) | {
        "window": 0.0 * ones,
        "q_heads": heads,
        "kv_heads": heads,
        # Expanded heads: 192 for scores, 128 for values, in 16 bits whatever the cache.
        "head_dim": EXPANDED_DIM * ones,
        "kv_element_bytes": 2.0 * ones,
    }


def _module_prefill(rows: pd.DataFrame) -> dict[str, Array]:
    """vLLM's backends called after MLA read latents as all heads' one K and V; others expand them to heads.

    Other engines expand the latents of a prompt whatever their kernels are called.
    """
    expanded = _mla_prefill(rows)
    names = rows.get("kernel_source")
    if names is None:
        return expanded
    absorbed = names.map(_text).str.upper().str.contains("MLA").to_numpy(dtype=bool)
    if "framework" in rows:
        absorbed = absorbed & rows["framework"].map(_text).str.lower().isin(("vllm", UNNAMED)).to_numpy(
            dtype=bool
        )
    return expanded | {
        "kv_heads": np.where(absorbed, 1.0, expanded["kv_heads"]),
        "head_dim": np.where(absorbed, ABSORBED_DIM, expanded["head_dim"]),
        "kv_element_bytes": np.where(absorbed, _element(rows), expanded["kv_element_bytes"]),
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


def _collective(rows: pd.DataFrame) -> dict[str, Array]:
    """``message_size`` counts elements of the dtype column."""
    name = _message_dtype(rows)
    if name not in rows:
        raise DataError(f"rows of a collective lack the column {name}")
    element = np.array([ELEMENT_BYTES[canonical(str(value))] for value in rows[name]])
    return {"ranks": _column(rows, "num_gpus"), "bytes": _column(rows, "message_size") * element}


def _dispatch(rows: pd.DataFrame) -> dict[str, Array]:
    """Low latency sends a token to each of its experts, high throughput once to each of their ranks."""
    names = ("ep_size", "num_experts", "topk", "hidden_size", "num_tokens")
    ranks, experts, chosen, hidden, tokens = (_column(rows, name) for name in names)
    if np.any(chosen > experts) or np.any(ranks > experts) or np.any(ranks < 2):
        raise DataError("tokens choose more experts than there are, or no two ranks hold them")
    cases = list(zip(experts.tolist(), chosen.tolist(), ranks.tolist(), strict=True))
    each = {
        case: (case[1], Routing(int(case[0]), int(case[1]), int(case[2])).ranks_per_token())
        for case in dict.fromkeys(cases)
    }
    direct = rows["comm_backend"].map(_text).map(sends_to_experts).to_numpy(dtype=bool)
    sent = [each[case][0 if plain else 1] for case, plain in zip(cases, direct.tolist(), strict=True)]
    return {
        "ranks": ranks, "tokens": tokens, "row_bytes": 2.0 * hidden,
        "copies": np.array(sent) * (1.0 - 1.0 / ranks),
    }  # fmt: skip


_SHAPES: dict[str, Callable[[pd.DataFrame], dict[str, Array]]] = {
    "generation_attention": _decode,
    "context_attention": _prefill,
    "mla_generation": _mla_decode,
    "mla_context": _mla_prefill,
    "mla_generation_module": _mla_decode,
    "mla_context_module": _module_prefill,
    "gemm": _gemm,
    **dict.fromkeys(COLLECTIVES, _collective),
    "moe_a2a": _dispatch,
    "moe": _experts,
}
