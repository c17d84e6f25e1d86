"""Layers and widths of a tower, as its section, or its name, says them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.class_towers import HIDDEN, LAYERS, RATIO, WIDTH
from kvplan.specs.huggingface.config import Config

TOO_MANY = 1 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int
    width: int


def tower_shape(config: Config) -> Shape | None:
    """Layers and widths; ``None`` where one is not said.

    Raises:
        SpecError: one is not a number.
    """
    size = named(config)
    if size is not None:
        return size
    layers, hidden, width = first_of(config, *LAYERS), first_of(config, *HIDDEN), first_of(config, *WIDTH)
    if width is None and hidden is not None:
        ratio = next((found for key in RATIO if (found := config.number(key))), 0)
        width = int(hidden * ratio)
    if layers is None or hidden is None or not width:
        return None
    layers += config.optional("num_global_layers") or 0  # Llama 3.2 Vision
    if max(layers, hidden, width) > TOO_MANY:
        raise config.error("a size larger than any tower's", "hidden_size")
    return Shape(layers, hidden, width)


def named(config: Config) -> Shape | None:
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


def first_of(config: Config, *keys: str) -> int | None:
    """The first of some numbers that the file has; else that its class has."""
    found = (config.optional(key, defaults=late) for late in (False, True) for key in keys)
    return next((value for value in found if value is not None), None)


def attention_widths(config: Config, hidden: int) -> tuple[int, int]:
    """``(width of Q, width of K)`` of a layer's attention."""
    heads = first_of(config, "num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads")
    dim, groups = first_of(config, "head_dim", "kv_channels"), config.optional("num_key_value_heads")
    if heads is None or (dim is None and groups is None):
        return hidden, hidden
    if max(heads, dim or 0, groups or 0) > TOO_MANY:
        raise config.error("a size larger than any tower's", "num_attention_heads")
    dim = dim or hidden // heads
    return dim * heads, dim * (groups or heads)


def attention_parameters(config: Config, hidden: int) -> int:
    """Parameters of the four projections of a layer's attention."""
    return 2 * hidden * sum(attention_widths(config, hidden))


def sides(tower: Config, key: str) -> tuple[int, int] | None:
    """A size of both sides, given as a number or one for each; ``None`` where it is neither."""
    value = tower.data.get(key)
    listed = value if isinstance(value, list) else [value]
    whole = [side for side in listed if isinstance(side, int) and not isinstance(side, bool) and side > 0]
    return (whole[0], whole[-1]) if len(whole) == len(listed) and 1 <= len(listed) <= 2 else None


def patches(tower: Config) -> int | None:
    """Patches of an image whose size is fixed; sizes are a number or one for each side."""
    images, pieces = sides(tower, "image_size"), sides(tower, "patch_size")
    if images is None or pieces is None:
        return None
    return prod(size // patch for size, patch in zip(images, pieces, strict=True)) or None


def is_gated_tower(config: Config, around: str = "") -> bool:
    if {str(config.data.get("model_type")), around} & families.GATED_TOWERS:
        return True
    return str(config.data.get("hidden_act", config.data.get("activation", ""))) in (
        "silu",
        "swiglu",
        "swish",
    )
