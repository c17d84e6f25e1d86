"""Attention of a layer as the columns of fitted kernels: what a table of that kernel would have said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.errors import SpecError
from kvplan.latency.attention_work import Attention

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


EXPANDED_DIM, ABSORBED_DIM = 160.0, 544.0
"""Mean head size of prefill attention over latents, expanded to heads and read as they are."""


def decode_shapes(item: Attention, batch: Array, context: Array) -> dict[str, Array]:
    """``batch`` sequences of ``context`` tokens each, of one rank."""
    import numpy as np

    seen = np.maximum(context.ravel() / item.ratio / item.shards, 1.0)
    columns = _columns(item, batch.size) | {"q_heads": np.full(batch.size, float(item.decode_heads))}
    return columns | {"batch": batch.ravel(), "ctx": seen}


def prefill_shapes(item: Attention, new: Array, before: Array) -> dict[str, Array]:
    """Chunks of ``new`` tokens behind ``before`` cached ones."""
    import numpy as np

    shapes = _columns(item, new.size)
    if item.kind == "mla":
        # Prefill expands the latent: every query head has its own K (192) and V (128), 160 on average,
        # in 16 bits whatever the cache.
        shapes |= {"head_dim": np.full(new.size, EXPANDED_DIM), "kv_heads": shapes["q_heads"]}
        shapes |= {"kv_element_bytes": np.full(new.size, 2.0)}
    chunk = {"batch": np.ones(new.size), "new": new.ravel(), "before": before.ravel() / item.ratio}
    return shapes | chunk


def absorbed_shapes(item: Attention, new: Array, before: Array) -> dict[str, Array]:
    """Chunks that read latents as they are: scores take 512 + 64 elements, values 512, 544 on average."""
    import numpy as np

    shapes = prefill_shapes(item, new, before)
    return shapes | {
        "head_dim": np.full(new.size, ABSORBED_DIM),
        "kv_heads": np.ones(new.size),
        "kv_element_bytes": np.full(new.size, item.kv_element_bytes),
    }


def _columns(item: Attention, count: int) -> dict[str, Array]:
    import numpy as np

    mla = item.kind == "mla"
    # As in the tables: a latent of 576 counts once as K and V of 288.
    dim = item.head_dim / 2 if mla else float(item.head_dim)
    values = {
        "window": float(item.limit or 0), "q_heads": float(item.q_heads), "kv_heads": float(item.kv_heads),
        "head_dim": dim, "kv_element_bytes": item.kv_element_bytes,
    }  # fmt: skip
    return {name: np.full(count, value) for name, value in values.items()}


def check_supported(item: Attention) -> None:
    """Refuse attention that no kernel table covers.

    Raises:
        SpecError: with what to use instead.
    """
    if item.kind in ("compressed", "cross"):
        raise SpecError(
            f"no kernel of {item.kind} attention was measured for a profile",
            where="latency.model",
            hint="use {model: roofline}, whose bands are wider",
        )
    if item.kind == "mla" and item.head_dim != 576:
        raise SpecError(
            f"MLA kernels were measured with a latent of 576 elements, this model's has {item.head_dim}",
            where="latency.model",
            hint="use {model: roofline}, whose bands are wider",
        )
