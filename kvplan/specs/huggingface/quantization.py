"""How a checkpoint stores its weights, from its quantization configuration.

Formats are named as in ``kvplan.sizing.weight_formats``. Patterns of modules left alone are tested against
the names that modules of each component usually have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from kvplan.specs.huggingface.config import Config
from kvplan.specs.model import Component, Weights

PROBES: dict[Component, tuple[str, ...]] = {
    "lm_head": (
        "lm_head",
        "language_model.lm_head",
        "head",
    ),
    "attention": (
        "model.layers.9.self_attn.q_proj",
        "model.layers.9.self_attn.kv_b_proj",
        "layers.9.attn.wq_a",
    ),
    "state": (
        "model.layers.9.linear_attn.in_proj_qkvz",
        "model.layers.9.mixer.in_proj",
        "model.layers.9.mamba.in_proj",
    ),
    "router": (
        "model.layers.9.mlp.gate",
        "model.layers.9.mlp.router",
        "model.layers.9.block_sparse_moe.gate",
    ),
    "shared_experts": (
        "model.layers.9.mlp.shared_experts.up_proj",
        "model.layers.9.mlp.shared_expert.up_proj",
    ),
    "experts": (
        "model.layers.9.mlp.experts.3.up_proj",
        "model.layers.9.block_sparse_moe.experts.3.w1",
    ),
    "dense_mlp": ("model.layers.9.mlp.up_proj",),
    "draft": (
        "mtp.layers.0.mlp.up_proj",
        "model.mtp.layers.0.mlp.up_proj",
    ),
    "vision": (
        "model.visual.blocks.0.mlp.fc1",
        "vision_tower.encoder.0.mlp.fc1",
    ),
}

NEVER_QUANTIZED: tuple[Component, ...] = ("embeddings", "lm_head", "router", "vision", "encoder")
"""Left in the model's dtype by every scheme unless it says otherwise."""

DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def model_dtype(config: Config) -> tuple[str, str]:
    """``(dtype of activations and KV, format of unquantized weights)``.

    fp32 checkpoints are served in 16 bits by the engines, so activations are called bf16 and weights fp32.
    """
    value = config.get("dtype") or config.get("torch_dtype")
    name = DTYPES.get(str(value).removeprefix("torch."), "bf16")
    return ("bf16" if name == "fp32" else name), name


def weights(config: Config, plain: str) -> tuple[Weights, str | None, list[str]]:
    """``(weights, KV format the checkpoint asks for, warnings)``."""
    raw = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(raw, Mapping) or not raw:
        return Weights.model_construct(format=plain), None, []
    name, notes = _format(raw)
    if name is None:
        return Weights.model_construct(format=plain), _kv(raw), notes
    ignored = _ignored(raw)
    overrides: dict[Component, str] = {}
    base = plain if plain != "fp32" else "bf16"
    for component in NEVER_QUANTIZED:
        overrides[component] = base
    for component, probes in PROBES.items():
        if any(_matches(pattern, probe) for pattern in ignored for probe in probes):
            overrides[component] = base
    if name in ("nvfp4", "mxfp4") and _experts_only(raw):
        other = "fp8_block128" if raw.get("weight_block_size") else base
        for component in ("attention", "dense_mlp", "shared_experts", "state", "indexer", "draft"):
            overrides.setdefault(component, other)
    if str(config.get("expert_dtype")) in ("fp4", "mxfp4"):
        overrides["experts"] = "mxfp4"
    return Weights.model_construct(format=name, overrides=overrides), _kv(raw), notes


def _format(raw: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    method = str(raw.get("quant_method") or "").lower()
    algorithm = str(raw.get("quant_algo") or raw.get("moe_quant_algo") or "").upper()
    if algorithm == "MIXED_PRECISION":
        layers = raw.get("quantized_layers")
        kinds = (
            {str(item.get("quant_algo")) for item in layers.values()}
            if isinstance(layers, Mapping)
            else set()
        )
        algorithm = (
            "NVFP4" if any("NVFP4" in kind for kind in kinds) else next(iter(sorted(kinds)), "").upper()
        )
    if "NVFP4" in algorithm:
        return "nvfp4", []
    if algorithm.startswith("FP8"):
        return "fp8", []
    if algorithm in ("W4A16_AWQ", "W4A8_AWQ"):
        return "int4_group128", []
    if method == "mxfp4":
        return "mxfp4", []
    if method in ("fp8", "fbgemm_fp8", "finegrained_fp8"):
        return ("fp8_block128" if raw.get("weight_block_size") else "fp8_channel"), []
    if method in ("awq", "gptq", "auto-round", "autoround", "gptq_marlin", "awq_marlin"):
        bits, group = (
            raw.get("bits", raw.get("w_bit", 4)),
            raw.get("group_size", raw.get("q_group_size", 128)),
        )
        return _integer(bits, group)
    if method in ("compressed-tensors", "modelopt") or raw.get("config_groups"):
        return _compressed_tensors(raw)
    if method == "bitsandbytes":
        return ("int4_group64" if raw.get("load_in_4bit") else "int8"), []
    name = method or algorithm or "without a name"
    return None, [f"weight quantization {name!r} is not known; sized as stored in 16 bits"]


def _compressed_tensors(raw: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    groups = raw.get("config_groups")
    first: Any = next(iter(groups.values()), {}) if isinstance(groups, Mapping) else {}
    scheme = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(scheme, Mapping):
        return None, ["the quantization configuration has no scheme for weights"]
    bits, group = scheme.get("num_bits"), scheme.get("group_size")
    if scheme.get("type") == "float":
        if bits == 8:
            return ("fp8_block128" if scheme.get("strategy") == "block" else "fp8_channel"), []
        if bits == 4:
            return ("mxfp4" if group == 32 else "nvfp4"), []
    return _integer(bits, group)


def _integer(bits: object, group: object) -> tuple[str | None, list[str]]:
    if bits == 8:
        return "int8", []
    if bits == 4:
        return (f"int4_group{group}" if group in (32, 64, 128) else "int4_group128"), []
    return None, [f"{bits}-bit weights are not known; sized as stored in 16 bits"]


def _kv(raw: Mapping[str, Any]) -> str | None:
    scheme = raw.get("kv_cache_scheme") or raw.get("kv_cache_quant_algo")
    if isinstance(scheme, str) and "FP8" in scheme.upper():
        return "fp8_e4m3"
    if isinstance(scheme, str) and "NVFP4" in scheme.upper():
        return "nvfp4"
    if isinstance(scheme, Mapping) and scheme.get("type") == "float" and scheme.get("num_bits") == 8:
        return "fp8_e4m3"
    return None


def _ignored(raw: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for key in ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules"):
        value = raw.get(key)
        if isinstance(value, list):
            found += [item for item in value[:4096] if isinstance(item, str)]
    # Most lists name the same module in every layer: once each, with the layer's number made generic.
    return list(dict.fromkeys(re.sub(r"\b\d+\b", "9", pattern) for pattern in found))


def _matches(pattern: str, probe: str) -> bool:
    """Glob, ``re:`` expression with only plain parts, or a module name that contains the pattern."""
    if pattern.startswith("re:"):
        # Untrusted expressions are not run: their literal words are compared instead.
        words = re.findall(r"[a-z_]{4,}", pattern[3:])
        return bool(words) and all(word in probe for word in words)
    return fnmatch(probe, pattern) or fnmatch(probe, f"{pattern}.*") or f".{pattern}." in f".{probe}."


def _experts_only(raw: Mapping[str, Any]) -> bool:
    if raw.get("moe_quant_algo"):
        return True
    ignored = _ignored(raw)
    return raw.get("quant_method") == "mxfp4" and any("self_attn" in item for item in ignored)
