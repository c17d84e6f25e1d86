"""What the classes of towers say of themselves: a file may leave out what equals it, or the whole tower."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kvplan.specs.huggingface.config import NAMES, Config, owners

Fields = Mapping[str, Any]

LAYERS = (
    "encoder_layers", "num_hidden_layers", "depth", "layers", "num_blocks", "conf_num_hidden_layers",
    "vt_num_hidden_layers",
)  # fmt: skip
HIDDEN = ("embed_dim", "hidden_size", "width", "vt_hidden_size", "attention_dim")
"""Qwen2-VL and others: where ``embed_dim`` is given, ``hidden_size`` is the width that is handed over."""
WIDTH = ("encoder_ffn_dim", "intermediate_size", "vt_intermediate_size", "mlp_dim", "linear_units")
RATIO = ("mlp_ratio", "feedforward_mult")

BUILT = "ForConditionalGeneration"
"""End of the names of architectures that make their towers whatever the file says."""


@cache
def _defaults() -> Mapping[str, Mapping[str, Any]]:
    """``towers``: fields by the tower's ``model_type``; ``models``: by the model's, of each section."""
    path = Path(__file__).with_name("tower_defaults.json")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def tower_owners(config: Config) -> Iterator[Fields]:
    """The mappings around a text configuration that may have towers, with what their classes add to these."""
    for owner in owners(config):
        model = _defaults()["models"].get(str(owner.get("model_type")), {})
        built = config.outermost.endswith(BUILT)
        own = {key: _whole(own) for key, own in model.items() if built and owner.get(key) in (None, {})}
        yield {**owner, **own}


def completed(section: Fields, owner: Fields, key: str) -> Fields:
    """A tower's section with the fields that its class fills in."""
    kind, model = str(section.get("model_type") or ""), str(owner.get("model_type"))
    if kind in ("", model) and kind not in _defaults()["towers"]:
        kind = _defaults()["models"].get(model, {}).get(key, {}).get("model_type", "")
    own = _defaults()["towers"].get(kind, {})
    foreign = section.keys() - own.keys()
    filled = {name: value for name, value in own.items() if not foreign & _like(name)}
    return {**filled, **section, **({"model_type": kind} if kind else {})}


@cache
def _like(name: str) -> frozenset[str]:
    """Other names of the same: of a field that goes by one of them the class's default is not missing."""
    tables = (LAYERS, HIDDEN, (*WIDTH, *RATIO), *((key, *names) for key, names in NAMES.items()))
    return frozenset(other for names in tables if name in names for other in names)


def _whole(own: Fields) -> Fields:
    """The tower that a model's class makes where its file has none."""
    return {**_defaults()["towers"].get(own["model_type"], {}), **own}
