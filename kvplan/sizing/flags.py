"""The start-up flags that give a plan: ``vllm serve`` and ``sglang.launch_server``, ready to paste."""

from __future__ import annotations

import json
import shlex

from kvplan.sizing.capacity import FitReport
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.schema import ModelSpec

VLLM_KV = {
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8_e5m2", "fp8_per_token_head": "fp8_per_token_head",
    "int8_per_token_head": "int8_per_token_head", "int4_per_token_head": "int4_per_token_head",
    "nvfp4": "nvfp4", "fp8_ds_mla": "fp8_ds_mla", "nvfp4_ds_mla": "nvfp4_ds_mla",
    "bf16": "bfloat16", "fp16": "float16", "fp32": "float32",
}  # fmt: skip
"""KV number formats vLLM takes, and what it calls them; turboquant names are the same."""

SGLANG_KV = {"fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2", "bf16": "bfloat16", "nvfp4": "fp4_e2m1"}
"""KV number formats SGLang takes, and what it calls them."""


def model_id(model: ModelSpec) -> str:
    """What to hand an engine: the first Hugging Face id among the aliases, else the name."""
    return next((alias for alias in model.aliases if "/" in alias), model.name)


def engine_flags(report: FitReport) -> dict[str, str | None]:
    """The command line of each engine for this plan; ``None`` where the engine lacks the KV format.

    The engine planned for gets its own utilization; for the other one, whose utilization means something
    else, none is given and its default applies.
    """
    return {"vllm": _vllm(report), "sglang": _sglang(report)}


def _kv_flag(report: FitReport, names: dict[str, str]) -> str | None:
    """The KV flag's value; ``auto`` where nothing needs to be said, ``None`` where it cannot be had."""
    name = report.kv_format.name
    if name == report.model.dtype or name == report.model.kv_format:
        return "auto"
    if name.startswith("turboquant"):
        return name if names is VLLM_KV else None
    return names.get(name)


def _weights_flag(report: FitReport) -> tuple[str, str] | None:
    """Quantizing an unquantized checkpoint while it loads; other formats need another checkpoint."""
    if report.weights_format == report.model.weights.format:
        return None
    chosen = weight_format(report.weights_format)
    if not chosen.quantized:
        return "dtype", {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[chosen.name]
    return ("quantization", "fp8") if chosen.name.startswith("fp8") else None


def _vllm(report: FitReport) -> str | None:
    kv = _kv_flag(report, VLLM_KV)
    if kv is None:
        return None
    serving, parallel = report.serving, report.parallel
    flags = [f"vllm serve {model_id(report.model)}"]
    if parallel.dp_attention:
        flags.append(f"--data-parallel-size {parallel.tp}")
    elif parallel.tp > 1:
        flags.append(f"--tensor-parallel-size {parallel.tp}")
    if parallel.pp > 1:
        flags.append(f"--pipeline-parallel-size {parallel.pp}")
    if report.expert_parallel or parallel.dp_attention:
        flags.append("--enable-expert-parallel")
    flags.append(f"--max-model-len {report.max_model_len}")
    if kv != "auto":
        flags.append(f"--kv-cache-dtype {kv}")
    if (weights := _weights_flag(report)) is not None:
        flags.append(f"--{weights[0]} {weights[1]}")
    if report.drafter is not None:
        flags.append(_speculative({"model": model_id(report.drafter)}))
    elif report.draft:
        flags.append(_speculative({"method": "mtp"}))
    if serving.kind == "vllm":
        flags += [
            f"--gpu-memory-utilization {serving.utilization:g}",
            f"--max-num-seqs {serving.max_num_seqs}",
            f"--max-num-batched-tokens {serving.max_num_batched_tokens}",
        ]
        if not serving.cuda_graphs:
            flags.append("--enforce-eager")
    return " ".join(flags)


def _speculative(how: dict[str, str]) -> str:
    text = json.dumps({**how, "num_speculative_tokens": 1}, separators=(",", ":"))
    return f"--speculative-config {shlex.quote(text)}"


def _sglang(report: FitReport) -> str | None:
    kv = _kv_flag(report, SGLANG_KV)
    if kv is None:
        return None
    serving, parallel = report.serving, report.parallel
    flags = [f"python -m sglang.launch_server --model-path {model_id(report.model)}"]
    if parallel.tp > 1:
        flags.append(f"--tp-size {parallel.tp}")
    if parallel.dp_attention:
        flags.append(f"--dp-size {parallel.tp} --enable-dp-attention")
    if parallel.pp > 1:
        flags.append(f"--pp-size {parallel.pp}")
    if report.expert_parallel:
        flags.append(f"--ep-size {parallel.tp}")
    flags.append(f"--context-length {report.max_model_len}")
    if kv != "auto":
        flags.append(f"--kv-cache-dtype {kv}")
    if (weights := _weights_flag(report)) is not None:
        flags.append(f"--{weights[0]} {weights[1]}")
    if report.drafter is not None:
        flags.append(
            f"--speculative-algorithm STANDALONE --speculative-draft-model-path {model_id(report.drafter)}"
        )
    elif report.draft:
        flags.append("--speculative-algorithm NEXTN")
    if serving.kind == "sglang":
        flags.append(f"--mem-fraction-static {serving.utilization:g}")
        flags.append(f"--chunked-prefill-size {serving.max_num_batched_tokens}")
        if not serving.cuda_graphs:
            flags.append("--disable-cuda-graph")
    return " ".join(flags)
