"""Mergers of neighbouring patches that are part of a tower: those of Qwen and GLM."""

from __future__ import annotations

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.tower_shapes import TOO_MANY, Shape

RMS_MERGERS = ("qwen2_5", "exaone4_5", "mimovl", "mimo_v2")
"""Square mergers whose norm has no bias."""


def tower_kind(config: Config, tower: Config) -> str:
    """The type of a tower; where its section does not say it, that of the model."""
    return str(tower.data.get("model_type") or config.top.get("model_type") or "")


def merger_parameters(config: Config, tower: Config, shape: Shape) -> int:
    """Parameters behind the blocks that merge neighbouring patches, for families whose structure is known.

    Qwen: a norm, the patches side by side through a square matrix and one to the width handed over; the same
    with a norm of the merged width behind every block that is tapped (``deepstack_visual_indexes``). GLM: a
    strided convolution to that width, then a projection, a norm and a gated layer.
    """
    kind, side = tower_kind(config, tower), tower.integer("spatial_merge_size", 2)
    out = tower.optional("out_hidden_size") or tower.optional("adapter_out_dim")
    if out is None and tower.has("embed_dim"):
        out = tower.optional("hidden_size")
    if out is None or max(out, side) > TOO_MANY:
        return 0
    merged = int(shape.hidden * side * side)
    if kind.startswith(families.SQUARE_MERGERS):
        taps = len(tower.items("deepstack_visual_indexes") or [])
        norm = shape.hidden * (1 if kind.startswith(RMS_MERGERS) else 2)
        return (1 + taps) * (merged + 1) * (merged + out) + norm + 2 * taps * merged
    if not kind.startswith(("glm4v", "glm_ocr", "glm5_next")):
        return 0
    usual = shape.width if kind.startswith("glm4v") else out * tower.integer("in_channels", 3)
    between = tower.optional("projection_intermediate_size") or usual
    return int(out * (out + 3 * between + 2) + (merged + 1) * out)
