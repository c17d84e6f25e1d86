"""The KV number format SGLang takes of itself where attention is sparse, whatever the checkpoint asks for.

Since 0.5.3 models with an indexer keep latents in fp8 on GPUs of compute capability 10 and more, in bf16 on
others (``_dsa_kv_cache_dtype_default``); other models have what ``attention.default_format`` says.
"""

from __future__ import annotations

from kvplan.sizing.serving import BLACKWELL, Serving
from kvplan.sizing.sglang.page import SPARSE
from kvplan.sizing.sparse_latents import is_sparse
from kvplan.specs.schema import ModelSpec


def sparse_format(model: ModelSpec, serving: Serving) -> str | None:
    """Its name; ``None`` where the checkpoint or the model's dtype decides."""
    if serving.kind != "sglang" or serving.version < SPARSE or not is_sparse(model):
        return None
    return "fp8_e4m3" if serving.capability >= BLACKWELL else "bf16"
