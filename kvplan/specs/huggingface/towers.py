"""Towers that turn images and sounds into tokens: their weights, as far as their configurations say.

A tower is beside the KV cache, so what is missing or odd in it is a warning and never refuses a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from kvplan.errors import SpecError
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.projectors import projector
from kvplan.specs.model import ExtraWeights, Vision

VISION = (
    "vision_config", "visual_config", "vit_config", "vision_encoder", "visual", "visual_tokenizer_config",
    "vision_tower_cfg", "img_processor",
)  # fmt: skip
"""Sections of towers for images. An ``encoder`` beside a ``decoder`` is one where only its name is given."""
SOUND = (
    "audio_config", "encoder_config", "audio_encoder_config", "audio_encoder", "sound_config",
    "speech_config", "audio_processor", "multimodal",
)  # fmt: skip
WITHIN = ("config", "backbone_config", "whisper_model_args", "encoder_args")
"""Where a section has the shape one level down (Phi-4-multimodal, Ovis, Voxtral's params.json)."""
UNCOUNTED = ("embd_layer", "speech_lora", "vision_lora")
"""Sections that describe weights by other means than layers and widths."""
ELSEWHERE = ("mm_vision_tower", "vision_backbone_id", "vision_model_id", "audio_model_id", "audio_tower")
"""Fields that name a tower whose configuration is in another file; some names say its size."""

LAYERS = (
    "encoder_layers", "num_hidden_layers", "depth", "layers", "num_blocks", "conf_num_hidden_layers",
    "vt_num_hidden_layers",
)  # fmt: skip
HIDDEN = ("embed_dim", "hidden_size", "width", "vt_hidden_size", "attention_dim")
"""Qwen2-VL and others: where ``embed_dim`` is given, ``hidden_size`` is the width that is handed over."""
WIDTH = ("encoder_ffn_dim", "intermediate_size", "vt_intermediate_size", "mlp_dim", "linear_units")
RATIO = ("mlp_ratio", "feedforward_mult")
CONFORMER = (
    "conv_expansion_factor",
    "conf_conv_kernel_size",
    "conv_glu_type",
    "num_blocks",
    "convolution_bias",
)
"""Fields of towers whose layers have two feed-forward parts around attention and a convolution."""

TOKENS = ("mm_tokens_per_image", "vision_soft_tokens_per_image", "image_seq_length", "num_image_tokens")
TOO_MANY = 1 << 20


@dataclass(frozen=True, slots=True)
class _Shape:
    layers: int
    hidden: int
    width: int


def vision(config: Config) -> tuple[Vision | None, list[str]]:
    """``(the vision tower, warnings)`` of the model around a text configuration."""
    for owner in owners(config):
        section = next((_section(owner, key, config) for key in VISION if owner.get(key)), None)
        if section is None:
            section = _section(owner, "encoder", config)
            section = section if section is not None and _named(section) else None
        if section is None:
            section = _elsewhere(owner, config)
        if section is None:
            continue
        try:
            several = _side_by_side(section)
            if several is not None:
                return several, []
            shape = _shape(section)
            if shape is None:
                return None, [_uncounted("vision")]
            return _vision(config, section, shape), []
        except SpecError as exc:
            return None, [f"the vision tower is not counted: {exc.message} ({exc.where})"]
    return None, []


def _elsewhere(owner: Mapping[str, Any], config: Config) -> Config | None:
    """A tower that has no section: its name says its size, or the model's class does."""
    if listed := _timm(owner):
        return Config({"width": listed}, {}, config.path, "timm_model_ids.")
    for key in ELSEWHERE:
        if isinstance(owner.get(key), str):
            section = Config({"model_name": owner[key]}, {}, config.path, f"{key}.")
            if _named(section):
                return section
    own = families.CLASS_TOWERS.get(str(owner.get("model_type")))
    return Config(own, {}, config.path, "class.") if own is not None else None


def _timm(owner: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The towers that a list names (OpenVLA: DINOv2 and SigLIP); nothing where a name does not say a size."""
    names = owner.get("timm_model_ids")
    shapes = [_names_a_size(str(name)) for name in names[:8]] if isinstance(names, list) else []
    if None in shapes:
        return {}
    keys = ("num_hidden_layers", "hidden_size", "intermediate_size")
    return {
        str(index): dict(zip(keys, (shape.layers, shape.hidden, shape.width), strict=True))
        for index, shape in enumerate(shapes)
        if shape is not None
    }


def _side_by_side(section: Config) -> Vision | None:
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
    shapes = [shape for shape in map(_shape, parts) if shape is not None]
    if not shapes:
        return None
    largest = max(shapes, key=lambda shape: shape.layers * shape.hidden)
    return Vision.model_construct(
        layers=largest.layers,
        hidden_size=largest.hidden,
        intermediate_size=largest.width,
        parameters=sum(
            shape.layers * shape.hidden * (4 * shape.hidden + 2 * shape.width) for shape in shapes
        ),
    )


def sound(config: Config) -> tuple[tuple[ExtraWeights, ...], list[str]]:
    """``(weights of the towers for sounds, warnings)`` of the model around a text configuration."""
    found: list[ExtraWeights] = []
    notes: list[str] = []
    for owner in owners(config):
        for key in SOUND:
            section = _section(owner, key, config)
            if section is None:
                continue
            name = key.removesuffix("_config").removesuffix("_processor")
            try:
                shape = _shape(section)
                if shape is None:
                    notes.append(_uncounted(name))
                    continue
                size = shape.layers * _sound_layer(section, shape)
                notes += _cached_frames(section, shape, name)
                found.append(
                    ExtraWeights.model_construct(name=f"{name} tower", parameters=size, active=False)
                )
            except SpecError as exc:
                notes.append(f"the {name} tower is not counted: {exc.message} ({exc.where})")
        described = [key for key in UNCOUNTED if isinstance(owner.get(key), Mapping)]
        described += [
            key
            for key in ELSEWHERE
            if isinstance(owner.get(key), str) and not _names_a_size(str(owner[key])) and not _timm(owner)
        ]
        if described:
            notes.append(f"weights described by {', '.join(described)} are not counted")
    return tuple(found), notes


def _cached_frames(section: Config, shape: _Shape, name: str) -> list[str]:
    """A tower that hears as it goes (Voxtral Realtime) has a window of frames, and keeps their K and V."""
    window = section.optional("sliding_window")
    heads = section.optional("num_attention_heads")
    if window is None or heads is None:
        return []
    dim = section.optional("head_dim") or shape.hidden // heads
    groups = section.optional("num_key_value_heads") or heads
    size = shape.layers * (window - 1) * 2 * groups * dim * 2
    kept = f"{window:,} frames, {size / 2**20:,.0f} MiB a sequence in 16 bits"
    return [f"the {name} tower keeps K and V of a window of {kept}: not counted"]


def _uncounted(name: str) -> str:
    return f"the {name} tower does not give its layers and widths: its weights are not counted"


def owners(config: Config) -> Iterator[Mapping[str, Any]]:
    """The whole file, and every section on the way to the text configuration."""
    current: Any = config.top
    yield current
    for key in config.prefix.split("."):
        current = current.get(key) if isinstance(current, Mapping) else None
        if not isinstance(current, Mapping):
            return
        yield current


def _section(owner: Mapping[str, Any], key: str, config: Config) -> Config | None:
    raw = owner.get(key)
    if not isinstance(raw, Mapping):
        return None
    for inner in WITHIN:
        if isinstance(raw.get(inner), Mapping):
            raw = raw[inner]
    kind = "pixtral" if key == "vision_encoder" else str(raw.get("model_type"))  # Mistral's params.json
    if (
        "hidden_dim" in raw and not {"hidden_size", "dim"} & raw.keys()
    ):  # in a tower its width, elsewhere that of the MLP
        raw = {"hidden_size" if name == "hidden_dim" else name: value for name, value in raw.items()}
    defaults = families.TOWER_DEFAULTS.get(kind, {})
    return Config({**defaults, **raw}, {}, config.path, f"{key}.")


def _shape(config: Config) -> _Shape | None:
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
    return _Shape(layers, hidden, width)


def _named(config: Config) -> _Shape | None:
    """A vision transformer given by its name alone: RADIO's ``args.model``, Janus's ``params.model_name``."""
    if any(key in config.data for key in LAYERS):
        return None
    for key, field in (("args", "model"), ("params", "model_name"), ("", "model_name")):
        owner = config.data.get(key) if key else config.data
        size = _names_a_size(str(owner.get(field))) if isinstance(owner, Mapping) else None
        if size is not None:
            return size
    return None


def _names_a_size(name: str) -> _Shape | None:
    """The shape that the name of a vision transformer stands for."""
    words = re.split(r"[^a-z0-9]+", name[:200].casefold())
    size = next((families.VIT_SIZES[word] for word in words if word in families.VIT_SIZES), None)
    return _Shape(*size) if size is not None and {"vit", "siglip", "siglip2"} & set(words) else None


def _one(config: Config, *keys: str) -> int | None:
    """The first of some numbers that the file has; else that its class has."""
    found = (config.optional(key, defaults=late) for late in (False, True) for key in keys)
    return next((value for value in found if value is not None), None)


def _attention(config: Config, hidden: int) -> int:
    """Parameters of the four projections of a layer's attention."""
    heads = _one(config, "num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads")
    dim, groups = _one(config, "head_dim", "kv_channels"), config.optional("num_key_value_heads")
    if heads is None or (dim is None and groups is None):
        return 4 * hidden * hidden
    if max(heads, dim or 0, groups or 0) > TOO_MANY:
        raise config.error("a size larger than any tower's", "num_attention_heads")
    return int(2 * hidden * (dim or hidden // heads) * (heads + (groups or heads)))


def _is_gated(config: Config, around: str = "") -> bool:
    if {str(config.data.get("model_type")), around} & families.GATED_TOWERS:
        return True
    return str(config.data.get("hidden_act", config.data.get("activation", ""))) in (
        "silu",
        "swiglu",
        "swish",
    )


def _vision(config: Config, tower: Config, shape: _Shape) -> Vision:
    width, merger = shape.width, _merger(config, tower, shape) + projector(config, tower, shape.hidden)
    gated = _is_gated(tower, str(config.top.get("model_type")))
    if _kind(config, tower).startswith("glm4v") and merger:
        # Its blocks are as wide as what they hand over; the given width is that of the merger behind them.
        width, gated = tower.count("out_hidden_size"), True
    attention = _attention(tower, shape.hidden)
    layer = attention + shape.hidden * (3 if gated else 2) * width
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
    )


def _kind(config: Config, tower: Config) -> str:
    return str(tower.data.get("model_type") or config.top.get("model_type") or "")


def _merger(config: Config, tower: Config, shape: _Shape) -> int:
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


def _sound_layer(config: Config, shape: _Shape) -> int:
    """Parameters of one layer: of a transformer, or of a conformer with two feed-forward parts."""
    hidden = shape.hidden
    relative = "convolution_bias" in config.data  # Parakeet: a projection of positions, nothing gated
    feed = hidden * shape.width * (3 if _is_gated(config) and not relative else 2)
    if not any(key in config.data for key in CONFORMER):
        return _attention(config, hidden) + feed
    expansion: int = config.integer("conv_expansion_factor", 1)
    # Pointwise convolutions up (twice as wide for its gate) and down; the depthwise one between is small.
    return (5 if relative else 4) * hidden * hidden + 2 * feed + 3 * expansion * hidden * hidden


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
