"""The KV number format that engines take from a checkpoint's own files when they are told none.

vLLM (0.33) and SGLang (0.5.23) read the same keys differently, so there is a format for each. Checked by
running their own functions: ``resolve_kv_cache_dtype_string`` and ``Attention.__init__`` of vLLM,
``configure_kv_cache_dtype`` and the quantization classes' ``from_config`` of SGLang.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import Config
from kvplan.specs.model import KvFormats

KEYS = ("kv_cache_scheme", "kv_cache_quant_algo", "kv_cache_quant_config", "kv_cache_group")
"""Where files speak of the cache; the last two are Quark's, which engines read scales by, no format."""

BY_NAME = {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}
"""modelopt's names of formats, as vLLM knows them."""

ELSEWHERE = (
    "the file says nothing of the KV cache: SGLang reads hf_quant_config.json instead and may keep it in fp8 "
    "(--dtype fp8), vLLM keeps the model's dtype"
)
"""modelopt's mixed precision without a word of the cache."""

VLLM_WITHOUT = frozenset(
    {
        "BailingMoeForCausalLM", "BailingMoeV2ForCausalLM", "JambaForCausalLM", "Lfm2MoeForCausalLM",
        "Plamo3ForCausalLM", "Step3TextForCausalLM", "Step3VLForConditionalGeneration", "Zamba2ForCausalLM",
    }
)  # fmt: skip
"""Classes of vLLM that do not tell attention of the quantization: compressed-tensors' scheme is not seen."""

SGLANG_WITHOUT = frozenset(
    {
        "Cohere2VisionForConditionalGeneration", "DeciLMForCausalLM", "DeepseekOCRForCausalLM",
        "DeepseekVL2ForCausalLM", "DotsOCRForCausalLM", "DotsVLMForCausalLM", "Dots3NoteForCausalLM",
        "Ernie4_5_VLMoeForConditionalGeneration", "Glm4vForConditionalGeneration",
        "GlmAsrForConditionalGeneration", "GlmOcrForConditionalGeneration", "HunYuanDenseV1ForCausalLM",
        "HunYuanMoEV1ForCausalLM", "LagunaForCausalLM", "LightOnOCRForConditionalGeneration",
        "LlavaForConditionalGeneration", "LlavaLlamaForCausalLM", "LlavaMistralForCausalLM",
        "LlavaQwenForCausalLM", "MiniCPMO", "MiniCPMV", "MiniCPMV4_6ForConditionalGeneration",
        "MiniCPMV4_7ForConditionalGeneration", "Mistral3ForConditionalGeneration",
        "MultiModalityCausalLM", "NVILAForConditionalGeneration", "NVILALiteForConditionalGeneration",
        "NemotronH_Nano_Omni_Reasoning_V3", "NemotronH_Nano_VL_V2", "NemotronH_Omni_Reasoning_V3",
        "Olmo2ForCausalLM", "OlmoForCausalLM", "Phi4MMForCausalLM", "PixtralForConditionalGeneration",
        "QWenLMHeadModel", "Qwen2AudioForConditionalGeneration", "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration", "Qwen3ASRForConditionalGeneration",
        "Qwen3OmniMoeForConditionalGeneration", "Sarashina2VisionForCausalLM", "Starcoder2ForCausalLM",
        "Step3p7ForConditionalGeneration", "StepVLForConditionalGeneration", "UnlimitedOCRForCausalLM",
        "VoxtralForConditionalGeneration", "WhisperForConditionalGeneration", "YiVLForCausalLM",
    }
)  # fmt: skip
"""Classes of SGLang that do not keep their quantization configuration, where the format is looked up."""


def kv_formats(config: Config, raw: Mapping[str, Any], *, latent: bool) -> tuple[KvFormats, list[str]]:
    """``(format by engine, warnings)``.

    An engine that keeps the model's dtype is not named. ``raw``: the quantization configuration; ``latent``:
    whether layers keep latents, of which vLLM's attention does not look at compressed-tensors' scheme.
    """
    if not _speaks(raw):
        return {}, [ELSEWHERE] if raw.get("quant_algo") == "MIXED_PRECISION" else []
    on_top = isinstance(config.top.get("quantization_config"), Mapping)
    method = _method(raw)
    vllm, words = None, []
    if method.startswith("modelopt"):
        # Falcon's class does not tell its attention how the cache is configured.
        heard = on_top and config.model_type not in families.FALCON
        vllm = _named_by_vllm(raw) if heard else None
    elif method == "compressed-tensors":
        scheme = raw.get("kv_cache_scheme")
        if not latent and config.architecture not in VLLM_WITHOUT:
            vllm = "fp8_e4m3" if _is_float(scheme, 8) else None
        if reason := _refused(scheme):
            words.append(f"vLLM refuses the checkpoint's KV scheme: it wants {reason}")
    nested = not on_top and not config.top.get("compression_config")
    unseen = nested or config.architecture in SGLANG_WITHOUT
    sglang = "fp8_e4m3" if not unseen and _is_fp8_to_sglang(raw) else None
    found: dict[Literal["vllm", "sglang"], str] = {}
    if vllm is not None:
        found["vllm"] = vllm
    if sglang is not None:
        found["sglang"] = sglang
    if not found and not words:
        words.append(
            f"engines take no KV format from {_of(method)} for this model: --dtype fp8 sizes a quantized one"
        )
    return found, words


def _of(method: str) -> str:
    return f"files of {method}" if method else "a file that names no quant_method"


def _speaks(raw: Mapping[str, Any]) -> bool:
    """Whether a file says anything of the cache."""
    return any(part.get(key) for part in (raw, _inner(raw), _mapping(raw.get("export"))) for key in KEYS)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _inner(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ``hf_quant_config.json`` keeps under ``quantization``."""
    return _mapping(raw.get("quantization"))


def _method(raw: Mapping[str, Any]) -> str:
    """As vLLM has it: modelopt's older files do not say, and are known by who made them."""
    inner = _inner(raw)
    made = _mapping(raw.get("producer")).get("name") == "modelopt" or "modelopt_quant_config" in inner
    if made and inner.get("quant_algo") is not None:
        return "modelopt"
    return str(raw.get("quant_method") or "").lower().replace("_", "-")


def _named_by_vllm(raw: Mapping[str, Any]) -> str | None:
    """modelopt's scheme, the inner before the outer; fp8 whose scales are made while serving is not taken."""
    parts = (_inner(raw) or raw, raw)
    asked = next((part[key] for key in KEYS[:2] for part in parts if part.get(key)), None)
    if isinstance(asked, Mapping):
        if _is_float(asked, 8) and asked.get("dynamic") is False:
            return "fp8_e4m3"
        return "nvfp4" if _is_float(asked, 4) else None
    return BY_NAME.get(str(asked).lower())


def _is_fp8_to_sglang(raw: Mapping[str, Any]) -> bool:
    """Whether SGLang's class for the file knows its cache as FP8: it takes no other format."""
    method, inner = raw.get("quant_method"), _inner(raw)
    scheme, named = raw.get("kv_cache_scheme"), raw.get("kv_cache_quant_algo")
    if method == "compressed-tensors":
        return _is_float(scheme, 8) and _is_of_whole_tensors(_mapping(scheme))
    if method in ("fp8", "mxfp8"):
        return _is_fp8(named)
    algorithm = str((inner or raw).get("quant_algo") or "")
    if method not in (None, "modelopt") and not str(method).startswith("modelopt"):
        return False
    if algorithm == "MXFP8":  # whose class does not look inside
        return _is_fp8(named) if named is not None else _is_float(scheme, 8)
    if algorithm == "MIXED_PRECISION" and "FP4" not in str((inner or raw).get("quantized_layers")):
        return False  # taken for 4-bit weights beside fp8 activations, whose class has no cache
    if inner:
        return _is_fp8(inner.get("kv_cache_quant_algo"))
    if isinstance(scheme, Mapping):
        return _is_float(scheme, 8)
    if isinstance(scheme, str) and ("FP4" in algorithm or method == "modelopt_fp4"):
        return scheme.strip().upper() in ("FP8", "FLOAT8")
    return _is_fp8(named)


def _is_fp8(name: object) -> bool:
    return isinstance(name, str) and name.upper() == "FP8"


def _is_float(scheme: object, bits: int) -> bool:
    """Whether a scheme is of floating-point numbers of so many bits."""
    fields = _mapping(scheme)
    return fields.get("type") == "float" and fields.get("num_bits") == bits


def _is_of_whole_tensors(scheme: Mapping[str, Any]) -> bool:
    """Whether each tensor has one scale, which is in the file."""
    plain = scheme.get("symmetric", True) and not scheme.get("dynamic", False)
    return bool(plain) and scheme.get("strategy") == "tensor"


def _refused(scheme: object) -> str | None:
    """What vLLM misses in compressed-tensors' scheme of the cache, at start; ``None`` where it takes it."""
    if scheme is None:
        return None
    fields = _mapping(scheme)
    if not _is_float(scheme, 8):
        return "floating-point numbers of 8 bits"
    if fields.get("strategy") not in ("tensor", "attn_head"):
        return "a scale per tensor or per head"
    return None if fields.get("symmetric") else "symmetric scales"
