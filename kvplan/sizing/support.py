"""Which number formats an engine runs on a GPU: as they are, widened to 16 bits when they are read, or not;
and which layers no engine has.

Sources: vLLM's tables of quantization hardware (0.9.2 to 0.14: fp8 by Marlin from Ampere on, W8A8 from Turing
on) and its page on fp8 (0.32: weight-only from compute capability 7.5); vllm-project/vllm#29901 (Marlin on
Turing: fp8 and nvfp4, not mxfp4), #45375 (FlashInfer, which reads fp8 KV without fp8 arithmetic, from 8.0
on), #46963 (nvfp4 KV is written on compute capability 10 only). SGLang is taken to widen what vLLM does from
8.0 on. Experts whose tiles are cut: the check of both engines' ``Fp8MoEMethod.create_weights``
(vllm-project/vllm#17569; SGLang 0.5.21 has it still).
"""

from __future__ import annotations

from typing import Literal

from kvplan.sizing.attention import DTYPE_BYTES
from kvplan.sizing.computing import activation_dtype
from kvplan.sizing.head_kernels import AMPERE, Version, are_read, kept_heads
from kvplan.sizing.latent_block import BY_KERNEL, unread_latents
from kvplan.sizing.serving import BLACKWELL, EngineKind, Serving, compute_capability, engine_version
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.formats import KvFormat
from kvplan.specs.model import ModelSpec
from kvplan.specs.schema import FullAttention, GpuSpec, LatentAttention
from kvplan.specs.state import MatrixMemoryState, RecurrentState, RwkvState, WkvState

Means = Literal["native", "widened", "none"]

UNSERVED = {
    RwkvState: "RWKV", WkvState: "RWKV", MatrixMemoryState: "xLSTM", RecurrentState: "RG-LRU (Griffin)",
}  # fmt: skip
"""Layers that no model of either engine has (registries of vLLM 0.33 and SGLang 0.5.23)."""

PLAIN_FAMILIES = ("falcon", "refinedweb", "refinedwebmodel")
"""Families whose class in vLLM 0.33 does not tell attention how the cache is configured; no other is so."""

TURING = (7, 5)

MARLIN_ON_TURING = (0, 15)
"""vLLM whose Marlin kernels are built for Turing: 0.14's table still says no."""

CUTS_TILES = (0, 29)
"""vLLM that gives cut tiles finer scales when it loads them: 0.28 still refused (#54178)."""


def weights_means(name: str, gpu: GpuSpec, serving: Serving, engine: EngineKind) -> Means:
    """How ``engine`` multiplies weights of this format on the GPU; of another engine, its newest release."""
    form, capability = weight_format(name), compute_capability(gpu)
    float8, float4 = form.name.startswith(("fp8", "mxfp8")), form.name.endswith("fp4")
    if gpu.vendor != "nvidia":
        lacks = (float4 and "fp4" not in gpu.peak_flops) or (float8 and "fp8" not in gpu.peak_flops)
        return "widened" if lacks else "native"
    if form.name == "int8":
        return "native" if capability >= TURING else "none"
    if not (float8 or float4) or ("fp8" if float8 else "fp4") in gpu.peak_flops:
        return "native"
    on_turing = engine == "vllm" and not form.name.startswith("mx")
    if engine == serving.kind:
        on_turing = on_turing and serving.version[:2] >= MARLIN_ON_TURING
    return "widened" if capability >= (TURING if on_turing else AMPERE) else "none"


def kv_means(model: ModelSpec, form: KvFormat, gpu: GpuSpec, serving: Serving, engine: EngineKind) -> Means:
    """How ``engine`` reads a cache of this format on the GPU; of another engine, its newest release."""
    if keeps_plain(model, form, engine) or unread(model, form, gpu, serving, engine) is not None:
        return "none"
    return "widened" if form.name.startswith("fp8") and "fp8" not in gpu.peak_flops else "native"


def keeps_plain(model: ModelSpec, form: KvFormat, engine: EngineKind) -> bool:
    """Whether ``engine`` starts with this format and ignores it, keeping K and V in the model's dtype."""
    heads = any(isinstance(block.attention, FullAttention) for block in model.layers())
    plain = engine == "vllm" and model.family in PLAIN_FAMILIES and heads
    return plain and form.name not in (*DTYPE_BYTES, model.asked_format(engine))


def unread(
    model: ModelSpec, form: KvFormat, gpu: GpuSpec, serving: Serving, engine: EngineKind
) -> str | None:
    """What ``engine`` has no attention kernels for on the GPU, in words; None where it has them, or where
    nobody looked (other vendors' GPUs)."""
    if gpu.vendor != "nvidia":
        return None
    capability = compute_capability(gpu)
    if engine == "vllm":
        version = serving.version if engine == serving.kind else engine_version(engine, None)
        if version >= BY_KERNEL and capability > (0, 0):
            return _unread_by_kernels(model, form, gpu, version)
        if form.name == "nvfp4" and capability[0] != BLACKWELL:
            return f"{form.name} KV"
    if form.name.startswith("fp8") and "fp8" not in gpu.peak_flops and capability < AMPERE:
        return f"{form.name} KV"
    return None


def _unread_by_kernels(model: ModelSpec, form: KvFormat, gpu: GpuSpec, version: Version) -> str | None:
    """vLLM that asks its kernels what they read."""
    capability, blocks = compute_capability(gpu), model.layers()
    if form.name.startswith("turboquant"):
        return None
    dtype = activation_dtype(model, None, gpu)
    for heads in kept_heads(model, (), form.name, dtype):
        if not are_read(heads, capability, version):
            return heads.words
    latents = {block.attention for block in blocks if isinstance(block.attention, LatentAttention)}
    kept = [item for item in latents if "vllm" not in item.expanded_in]
    return next(
        (words for item in kept if (words := unread_latents(item, form.name, capability, version))), None
    )


def cut_tile(
    model: ModelSpec, weights_format: str, tp: int, serving: Serving, engine: EngineKind
) -> tuple[int, int] | None:
    """Columns of an expert on one of ``tp`` GPUs that cut it, and of the tile that ``engine`` wants whole.

    None where it loads them: weights in tiles share a scale, which a tile that is cut has no place for.
    """
    if engine == "vllm" and (engine != serving.kind or serving.version[:2] >= CUTS_TILES):
        return None
    parts = model.weights.overrides if weights_format == model.weights.format else {}
    tile = weight_format(parts.get("experts", weights_format)).tile
    for group in model.groups():
        mlp = group.block.mlp
        if tile and mlp is not None and mlp.kind == "moe" and (columns := mlp.intermediate_size // tp) % tile:
            return columns, tile
    return None


def unserved_state(model: ModelSpec) -> str | None:
    """What layers of the model are called that no engine serves; ``None`` where there are none."""
    kinds = (type(group.block.state) for group in model.groups())
    return next((UNSERVED[kind] for kind in kinds if kind in UNSERVED), None)
