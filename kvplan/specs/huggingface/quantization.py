"""How a checkpoint stores its weights: in its dtype, quantized as its file says, or as its name promises.

Formats are named as in ``kvplan.sizing.weight_formats``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.specs.attention import LatentAttention
from kvplan.specs.huggingface.config import Config
from kvplan.specs.model import Block, Component, KvFormats, Weights

UNQUANTIZED: tuple[Component, ...] = ("embeddings", "lm_head", "router", "vision", "encoder")
"""Left in the model's dtype by every scheme unless it names them."""

BY_SIZE: tuple[Component, ...] = ("experts", "dense_mlp", "attention", "state", "shared_experts")
"""Whose format a checkpoint is known by: the first of these that is quantized."""

DTYPES = {
    "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float32": "bf16", "float": "bf16", "None": "bf16",
}  # fmt: skip
"""What engines load unquantized weights in: fp32 ones in 16 bits (``dtype=auto`` of vLLM and SGLang)."""

PROMISED = {
    "nvfp4": "nvfp4", "mxfp4": "mxfp4", "fp8": "fp8", "awq": "int4_group128", "gptq": "int4_group128",
    "w4a16": "int4_group128", "int4": "int4_group128", "int8": "int8", "w8a8": "int8",
}  # fmt: skip
"""Words in a model's name that promise quantized weights, and the usual format behind them."""


def model_dtype(config: Config) -> tuple[str, list[str]]:
    """``(dtype of unquantized weights, activations and KV, warnings)``."""
    name = str(config.get("dtype")).removeprefix("torch.")
    notes = []
    if name not in DTYPES:
        notes.append(f"dtype {name[:40]!r} is not known; taken for bf16 (else --weights-dtype)")
    if name in ("float32", "float"):
        notes.append(
            "an fp32 checkpoint: engines load it in 16 bits, and so it is sized (else --weights-dtype fp32)"
        )
    return DTYPES.get(name, "bf16"), notes


def weights(
    config: Config, base: str, stack: Sequence[Block], name: str = ""
) -> tuple[Weights, KvFormats, list[str]]:
    """``(weights, KV format by engine that the checkpoint asks for, warnings)``; ``name``: of the model."""
    raw = config.get("quantization_config") or config.get("compression_config") or _mistrals_own(config)
    if raw and not isinstance(raw, Mapping):
        key = "quantization_config" if config.get("quantization_config") else "compression_config"
        raise config.error(
            f"{str(raw)[:40]!r} does not say how weights are stored: an object does", key,
            hint="write it as the checkpoint's own config.json has it, or remove it and give --weights-dtype",
        )  # fmt: skip
    if not isinstance(raw, Mapping) or not raw:
        stored, notes = _named(name, base, stack)
        return stored, {}, notes
    # Most files say nothing of it: these are not loaded for them.
    from kvplan.specs.huggingface.components import component_formats
    from kvplan.specs.huggingface.kv_cache import kv_formats

    found, notes = component_formats(raw, stack, base, str(config.get("expert_dtype")))
    main = next((found[part] for part in BY_SIZE if found.get(part, base) != base), base)
    # Of the parts that schemes leave alone, those that this one names are said even in its usual format.
    overrides = {part: form for part, form in found.items() if form != main or part in UNQUANTIZED}
    overrides.update({part: base for part in UNQUANTIZED if part not in found})
    if main == base:
        overrides = {}
    latent = any(isinstance(block.attention, LatentAttention) for block in stack)
    kv, words = kv_formats(config, raw, latent=latent)
    return Weights.model_construct(format=main, overrides=overrides), kv, [*notes, *words]


def _mistrals_own(config: Config) -> Mapping[str, Any] | None:
    """What Mistral's ``params.json`` says of weights, as vLLM reads it; ``None`` where it says nothing."""
    raw = config.top.get("quantization")
    if not isinstance(raw, Mapping) or not raw:
        return None
    fp8 = raw.get("qformat_weight") == "fp8_e4m3"
    return {"quant_method": "fp8"} if fp8 else raw


def _named(name: str, base: str, stack: Sequence[Block]) -> tuple[Weights, list[str]]:
    """A file without a quantization configuration: what the model's name promises, else the plain format."""
    words = name.casefold().replace("_", "-").replace(".", "-").split("-")
    promise = next((word for word in words if word in PROMISED), None)
    if promise is None:
        return Weights.model_construct(format=base), []
    form = PROMISED[promise]
    kept: list[Component] = list(UNQUANTIZED)
    if form in ("nvfp4", "mxfp4"):  # 4-bit floating point is for feed-forward layers
        kept += _mixers(stack)
    word = "weights are not described in the file; taken for"
    return Weights.model_construct(format=form, overrides=dict.fromkeys(kept, base)), [
        f"{word} {form} by the model's name (put hf_quant_config.json beside it, or give --weights-dtype)"
    ]


def _mixers(stack: Sequence[Block]) -> list[Component]:
    found: list[Component] = ["attention"]
    if any(block.state is not None for block in stack):
        found.append("state")
    if any(getattr(block.attention, "indexer", None) is not None for block in stack):
        found.append("indexer")
    return found
