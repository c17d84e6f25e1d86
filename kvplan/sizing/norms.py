"""Norm weights beyond the usual one in front of each part of a layer, by model family.

``parameters.block_tensors`` counts one scale vector of the hidden size in front of attention, state, cross
attention and MLP, and ``weights`` one before the output head: Llama and most models since. Families that
differ are listed with the *vectors per layer* and *after the last layer* they have more (or, sharing one norm
between parallel branches, fewer). Fewer than one parameter in 10,000 is at stake; published counts are
exact only with it.
"""

from __future__ import annotations

from kvplan.specs.schema import ModelSpec

_EXTRA_VECTORS: dict[str, tuple[int, int]] = {
    # family: (per layer, final); LayerNorm carries a bias beside its scale.
    "gemma2": (2, 0), "gemma3": (2, 0), "gemma4": (2, 0), "glm4": (2, 0),
    "gpt2": (2, 1), "opt": (2, 1), "bloom": (2, 1), "starcoder": (2, 1), "starcoder2": (2, 1),
    "stablelm": (2, 1), "gpt-neox": (2, 1), "falcon": (0, 1),
    "phi": (0, 1), "cohere": (-1, 0), "cohere2": (-1, 0), "olmo": (-2, -1),
}  # fmt: skip


def norm_parameters(model: ModelSpec) -> int:
    """Parameters to add to (or take from) those ``block_tensors`` counts."""
    per_layer, final = _EXTRA_VECTORS.get(model.family, (0, 0))
    return model.hidden_size * (per_layer * model.num_layers + final)
