"""Towers that turn images and sounds into tokens: their weights, as far as their configurations say.

A tower is beside the KV cache, so what is missing or odd in it is a warning and never refuses a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from kvplan.errors import SpecError
from kvplan.specs.base import MAX_COUNT
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.class_towers import LAYERS, completed, tower_owners
from kvplan.specs.huggingface.config import Config, owners
from kvplan.specs.huggingface.mergers import merger_parameters, tower_kind
from kvplan.specs.huggingface.projectors import projector
from kvplan.specs.huggingface.tower_details import details, handed_on
from kvplan.specs.huggingface.tower_shapes import (
    TOO_MANY,
    Shape,
    attention_parameters,
    first_of,
    is_gated_tower,
    named,
    names_a_size,
    patches,
    tower_shape,
)
from kvplan.specs.model import Vision

VISION = (
    "vision_config", "visual_config", "vit_config", "vision_encoder", "visual", "visual_tokenizer_config",
    "vision_tower_cfg", "img_processor",
)  # fmt: skip
"""Sections of towers for images. An ``encoder`` beside a ``decoder`` is one where only its name is given."""
WITHIN = ("config", "backbone_config", "whisper_model_args", "encoder_args")
"""Where a section has the shape one level down (Phi-4-multimodal, Ovis, Voxtral's params.json)."""
ELSEWHERE = ("mm_vision_tower", "vision_backbone_id", "vision_model_id", "audio_model_id", "audio_tower")
"""Fields that name a tower whose configuration is in another file; some names say its size."""

TOKENS = ("mm_tokens_per_image", "vision_soft_tokens_per_image", "image_seq_length", "num_image_tokens")
MOST_STAGES = 8


def vision(config: Config) -> tuple[Vision | None, list[str]]:
    """``(the vision tower, warnings)`` of the model around a text configuration."""
    for owner in tower_owners(config):
        section = next((tower_section(owner, key, config) for key in VISION if owner.get(key)), None)
        if section is None:
            section = tower_section(owner, "encoder", config)
            section = section if section is not None and named(section) else None
        if section is None:
            section = _elsewhere(owner, config)
        if section is None:
            continue
        try:
            several = (
                _side_by_side(config, section) or _staged(config, section) or _convolutional(config, section)
            )
            if several is not None:
                return several, []
            shape = tower_shape(section)
            if shape is None:
                return None, [uncounted("vision")]
            return _vision(config, section, shape), []
        except SpecError as exc:
            return None, [f"the vision tower is not counted: {exc.message} ({exc.where})"]
    sections = [owner.get(key) for owner in tower_owners(config) for key in VISION if key.endswith("_config")]
    unread = any(section and not isinstance(section, Mapping) for section in sections)
    return None, [uncounted("vision")] if unread else []


def image_prefixes(config: Config) -> bool:
    """Whether tokens of one image attend to one another, also to later ones."""
    said = config.top.get("is_mm_prefix_lm")
    if said is not None:
        return bool(said)
    reads = any(owner.get(key) for owner in tower_owners(config) for key in VISION)
    in_field = reads and config.get("use_bidirectional_attention") == "vision"
    return in_field or str(config.top.get("model_type")) in families.IMAGE_PREFIXES


def _elsewhere(owner: Mapping[str, Any], config: Config) -> Config | None:
    """A tower that has no section: its name says its size, or the model's class does."""
    if listed := timm_towers(owner):
        return Config({"width": listed}, {}, config.path, "timm_model_ids.")
    for key in ELSEWHERE:
        if isinstance(owner.get(key), str):
            section = Config({"model_name": owner[key]}, {}, config.path, f"{key}.")
            if named(section):
                return section
    own = families.CLASS_TOWERS.get(str(owner.get("model_type")))
    return Config(own, {}, config.path, "class.") if own is not None else None


def timm_towers(owner: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The towers that a list names (OpenVLA: DINOv2 and SigLIP); nothing where a name does not say a size."""
    names = owner.get("timm_model_ids")
    shapes = [names_a_size(str(name)) for name in names[:8]] if isinstance(names, list) else []
    if None in shapes:
        return {}
    keys = ("num_hidden_layers", "hidden_size", "intermediate_size")
    return {
        str(index): dict(zip(keys, (shape.layers, shape.hidden, shape.width), strict=True))
        for index, shape in enumerate(shapes)
        if shape is not None
    }


def _side_by_side(config: Config, section: Config) -> Vision | None:
    """Several towers by name, where a section or its ``width`` has nothing but such (DeepSeek-OCR's SAM and
    CLIP); MLPs are four times as wide where they do not say. ``None`` where it is not so.
    """
    table = section.data.get("width", section.data)
    if not isinstance(table, Mapping) or any(key in section.data for key in LAYERS):
        return None
    parts = [
        Config(
            {"mlp_ratio": 4, **completed(part, section.data, name)},
            {},
            section.path,
            f"{section.prefix}{name}.",
        )
        for name, part in table.items()
        if isinstance(part, Mapping)
    ]
    found = [(part, shape) for part in parts if (shape := tower_shape(part)) is not None]
    if not found:
        return None
    shapes = [shape for _, shape in found]
    largest = max(shapes, key=lambda shape: shape.layers * shape.hidden)
    return Vision.model_construct(
        layers=largest.layers,
        hidden_size=largest.hidden,
        intermediate_size=largest.width,
        parameters=sum(
            shape.layers * shape.hidden * (4 * shape.hidden + 2 * shape.width)
            + details(part, shape, shape.width, gated=False)
            for part, shape in found
        )
        + projector(config, section, sum((handed_on(part) or [shape.hidden])[-1] for part, shape in found)),
    )


def uncounted(name: str) -> str:
    return f"the {name} tower does not give its layers and widths: its weights are not counted"


def tower_section(owner: Mapping[str, Any], key: str, config: Config) -> Config | None:
    raw = owner.get(key)
    if not isinstance(raw, Mapping):
        return None
    for inner in WITHIN:
        if isinstance(raw.get(inner), Mapping):
            raw = raw[inner]
    if key == "vision_encoder":  # Mistral's params.json
        raw = {"model_type": "pixtral", **raw}
    raw = completed(raw, owner, key)
    if (
        "hidden_dim" in raw and not {"hidden_size", "dim"} & raw.keys()
    ):  # in a tower its width, elsewhere that of the MLP
        raw = {"hidden_size" if name == "hidden_dim" else name: value for name, value in raw.items()}
    defaults = families.TOWER_DEFAULTS.get(str(raw.get("model_type")), {})
    return Config({**defaults, **raw}, {}, config.path, f"{key}.")


def _staged(config: Config, section: Config) -> Vision | None:
    """A tower of stages, each wider than the one before: Swin, and DaViT (Florence 2), whose layers are two.

    Swin gives the width of the first stage, and each is twice as wide as the last; DaViT lists them.
    """
    depths = section.data.get("depths")
    dims = section.data.get("embed_dim", section.data.get("dim_embed"))
    if not isinstance(depths, list) or not 0 < len(depths) <= MOST_STAGES:
        return None
    first = dims if type(dims) is int else 0
    widths = dims if isinstance(dims, list) else [first << stage for stage in range(len(depths))]
    whole = all(type(size) is int and 0 < size <= TOO_MANY for size in (*depths, *widths))
    if not whole or len(widths) != len(depths):
        return None
    size = sum(12 * depth * width * width for depth, width in zip(depths, widths, strict=True))
    size += sum(4 * below * above for below, above in pairwise(widths))
    return Vision.model_construct(
        layers=sum(depths),
        hidden_size=widths[-1],
        intermediate_size=4 * widths[-1],
        parameters=(2 if isinstance(dims, list) else 1) * size + projector(config, section, widths[-1]),
    )


def _convolutional(config: Config, section: Config) -> Vision | None:
    """A tower of timm's that mixes convolutions and attention: ``architecture`` says all of it."""
    known = families.CONVOLUTIONAL_TOWERS.get(str(section.data.get("architecture")))
    if known is None:
        return None
    layers, hidden, width, parameters = known
    return Vision.model_construct(
        layers=layers,
        hidden_size=hidden,
        intermediate_size=width,
        tokens_per_image=_tokens_per_image(config, section),
        parameters=parameters + projector(config, section, section.integer("hidden_size", hidden)),
        whole=str(config.top.get("model_type")) in families.WHOLE_TOWERS,
    )


def _vision(config: Config, tower: Config, shape: Shape) -> Vision:
    merger = merger_parameters(config, tower, shape)
    width, around = shape.width, merger + projector(config, tower, shape.hidden)
    # Gemma 4: a table of positions for each of the two sides.
    around += 2 * shape.hidden * tower.integer("position_embedding_size", 0, least=0)
    gated = is_gated_tower(tower, str(config.top.get("model_type")))
    if tower_kind(config, tower).startswith("glm4v") and merger:
        # Its blocks are as wide as what they hand over; the given width is that of the merger behind them.
        width, gated = tower.count("out_hidden_size"), True
    attention = attention_parameters(tower, shape.hidden)
    blocks = shape.layers * (attention + shape.hidden * (3 if gated else 2) * width)
    plain = shape.layers * shape.hidden * (4 * shape.hidden + (3 if gated else 2) * width)
    pooled = str(config.top.get("model_type")) not in families.WITHOUT_POOLING
    blocks += details(tower, shape, width, gated, pooled)
    if str(config.top.get("model_type")) in families.TWO_TOWERS:
        around += blocks
    if not 0 < blocks + around <= MAX_COUNT:
        raise tower.error(f"{blocks + around:,} parameters are no tower's", "num_hidden_layers")
    tokens = _tokens_per_image(config, tower)
    return Vision.model_construct(
        layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=width,
        heads=first_of(tower, "num_attention_heads", "num_heads", "attention_heads"),
        gated=gated,
        tokens_per_image=tokens,
        patches_per_token=_patches_per_token(config, tower, tokens),
        parameters=None if blocks + around == plain else blocks + around,
        whole=str(config.top.get("model_type")) in families.WHOLE_TOWERS,
    )


def _tokens_per_image(config: Config, tower: Config) -> int | None:
    for owner in owners(config):
        for key in TOKENS:
            value = owner.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= TOO_MANY:
                return value
    tiles, pieces = tower.optional("max_num_tiles"), patches(tower)
    if tiles and pieces:  # Llama 3.2 Vision: every tile, each with a class token
        return tiles * (pieces + 1)
    return None


def _patches_per_token(config: Config, tower: Config, tokens: int | None) -> int:
    """Patches merged into one token: a merge or pooling size squared, else patches over tokens, else 4."""
    for key in ("spatial_merge_size", "pooling_kernel_size", "merge_kernel_size"):
        value = tower.data.get(key, config.top.get(key))
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 64:
            return value * value
    pieces = patches(tower)
    if tokens and pieces:
        return max(pieces // tokens, 1)
    return 4
