"""Towers that turn images and sounds into tokens: their weights, as far as their configurations say.

A tower is beside the KV cache, so what is missing or odd in it is a warning and never refuses a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from kvplan.errors import SpecError
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.class_towers import HIDDEN, LAYERS, RATIO, WIDTH, completed, tower_owners
from kvplan.specs.huggingface.config import Config, owners
from kvplan.specs.huggingface.projectors import projector
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
TOO_MANY = 1 << 20
MOST_STAGES = 8


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int
    width: int


def vision(config: Config) -> tuple[Vision | None, list[str]]:
    """``(the vision tower, warnings)`` of the model around a text configuration."""
    for owner in tower_owners(config):
        section = next((tower_section(owner, key, config) for key in VISION if owner.get(key)), None)
        if section is None:
            section = tower_section(owner, "encoder", config)
            section = section if section is not None and _named(section) else None
        if section is None:
            section = _elsewhere(owner, config)
        if section is None:
            continue
        try:
            several = _side_by_side(config, section) or _staged(config, section)
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


def _elsewhere(owner: Mapping[str, Any], config: Config) -> Config | None:
    """A tower that has no section: its name says its size, or the model's class does."""
    if listed := timm_towers(owner):
        return Config({"width": listed}, {}, config.path, "timm_model_ids.")
    for key in ELSEWHERE:
        if isinstance(owner.get(key), str):
            section = Config({"model_name": owner[key]}, {}, config.path, f"{key}.")
            if _named(section):
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
        Config({"mlp_ratio": 4, **part}, {}, section.path, f"{section.prefix}{name}.")
        for name, part in table.items()
        if isinstance(part, Mapping)
    ]
    shapes = [shape for shape in map(tower_shape, parts) if shape is not None]
    if not shapes:
        return None
    largest = max(shapes, key=lambda shape: shape.layers * shape.hidden)
    return Vision.model_construct(
        layers=largest.layers,
        hidden_size=largest.hidden,
        intermediate_size=largest.width,
        parameters=sum(shape.layers * shape.hidden * (4 * shape.hidden + 2 * shape.width) for shape in shapes)
        + projector(config, section, sum(shape.hidden for shape in shapes)),
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


def tower_shape(config: Config) -> Shape | None:
    """Layers and widths; ``None`` where one is not said.

    Raises:
        SpecError: one is not a number.
    """
    named = _named(config)
    if named is not None:
        return named
    layers, hidden, width = _one(config, *LAYERS), _one(config, *HIDDEN), _one(config, *WIDTH)
    if width is None and hidden is not None:
        ratio = next((found for key in RATIO if (found := config.number(key))), 0)
        width = int(hidden * ratio)
    if layers is None or hidden is None or not width:
        return None
    layers += config.optional("num_global_layers") or 0  # Llama 3.2 Vision
    if max(layers, hidden, width) > TOO_MANY:
        raise config.error("a size larger than any tower's", "hidden_size")
    return Shape(layers, hidden, width)


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


def _named(config: Config) -> Shape | None:
    """A vision transformer given by its name alone: RADIO's ``args.model``, Janus's ``params.model_name``."""
    if any(key in config.data for key in LAYERS):
        return None
    for key, field in (("args", "model"), ("params", "model_name"), ("", "model_name")):
        owner = config.data.get(key) if key else config.data
        size = names_a_size(str(owner.get(field))) if isinstance(owner, Mapping) else None
        if size is not None:
            return size
    return None


def names_a_size(name: str) -> Shape | None:
    """The shape that the name of a vision transformer stands for."""
    words = re.split(r"[^a-z0-9]+", name[:200].casefold())
    size = next((families.VIT_SIZES[word] for word in words if word in families.VIT_SIZES), None)
    return Shape(*size) if size is not None and {"vit", "siglip", "siglip2"} & set(words) else None


def _one(config: Config, *keys: str) -> int | None:
    """The first of some numbers that the file has; else that its class has."""
    found = (config.optional(key, defaults=late) for late in (False, True) for key in keys)
    return next((value for value in found if value is not None), None)


def attention_parameters(config: Config, hidden: int) -> int:
    """Parameters of the four projections of a layer's attention."""
    heads = _one(config, "num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads")
    dim, groups = _one(config, "head_dim", "kv_channels"), config.optional("num_key_value_heads")
    if heads is None or (dim is None and groups is None):
        return 4 * hidden * hidden
    if max(heads, dim or 0, groups or 0) > TOO_MANY:
        raise config.error("a size larger than any tower's", "num_attention_heads")
    return int(2 * hidden * (dim or hidden // heads) * (heads + (groups or heads)))


def is_gated_tower(config: Config, around: str = "") -> bool:
    if {str(config.data.get("model_type")), around} & families.GATED_TOWERS:
        return True
    return str(config.data.get("hidden_act", config.data.get("activation", ""))) in (
        "silu",
        "swiglu",
        "swish",
    )


def _vision(config: Config, tower: Config, shape: Shape) -> Vision:
    width, merger = shape.width, _merger(config, tower, shape) + projector(config, tower, shape.hidden)
    # Gemma 4: a table of positions for each of the two sides.
    merger += 2 * shape.hidden * tower.integer("position_embedding_size", 0, least=0)
    gated = is_gated_tower(tower, str(config.top.get("model_type")))
    if _kind(config, tower).startswith("glm4v") and merger:
        # Its blocks are as wide as what they hand over; the given width is that of the merger behind them.
        width, gated = tower.count("out_hidden_size"), True
    attention = attention_parameters(tower, shape.hidden)
    layer = attention + shape.hidden * (3 if gated else 2) * width
    if str(config.top.get("model_type")) in families.TWO_TOWERS:
        merger += shape.layers * layer
    usual = not merger and attention == 4 * shape.hidden * shape.hidden
    tokens = _tokens_per_image(config, tower)
    return Vision.model_construct(
        layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=width,
        heads=_one(tower, "num_attention_heads", "num_heads", "attention_heads"),
        gated=gated,
        tokens_per_image=tokens,
        patches_per_token=_patches_per_token(config, tower, tokens),
        parameters=None if usual else shape.layers * layer + merger,
        whole=str(config.top.get("model_type")) in families.WHOLE_TOWERS,
    )


def _kind(config: Config, tower: Config) -> str:
    return str(tower.data.get("model_type") or config.top.get("model_type") or "")


def _merger(config: Config, tower: Config, shape: Shape) -> int:
    """Parameters behind the blocks that merge neighbouring patches, for families whose structure is known.

    Qwen: the patches side by side through a square matrix and one to the width handed over, also behind every
    block that is tapped (``deepstack_visual_indexes``). GLM: a strided convolution to that width, then a
    projection and a gated layer.
    """
    kind, side = _kind(config, tower), tower.integer("spatial_merge_size", 2)
    out = tower.optional("out_hidden_size") or (
        tower.optional("hidden_size") if tower.has("embed_dim") else None
    )
    if out is None or max(out, side) > TOO_MANY:
        return 0
    merged = int(shape.hidden * side * side)
    if kind.startswith(families.SQUARE_MERGERS):
        return (1 + len(tower.items("deepstack_visual_indexes") or [])) * merged * (merged + out)
    if not kind.startswith(("glm4v", "glm_ocr")):
        return 0
    between = shape.width if kind.startswith("glm4v") else out * tower.integer("in_channels", 3)
    return int(out * (out + 3 * between) + merged * out)


def _patches(tower: Config) -> int | None:
    """Patches of an image whose size is fixed; sizes are a number or one for each side."""
    sides = [_sides(tower, key) for key in ("image_size", "patch_size")]
    if None in sides:
        return None
    pairs = zip(sides[0] or (), sides[1] or (), strict=True)
    return prod(size // patch for size, patch in pairs) or None


def _sides(tower: Config, key: str) -> tuple[int, int] | None:
    value = tower.data.get(key)
    sides = value if isinstance(value, list) else [value]
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool) and side > 0]
    return (whole[0], whole[-1]) if len(whole) == len(sides) and 1 <= len(sides) <= 2 else None


def _tokens_per_image(config: Config, tower: Config) -> int | None:
    for owner in owners(config):
        for key in TOKENS:
            value = owner.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    tiles, patches = tower.optional("max_num_tiles"), _patches(tower)
    if tiles and patches:  # Llama 3.2 Vision: every tile, each with a class token
        return tiles * (patches + 1)
    return None


def _patches_per_token(config: Config, tower: Config, tokens: int | None) -> int:
    """Patches merged into one token: a merge or pooling size squared, else patches over tokens, else 4."""
    for key in ("spatial_merge_size", "pooling_kernel_size", "merge_kernel_size"):
        value = tower.data.get(key, config.top.get(key))
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 64:
            return value * value
    patches = _patches(tower)
    if tokens and patches:
        return max(patches // tokens, 1)
    return 4
