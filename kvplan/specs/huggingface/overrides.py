"""What single layers have of their own: tables of fields that stand for those of the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvplan.specs.huggingface.config import NAMES, Config
from kvplan.specs.huggingface.understood import unread_fields

SEARCHED = "block_configs"
"""Layers found by an architecture search; those of Nemotron-H name their kind and what differs."""


def own_fields(config: Config, layer: int, layers: int) -> dict[str, Any]:
    """The fields of layer ``layer`` alone, by ``per_layer_config`` (by number, or a list) or its block.

    Raises:
        SpecError: a list that contradicts the number of layers.
    """
    if kinds_of_blocks(config, layers) is not None:
        return dict((config.per_layer(SEARCHED, layers) or [])[layer])
    table = config.get("per_layer_config", defaults=False)
    if isinstance(table, list):
        own = (config.per_layer("per_layer_config", layers) or [])[layer]
        return dict(own) if isinstance(own, Mapping) else {}
    if isinstance(table, Mapping):
        for key in (str(layer), f"{layer:02d}", f"{layer:03d}"):
            if isinstance(table.get(key), Mapping):
                return dict(table[key])
    return {}


def layer_view(config: Config, layer: int, layers: int) -> Config:
    """The configuration as layer ``layer`` sees it; what is read of it counts as read of the whole."""
    own = own_fields(config, layer, layers)
    if not own:
        return config
    said = {name for key in own for name in (key, *NAMES.get(key, ()))}
    data = {**{key: value for key, value in config.data.items() if key not in said}, **own}
    view = Config(data, config.top, config.path, config.prefix)
    view.architecture, view.model_type, view.used = config.architecture, config.model_type, config.used
    return view


def refuse_unread(config: Config, layer: int, layers: int) -> None:
    """After a layer was read: of its own fields, those that may change its cache must have been.

    Raises:
        SpecError: naming the first that was not.
    """
    own = Config(own_fields(config, layer, layers), {}, config.path, config.prefix)
    own.used = config.used
    unread = [key for key in unread_fields(own) if key != "block_type"]
    if unread:
        raise config.error(
            f"layer {layer} has a field of its own that is not understood: {unread[0]}", unread[0]
        )


def kinds_of_blocks(config: Config, layers: int) -> list[Any] | None:
    """The kind of every layer where the blocks of an architecture search name theirs."""
    blocks = config.per_layer(SEARCHED, layers) if config.has(SEARCHED) else None
    if not blocks or not all(isinstance(block, Mapping) and "block_type" in block for block in blocks):
        return None
    return [block["block_type"] for block in blocks]
