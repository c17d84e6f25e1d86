"""Small weights that differ by family: norms beyond the usual ones, router corrections.

``parameters.block_tensors`` counts one scale vector of the hidden size in front of attention, state, cross
attention and MLP, and ``weights`` one before the output head: Llama and most models since. Families that
differ are listed with the vectors *per layer* and *after the last layer* they have more (or fewer, where
parallel branches share a norm). At most one parameter in 3,000 is at stake; published counts are exact only
with them.
"""

from __future__ import annotations

from kvplan.specs.schema import ModelSpec

_EXTRA_VECTORS: dict[str, tuple[int, int]] = {
    # (per layer, final); a LayerNorm carries a bias beside its scale.
    "gemma2": (2, 0), "gemma3": (2, 0), "gemma4": (2, 0), "gemma-2-": (2, 0), "gemma-3": (2, 0),
    "gemma-4": (2, 0), "glm4": (2, 0),
    "gpt2": (2, 1), "gpt_neox": (2, 1), "gpt-neox": (2, 1), "pythia": (2, 1), "opt": (2, 1), "bloom": (2, 1),
    "gpt_bigcode": (2, 1), "santacoder": (2, 1), "starcoder": (2, 1), "stablelm": (2, 1),
    "falcon-40b": (2, 1), "falcon-180b": (2, 1), "falcon-mamba": (0, 0), "falcon": (0, 1),
    "phi-2": (0, 1), "phi-msft": (0, 1), "cohere": (-1, 0), "olmo-7b-hf": (-2, -1),
}  # fmt: skip

_CORRECTED_ROUTERS = (
    "deepseek_v3", "deepseek-v3", "deepseek-r1", "kimi", "glm_moe_dsa", "glm4_moe",
    "glm-4.5", "glm-4.7", "glm-5",
)  # fmt: skip
"""Whose routers carry a correction bias per expert (DeepSeek-V3's auxiliary-loss-free balancing)."""


def family_parameters(model: ModelSpec) -> int:
    """Parameters to add to (or take from) those ``block_tensors`` counts, over the whole model.

    A model is recognised by the beginning of its name or of its family.
    """
    known = (model.name, model.family)
    vectors = (
        value for start, value in _EXTRA_VECTORS.items() if any(name.startswith(start) for name in known)
    )
    per_layer, final = next(vectors, (0, 0))
    total = model.hidden_size * (per_layer * model.num_layers + final)
    corrected = any(name.startswith(_CORRECTED_ROUTERS) for name in known)
    for group in model.groups():
        mlp = group.block.mlp
        if corrected and mlp is not None and mlp.kind == "moe":
            total += group.count * mlp.experts
    return total
