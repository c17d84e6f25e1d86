"""What a model's layers compute in: its own dtype, that asked of its weights, or what a GPU makes of it.

GPUs before Ampere have no bf16: engines take fp16 instead, vLLM fp32 for models that overflow in it (its
list, 0.10 to 0.33: Gemma 2 and 3, GLM-4-0414).
"""

from __future__ import annotations

from kvplan.sizing.serving import EngineKind, compute_capability
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.schema import GpuSpec, ModelSpec

AMPERE = (8, 0)

OVERFLOWING = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""``model_type`` of those, which is the family of an imported model."""
OVERFLOWING_NAMES = ("gemma-2-", "gemma-3-")


def activation_dtype(
    model: ModelSpec, weights_dtype: str | None, gpu: GpuSpec | None = None, engine: EngineKind = "vllm"
) -> str:
    """What is computed in: unquantized weights that are asked for say it, else the model and the GPU."""
    if weights_dtype is not None and not (chosen := weight_format(weights_dtype)).quantized:
        return chosen.name
    without = gpu is not None and gpu.vendor == "nvidia" and compute_capability(gpu) < AMPERE
    if model.dtype != "bf16" or not without:
        return model.dtype
    overflows = model.family in OVERFLOWING or model.name.startswith(OVERFLOWING_NAMES)
    return "fp32" if engine == "vllm" and overflows else "fp16"


def loaded_format(model: ModelSpec, weights_dtype: str | None, dtype: str) -> str | None:
    """The weights' format in memory, if not the checkpoint's: plain ones are widened to ``dtype``."""
    if weights_dtype is None and dtype == "fp32" and not weight_format(model.weights.format).quantized:
        return dtype if model.dtype != dtype else None
    return weights_dtype
