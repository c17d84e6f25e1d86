"""The start-up flags that give a plan: ``vllm serve`` and ``sglang.launch_server``, ready to paste.

Where the plan asks for weights that no flag makes of the model's checkpoint, the command names a placeholder,
and where the model was read from a file that does not say what it is called elsewhere.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace

from kvplan.sizing.attention import default_format
from kvplan.sizing.capacity import FitReport
from kvplan.sizing.computing import activation_dtype
from kvplan.sizing.latent_block import BY_KERNEL, INDEXED_TOKENS
from kvplan.sizing.serving import EngineKind, Serving
from kvplan.sizing.sglang.page import asserts_a_page
from kvplan.sizing.sparse_latents import is_sparse, unasked_format
from kvplan.sizing.stages import has_experts, unstaged
from kvplan.sizing.support import cut_tile, keeps_plain, unread, unserved_state, weights_means
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


TORCH = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What PyTorch and the engines call the unquantized formats."""

KERNEL_TOKENS = 16
"""vLLM's attention kernels on GPUs read blocks of a multiple of this (``MultipleOf(16)`` in its backends)."""

NAMES: dict[EngineKind, str] = {"vllm": "vLLM", "sglang": "SGLang"}
"""What the engines call themselves."""


def model_id(model: ModelSpec) -> str:
    """What to hand an engine: a Hugging Face id, or a placeholder, as it knows no name of kvplan's own."""
    return _hub_id(model) or f"<checkpoint of {model.name}>"


def _hub_id(model: ModelSpec) -> str | None:
    return next((alias for alias in model.aliases if "/" in alias), None)


def engine_flags(report: FitReport, *, eagle: bool = False) -> dict[str, str | None]:
    """The command line of each engine for this plan; ``None`` where it has none (:func:`no_command`).

    The engine planned for gets its own utilization; for the other one, whose utilization means something
    else, none is given and its default applies. ``eagle``: the drafter is layers trained for the model.
    """
    return {
        "vllm": None if no_command(report, "vllm") else _vllm(report),
        "sglang": None if no_command(report, "sglang", eagle=eagle) else _sglang(report, eagle=eagle),
    }


def no_command(report: FitReport, engine: EngineKind, *, eagle: bool = False) -> str | None:
    """Why the engine cannot be started so; ``None`` where it can. ``eagle``: see ``engine_flags``."""
    serving, gpu = report.serving, report.gpu
    name = NAMES[engine]
    if (state := unserved_state(report.model)) is not None:
        return f"{name} has no models with layers of {state}"
    if (uncut := unstaged(report.model, engine, report.parallel.pp)) is not None:
        return uncut
    if keeps_plain(report.model, report.kv_format, engine):
        return (
            f"vLLM's class of {report.model.name} keeps K and V in {report.model.dtype}, whatever it is told"
        )
    if _kv_flag(report, engine) is None:
        return f"{name} has no {report.kv_format.name} KV cache"
    if engine == "vllm" and report.expert_parallel and not has_experts(report.model):
        return f"vLLM refuses expert parallelism of {report.model.name}, which has no experts"
    where = f"on {gpu.name} (compute capability {gpu.compute_capability})"
    if weights_means(report.weights_format, gpu, serving, engine) == "none":
        return f"{name} has no kernels for {report.weights_format} weights {where}"
    whole = report.expert_parallel or (engine == "vllm" and report.parallel.dp_attention)
    tp = 1 if whole else report.parallel.tp
    if cut := cut_tile(report.model, report.weights_format, tp, serving, engine):
        return (
            f"{name} does not load {report.weights_format} experts of which a GPU has {cut[0]:,} columns: it "
            f"wants whole tiles of {cut[1]} (a smaller tp, or expert parallelism)"
        )
    if (missing := unread(report.model, report.kv_format, gpu, serving, engine)) is not None:
        return f"{name} has no attention kernels for {missing} {where}"
    if engine == serving.kind == "vllm" and serving.block_size % (wanted := _kernel_tokens(report)):
        return (
            f"vLLM has no attention kernels for blocks of {serving.block_size:,} "
            f"token{'s'[: serving.block_size > 1]}: they take multiples of {wanted}"
        )
    if engine == serving.kind == "vllm" and serving.max_num_batched_tokens < serving.max_num_seqs:
        return (
            f"vLLM refuses a step of {serving.max_num_batched_tokens:,} tokens for "
            f"{serving.max_num_seqs:,} sequences: it wants a token for each"
        )
    drafts = report.draft or report.lookup or report.drafter is not None
    if engine == "sglang" and drafts and report.parallel.pp > 1:
        return "SGLang starts pipeline stages with drafts only on prefill servers"
    if engine == "sglang" and report.drafter is not None and not eagle and report.parallel.dp_attention:
        return "SGLang does not start ranks of data-parallel attention for which another model drafts"
    if engine == report.serving.kind == "sglang" and asserts_a_page(report.model, serving):
        return (
            "SGLang stops at start without its overlap scheduler on this GPU: the kernels it chooses for the "
            "model want spare states, which it then keeps only in pages that were given (--page-size 64), or "
            "no radix cache (--disable-radix-cache)"
        )
    if engine == "sglang" and chunk_splits_pages(report):
        return (
            f"SGLang refuses chunks of {serving.max_num_batched_tokens:,} tokens in pages of "
            f"{report.block_size:,}: it wants whole pages"
        )
    return None


def _kernel_tokens(report: FitReport) -> int:
    """Of how many tokens vLLM's kernels want multiples in a block that was asked for; it widens its own."""
    serving = report.serving
    asked = "block_size" in serving.given and serving.version >= BY_KERNEL
    sparse = asked and report.gpu.vendor == "nvidia" and is_sparse(report.model)
    return INDEXED_TOKENS if sparse else KERNEL_TOKENS


def chunk_splits_pages(report: FitReport) -> bool:
    """Whether SGLang, planned for, would end its chunks within a page."""
    serving = report.serving
    return serving.kind == "sglang" and serving.max_num_batched_tokens % report.block_size != 0


def _kv_flag(report: FitReport, engine: EngineKind) -> str | None:
    """The KV flag's value; ``auto`` where nothing needs to be said, ``None`` where it cannot be had."""
    name = report.kv_format.name
    own = report.weights_format == report.model.weights.format
    dtype = activation_dtype(report.model, None if own else report.weights_format, report.gpu, engine)
    if engine == "sglang" and is_sparse(report.model):
        return SGLANG_KV.get(name)  # which has a default of its own on each GPU
    if engine == report.serving.kind == "vllm" and (unasked := unasked_format(report.model, report.serving)):
        return "auto" if name == unasked else VLLM_KV.get(name)
    if name == default_format(report.model, engine, dtype):
        return "auto"
    if name.startswith("turboquant"):
        return name if engine == "vllm" else None
    return (VLLM_KV if engine == "vllm" else SGLANG_KV).get(name)


def needs_checkpoint(report: FitReport) -> bool:
    """Whether the planned weights are in no checkpoint that the model's spec names, nor made by a flag.

    Engines widen or narrow an unquantized checkpoint while they load it, and quantize it to fp8.
    """
    own, asked = weight_format(report.model.weights.format), weight_format(report.weights_format)
    if _same_weights(report):
        return False
    return own.quantized or (asked.quantized and asked.name != "fp8")


def _same_weights(report: FitReport) -> bool:
    """Names differ where formats do not: ``awq`` and ``int4`` are one."""
    own, asked = weight_format(report.model.weights.format), weight_format(report.weights_format)
    return asked == own or (asked.quantized and replace(asked, name=own.name) == own)


def _checkpoint(report: FitReport) -> str:
    """The checkpoint to serve, quoted for a shell; a placeholder where another one is needed."""
    name = model_id(report.model)
    if needs_checkpoint(report):
        known = _hub_id(report.model) or report.model.name
        article = "an" if report.weights_format[0] in "aefimn" else "a"  # as the names are spoken: an nvfp4
        name = f"<{article} {report.weights_format} checkpoint of {known}>"
    return shlex.quote(name)


def _weights_flag(report: FitReport) -> str | None:
    """Casting or quantizing an unquantized checkpoint while it loads."""
    if _same_weights(report) or needs_checkpoint(report):
        return None
    name = weight_format(report.weights_format).name
    if name == "fp8":
        return "--quantization fp8"
    return f"--dtype {TORCH[name]}"


def _vllm(report: FitReport) -> str:
    kv = _kv_flag(report, "vllm")
    serving, parallel = report.serving, report.parallel
    flags = [f"vllm serve {_checkpoint(report)}"]
    if parallel.dp_attention:
        flags.append(f"--data-parallel-size {parallel.attention_ranks}")
    if parallel.attention_tp > 1:
        flags.append(f"--tensor-parallel-size {parallel.attention_tp}")
    if parallel.pp > 1:
        flags.append(f"--pipeline-parallel-size {parallel.pp}")
    if report.expert_parallel:
        flags.append("--enable-expert-parallel")
    flags.append(f"--max-model-len {report.max_model_len}")
    if kv != "auto":
        flags.append(f"--kv-cache-dtype {kv}")
    if (weights := _weights_flag(report)) is not None:
        flags.append(weights)
    if report.drafter is not None:
        flags.append(_speculative({"model": model_id(report.drafter)}, drafts_of(serving)))
    elif report.draft:
        flags.append(_speculative({"method": "mtp"}, drafts_of(serving)))
    elif report.lookup:
        flags.append(_speculative({"method": "ngram"}, drafts_of(serving)))
    if serving.kind == "vllm":
        flags += [
            f"--gpu-memory-utilization {serving.utilization:g}",
            f"--max-num-seqs {serving.max_num_seqs}",
            f"--max-num-batched-tokens {serving.max_num_batched_tokens}",
        ]
        if "block_size" in serving.given:  # which may be another one than the kernels' own
            flags.append(f"--block-size {serving.block_size}")
        if serving.prefix_caching is not None:
            flags.append(f"--{'' if serving.prefix_caching else 'no-'}enable-prefix-caching")
        if not serving.cuda_graphs:
            flags.append("--enforce-eager")
    return " ".join(flags)


def drafts_of(serving: Serving) -> int:
    """Drafts of a step, of an engine that drafts."""
    return max(1, serving.decode_tokens - 1)


def _speculative(how: dict[str, str], drafts: int) -> str:
    text = json.dumps({**how, "num_speculative_tokens": drafts}, separators=(",", ":"))
    return f"--speculative-config {shlex.quote(text)}"


def _sglang(report: FitReport, *, eagle: bool) -> str:
    kv = _kv_flag(report, "sglang")
    serving, parallel = report.serving, report.parallel
    flags = [f"python -m sglang.launch_server --model-path {_checkpoint(report)}"]
    if parallel.tp > 1:
        flags.append(f"--tp-size {parallel.tp}")
    if parallel.dp_attention:
        flags.append(f"--dp-size {parallel.attention_ranks} --enable-dp-attention")
    if parallel.pp > 1:
        flags.append(f"--pp-size {parallel.pp}")
    if report.expert_parallel:
        flags.append(f"--ep-size {parallel.tp}")
    flags.append(f"--context-length {report.max_model_len}")
    if kv != "auto":
        flags.append(f"--kv-cache-dtype {kv}")
    if (weights := _weights_flag(report)) is not None:
        flags.append(weights)
    if report.drafter is not None or report.draft:
        flags += _chain(report.drafter, drafts_of(serving), eagle=eagle)
    if serving.kind == "sglang":
        flags.append(f"--mem-fraction-static {serving.utilization:g}")
        flags.append(f"--chunked-prefill-size {serving.max_num_batched_tokens}")
        if "max_num_seqs" in serving.given:  # SGLang's own limit follows from its pool
            flags.append(f"--max-running-requests {serving.max_num_seqs}")
        if "block_size" in serving.given:
            flags.append(f"--page-size {serving.block_size}")
        if not serving.cuda_graphs:
            flags.append("--disable-cuda-graph")
    return " ".join(flags)


def _chain(drafter: ModelSpec | None, drafts: int, *, eagle: bool) -> Iterator[str]:
    """SGLang's drafts, one behind the other; without a drafter the model's own layers make them."""
    if drafter is None:
        yield "--speculative-algorithm NEXTN"
    else:
        name = model_id(drafter)
        third = "eagle3" in name.lower().replace("-", "")
        yield f"--speculative-algorithm {('EAGLE3' if third else 'EAGLE') if eagle else 'STANDALONE'}"
        yield f"--speculative-draft-model-path {shlex.quote(name)}"
    yield f"--speculative-num-steps {drafts} --speculative-eagle-topk 1"
    yield f"--speculative-num-draft-tokens {1 + drafts}"
