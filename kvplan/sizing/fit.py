"""``kvplan.fit/1``: a fit report as one document, with every line of the bill explained."""

from __future__ import annotations

from typing import Any

from kvplan.sizing.capacity import FitReport, StageFit
from kvplan.sizing.context import unasked_words
from kvplan.sizing.flags import NAMES, engine_flags, no_command
from kvplan.sizing.overheads import capture_sizes, captured_sizes
from kvplan.sizing.pool import LOGS_CONCURRENCY
from kvplan.sizing.remedies import Remedy, remedies
from kvplan.sizing.sharding import explain
from kvplan.sizing.support import kv_means, weights_means
from kvplan.sizing.terms import Term
from kvplan.sizing.weights import parameter_count
from kvplan.units import format_bytes, format_tokens

SCHEMA = "kvplan.fit/1"

MEASURED = "measured: vLLM 0.19 on H100, kvplan.sizing.overheads"
COUNTED = "counted from the model's shape"
PROFILED = {
    "vllm": "estimate of vLLM's profiling run, checked against its logs",
    "sglang": "estimate; SGLang does not profile, so this only checks the headroom",
}
REST = "the lines above"
"""Where the lines of a bill come from."""


def fit_document(report: FitReport) -> dict[str, Any]:
    """The JSON document: raw integers and floats, stable key order."""
    bill, serving = report.binding.bill, report.serving
    return {
        "schema": SCHEMA,
        "model": report.model.name,
        "gpu": report.gpu.name,
        "inputs": {
            "gpus": report.parallel.gpus,
            "parallel": report.parallel.to_dict(),
            "max_model_len": report.max_model_len,
            "kv_dtype": report.kv_format.name,
            "weights_dtype": report.weights_format,
            "engine": serving.kind,
            "engine_version": serving.version_text,
            "utilization": serving.utilization,
            "max_num_seqs": report.max_num_seqs,
            "max_num_batched_tokens": serving.max_num_batched_tokens,
            "block_size": serving.block_size,
            "cuda_graphs": serving.cuda_graphs,
            "draft": report.drafter.name if report.drafter is not None else report.draft,
        },
        "fits": report.fits,
        "total_memory_bytes": bill.total_bytes,
        "budget_bytes": bill.budget_bytes,
        "weights_bytes": report.weights_bytes,
        "activation_bytes": report.activation_bytes,
        "graph_bytes": report.graph_bytes,
        "graphs_in_budget": bill.graphs_in_budget,
        "runtime_bytes": report.runtime_bytes,
        "kv_pool_bytes": report.kv_pool_bytes,
        "num_blocks": report.num_blocks,
        "block_size": report.block_size,
        "block_bytes": report.binding.capacity.block_bytes,
        "kv_tokens": report.kv_tokens,
        "request_bytes": report.request_bytes,
        "max_concurrency": round(float(report.max_concurrency), 6),
        "total_concurrency": round(float(report.total_concurrency), 6),
        "longest_context_tokens": report.longest_context(),
        "stages": [_stage(stage) for stage in report.stages],
        "terms": [term.to_dict() for term in bill_terms(report)],
        "flags": engine_flags(report),
        "no_flags": {engine: no_command(report, engine) for engine in NAMES},
        "remedies": [_remedy(remedy) for remedy in remedies(report)],
        "warnings": list(fit_warnings(report)),
    }


def _stage(stage: StageFit) -> dict[str, Any]:
    bill = stage.bill
    return {
        "stage": bill.stage,
        "layers": len(bill.layers),
        "weights_bytes": bill.weights_bytes,
        "weights_by_component": dict(sorted(bill.weights.by_component.items())),
        "activation_bytes": bill.activation_bytes,
        "graph_bytes": bill.graph_bytes,
        "runtime_bytes": bill.runtime_bytes,
        "kv_pool_bytes": bill.kv_pool_bytes,
        "num_blocks": stage.capacity.num_blocks,
        "max_concurrency": round(float(stage.capacity.concurrency), 6),
    }


def _remedy(remedy: Remedy) -> dict[str, Any]:
    after = remedy.report
    return {
        "change": remedy.change,
        "option": remedy.option,
        "fits": after.fits,
        "gpus": after.parallel.gpus,
        "kv_pool_bytes": after.kv_pool_bytes,
        "kv_tokens": after.kv_tokens,
        "max_concurrency": round(float(after.max_concurrency), 6),
        "total_concurrency": round(float(after.total_concurrency), 6),
    }


def bill_terms(report: FitReport) -> list[Term]:
    """The bill of the binding GPU, line by line; deductions are positive numbers."""
    bill, serving = report.binding.bill, report.serving
    usable = "usable_memory"
    terms = [
        Term(usable, f"{report.gpu.name}, what the driver gives", bill.total_bytes, "B", _gpu_source(report))
    ]
    if serving.kind == "vllm":
        formula = f"{bill.total_bytes:,} B x {serving.utilization:g} gpu_memory_utilization"
        terms.append(Term("budget", formula, bill.budget_bytes, "B", "vLLM: a share of total memory"))
    else:
        formula = f"(usable - runtime) x {serving.utilization:g} mem_fraction_static + runtime"
        terms.append(Term("budget", formula, bill.budget_bytes, "B", "SGLang: a share of free memory"))
    terms.append(Term("weights", _weights_formula(report), bill.weights_bytes, "B", COUNTED))
    inside = "" if bill.activation_in_budget else " (outside the budget)"
    terms.append(
        Term(
            "activations",
            bill.activation.formula + inside,
            bill.activation_bytes,
            "B",
            PROFILED[serving.kind],
        )
    )
    tp = report.parallel.tp
    words = "kernels, workspaces" + (f", collectives of {tp} ranks" if tp > 1 else "")
    terms.append(Term("runtime", words, bill.runtime_bytes, "B", MEASURED))
    terms.append(Term("cuda_graphs", _graph_words(report), bill.graph_bytes, "B", MEASURED))
    if bill.images_bytes:
        terms.append(Term("image_cache", "embeddings of images", bill.images_bytes, "B", "SGLang's default"))
    terms.append(Term("kv_pool", "what is left of the budget", bill.kv_pool_bytes, "B", REST))
    capacity = report.binding.capacity
    if capacity.num_blocks:
        formula = f"pool / {capacity.block_bytes:,} B a block of {report.block_size:,} tokens"
        terms.append(Term("num_blocks", formula, capacity.num_blocks, "blocks"))
        terms.append(Term("kv_tokens", tokens_words(report), capacity.kv_tokens, "tokens"))
        request = f"pool / {report.request_bytes:,} B of one request of {report.max_model_len:,} tokens"
        terms.append(Term("max_concurrency", request, round(float(capacity.concurrency), 4), "requests"))
    return terms


def _gpu_source(report: FitReport) -> str:
    source = report.gpu.memory_source or report.gpu.source
    return f"{source.grade}: {source.note or source.url}"


def _weights_formula(report: FitReport) -> str:
    weights = report.binding.bill.weights
    parts = [f"{parameter_count(report.model):,} parameters in {report.weights_format}"]
    split = [
        f"{word} {size}"
        for word, size in (("tp", report.parallel.tp), ("pp", report.parallel.pp))
        if size > 1
    ]
    if split:
        parts.append(f"{' x '.join(split)}: {format_bytes(weights.stored_bytes)} here")
    for name, size in (
        ("draft model", report.binding.bill.drafter_bytes),
        ("rotary table", weights.rotary_bytes),
        ("MLA copies", weights.copies_bytes),
        ("repacking", weights.repack_bytes),
        ("allocator", weights.rounding_bytes),
    ):
        if size >= 1 << 20:
            parts.append(f"{name} {format_bytes(size)}")
    return " + ".join(parts) if not split else ", ".join(parts[:2]) + "".join(f" + {p}" for p in parts[2:])


def _graph_words(report: FitReport) -> str:
    bill, serving = report.binding.bill, report.serving
    if not serving.cuda_graphs:
        return "none captured (eager)"
    where = "in the budget since 0.20" if bill.graphs_in_budget else "outside the budget"
    if serving.kind == "sglang":
        sequences = captured_sizes(serving)[1][-1] // serving.decode_tokens
        return f"batches up to {sequences}, {where}"
    piecewise, full = capture_sizes(serving)
    return f"{piecewise} piecewise + {full} full, {where}"


def tokens_words(report: FitReport) -> str:
    """What the engine means by the tokens of its cache."""
    if report.serving.kind == "sglang":
        return "max_total_num_tokens"
    if report.serving.version >= LOGS_CONCURRENCY:
        return "GPU KV cache size: concurrency x max_model_len"
    return f"GPU KV cache size: blocks{' / groups' if report.layer_groups > 1 else ''} x block size"


_LONGER = {
    "vllm": "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
    "sglang": "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN",
}
"""Environment variables without which the engines refuse contexts longer than the model's configuration."""


def fit_warnings(report: FitReport) -> list[str]:
    """What the reader should know before trusting the numbers."""
    model, gpu, serving = report.model, report.gpu, report.serving
    found = []
    limit = report.context_limit
    if limit is not None and report.max_model_len > limit:
        found.append(
            f"context {format_tokens(report.max_model_len)} is beyond the {format_tokens(limit)} "
            f"of {model.name}: {NAMES[serving.kind]} wants {_LONGER[serving.kind]}=1 to start so"
        )
    if "max_model_len" not in serving.given:
        asked = unasked_words(model, serving.kind, serving.version_text, "--ctx ")
        found += [asked] if asked else []
    if model.dtype == "bf16" and "bf16" not in gpu.peak_flops and gpu.vendor == "nvidia":
        found.append(f"{gpu.name} has no bf16: the engine runs in fp16, which takes the same memory")
    if weights_means(report.weights_format, gpu, serving, serving.kind) == "widened":
        form = report.weights_format
        width = "fp4" if form.endswith("fp4") else "fp8"
        found.append(
            f"{gpu.name} has no {width} arithmetic: weights stay {form} in memory, but compute is 16-bit"
        )
    if kv_means(model, report.kv_format, gpu, serving, serving.kind) == "widened":
        found.append(
            f"{gpu.name} has no fp8 arithmetic: attention widens the KV cache to 16 bits as it reads"
        )
    if gpu.memory_source is not None and gpu.memory_source.grade == "estimated":
        found.append(f"the memory {gpu.name} really gives is estimated, not measured")
    if (reason := no_command(report, serving.kind)) is not None:
        found.append(f"{reason}: no command")
    if serving.unchecked is not None:
        found.append(serving.unchecked)
    if report.fits and report.binding.bill.headroom_bytes < 0:
        short = format_bytes(-report.binding.bill.headroom_bytes)
        found.append(
            f"outside the budget {short} are missing for graphs and activations: lower the utilization"
        )
    if serving.after_capture_bytes is not None:
        found.append("the pool is sized once CUDA graphs are captured: what they take is an estimate here")
    if report.parallel.tp > 1:
        found += _replication(report)
    if model.vision is not None:
        found.append("the vision tower's activation peak is an estimate: it depends on the largest image")
    return found


def _replication(report: FitReport) -> list[str]:
    from kvplan.sizing.attention import Keeping, attention_stores

    keeping = Keeping(report.serving.kind, report.kv_format, report.model.dtype)
    words: dict[str, None] = {}
    for group in report.model.groups():
        if group.block.attention is None:
            continue
        for store in attention_stores(group.block.attention, keeping):
            text = explain(store, report.parallel)
            if "copy" in text or "each head is kept by" in text:
                words[f"{store.name}: {text}"] = None
    return list(words)
