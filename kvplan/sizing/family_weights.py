"""Small weights that differ by family: norms beyond the usual ones, router corrections, attention sinks.

``parameters.block_tensors`` counts one scale vector of the hidden size in front of attention, state, cross
attention and MLP, and ``weights`` one before the output head: Llama and most models since. Families that
differ are listed with the vectors *per layer* and *after the last layer* they have more (or fewer, where
parallel branches share a norm). At most one parameter in 3,000 is at stake; published counts are exact only
with them.
"""

from __future__ import annotations

from kvplan.specs.schema import ModelSpec

_EXTRA_VECTORS: dict[str, tuple[int, int]] = {
    # family: (per layer, final); a LayerNorm carries a bias beside its scale.
    "gemma2": (2, 0), "gemma3": (2, 0), "gemma3_text": (2, 0), "gemma3n_text": (2, 0), "gemma4_text": (2, 0),
    "glm4": (2, 0),
    "gpt2": (2, 1), "opt": (2, 1), "bloom": (2, 1), "gpt_bigcode": (2, 1), "starcoder2": (2, 1),
    "stablelm": (2, 1), "gpt_neox": (2, 1),
    "falcon": (0, 1), "phi": (0, 1), "phi-msft": (0, 1),
    "cohere": (-1, 0), "cohere2": (-1, 0), "olmo": (-2, -1),
}  # fmt: skip

_CORRECTED_ROUTERS = ("deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa", "glm4_moe")
"""Families whose routers carry a correction bias per expert (DeepSeek-V3's auxiliary-loss-free balancing)."""

_SINKS = ("gpt_oss",)
"""Families with a learned attention sink per query head."""


def family_parameters(model: ModelSpec) -> int:
    """Parameters to add to (or take from) those ``block_tensors`` counts, over the whole model."""
    per_layer, final = _EXTRA_VECTORS.get(model.family, (0, 0))
    total = model.hidden_size * (per_layer * model.num_layers + final)
    for group in model.groups():
        attention, mlp = group.block.attention, group.block.mlp
        if mlp is not None and mlp.kind == "moe" and model.family.startswith(_CORRECTED_ROUTERS):
            total += group.count * mlp.experts
        if attention is not None and model.family in _SINKS:
            total += group.count * attention.query_heads
    return total
