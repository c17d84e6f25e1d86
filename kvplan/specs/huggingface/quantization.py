"""How a checkpoint stores its weights: a scheme applied to the components of the layers that are there.

Formats are named as in ``kvplan.sizing.weight_formats``. A component is given the format that most of its
layers have; where they differ much, a warning says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.modules import BESIDE, IN_LAYER, matches, names_in_layer, owners
from kvplan.specs.huggingface.schemes import Scheme, read_scheme
from kvplan.specs.model import Block, Component, Weights

UNQUANTIZED: tuple[Component, ...] = ("embeddings", "lm_head", "router", "vision", "encoder")
"""Left in the model's dtype by every scheme unless it names them."""

BY_SIZE: tuple[Component, ...] = ("experts", "dense_mlp", "attention", "state", "shared_experts")
"""Whose format a checkpoint is known by: the first of these that is quantized."""

_MIXERS: tuple[Component, ...] = ("attention", "state", "indexer")

DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}

PROMISED = {
    "nvfp4": "nvfp4", "mxfp4": "mxfp4", "fp8": "fp8", "awq": "int4_group128", "gptq": "int4_group128",
    "w4a16": "int4_group128", "int4": "int4_group128", "int8": "int8", "w8a8": "int8",
}  # fmt: skip
"""Words in a model's name that promise quantized weights, and the usual format behind them."""

_PROMISE = re.compile(rf"(?:^|[-_.])({'|'.join(PROMISED)})(?:$|[-_.])")


def model_dtype(config: Config) -> tuple[str, str]:
    """``(dtype of activations and KV, format of unquantized weights)``.

    fp32 checkpoints are served in 16 bits by the engines, so activations are called bf16 and weights fp32.
    """
    value = config.get("dtype") or config.get("torch_dtype")
    name = DTYPES.get(str(value).removeprefix("torch."), "bf16")
    return ("bf16" if name == "fp32" else name), name


def weights(
    config: Config, plain: str, stack: Sequence[Block], name: str = ""
) -> tuple[Weights, str | None, list[str]]:
    """``(weights, KV format the checkpoint asks for, warnings)``; ``name`` is what the model is called."""
    raw = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(raw, Mapping) or not raw:
        stored, notes = _named(name, plain, stack)
        return stored, None, notes
    scheme = read_scheme(raw)
    notes = list(scheme.notes)
    base = plain if plain != "fp32" else "bf16"
    found: dict[Component, str] = {}
    for component in IN_LAYER:
        if layers := owners(component, stack):
            formats = Counter(_in_layer(scheme, component, layer, base) for layer in layers)
            found[component], many = formats.most_common(1)[0]
            if many < 0.9 * len(layers):
                notes.append(
                    f"{component} is {found[component]} in {many} of {len(layers)} layers; sized so in all"
                )
    for component, names in BESIDE.items():
        found[component] = _beside(scheme, component, names, base)
    if "experts" in found and not scheme.named and str(config.get("expert_dtype")) in ("fp4", "mxfp4"):
        found["experts"] = "mxfp4"
    main = next((found[part] for part in BY_SIZE if found.get(part, base) != base), base)
    overrides = {part: form for part, form in found.items() if form != main}
    overrides.update({part: base for part in UNQUANTIZED if part not in found})
    if main == base:
        overrides = {}
    return Weights.model_construct(format=main, overrides=overrides), _kv(raw), notes


def _named(name: str, base: str, stack: Sequence[Block]) -> tuple[Weights, list[str]]:
    """A file without a quantization configuration: what the model's name promises, else the plain format."""
    promise = _PROMISE.search(name.casefold())
    if promise is None:
        return Weights.model_construct(format=base), []
    form = PROMISED[promise.group(1)]
    kept: list[Component] = list(UNQUANTIZED)
    if form in ("nvfp4", "mxfp4"):  # 4-bit floating point is for feed-forward layers
        kept += [part for part in _MIXERS if owners(part, stack)]
    word = "weights are not described in the file; taken for"
    return Weights.model_construct(format=form, overrides=dict.fromkeys(kept, base)), [
        f"{word} {form} by the model's name (put hf_quant_config.json beside it, or give --weights-dtype)"
    ]


def _in_layer(scheme: Scheme, component: Component, layer: int, base: str) -> str:
    names = tuple(names_in_layer(component, layer))
    for pattern, form in scheme.named:
        if _means(pattern, names):
            return form
    if component == "router" or scheme.default is None:
        return base if component == "router" else scheme.instead or base
    if any(_means(pattern, names) for pattern in scheme.ignored):
        return base
    # MXFP4 of GPT-OSS is a format of experts alone.
    return scheme.default if scheme.default != "mxfp4" or component == "experts" or scheme.linear else base


def _beside(scheme: Scheme, component: Component, names: tuple[str, ...], base: str) -> str:
    for pattern, form in scheme.named:
        if _means(pattern, names):
            return form
    left_alone = any(_means(pattern, names) for pattern in scheme.ignored)
    if component == "draft" and not left_alone:
        return scheme.default or scheme.instead or base
    if component == "lm_head" and scheme.linear and not left_alone:
        return scheme.default or base
    return base


def _means(pattern: str, names: Sequence[str]) -> bool:
    """Whether a pattern means any of some modules; one with a number is tested only where that number is."""
    number = re.search(r"layers\.(\d+)\b", pattern)
    if number is not None and f"layers.{number.group(1)}." not in names[0]:
        return False
    if pattern.startswith(".") and pattern.endswith("."):
        return any(pattern in name for name in names)
    return any(matches(pattern, name) for name in names)


def _kv(raw: Mapping[str, Any]) -> str | None:
    if isinstance(raw.get("quantization"), Mapping):
        raw = raw["quantization"]
    scheme = raw.get("kv_cache_scheme") or raw.get("kv_cache_quant_algo")
    if isinstance(scheme, str) and "FP8" in scheme.upper():
        return "fp8_e4m3"
    if isinstance(scheme, str) and "NVFP4" in scheme.upper():
        return "nvfp4"
    if isinstance(scheme, Mapping) and scheme.get("type") == "float" and scheme.get("num_bits") == 8:
        return "fp8_e4m3"
    return None
