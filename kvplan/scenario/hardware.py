"""The parts of a result that come from a model and a GPU: shapes, memory bill, capacity curves."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from kvplan.engine.config import EngineConfig
from kvplan.errors import AnswerIsNo, UsageError
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario
from kvplan.sizing.capacity import FitReport, capacity_curve
from kvplan.sizing.fit import REST, bill_terms
from kvplan.sizing.flags import SGLANG_KV, VLLM_KV
from kvplan.sizing.report import number
from kvplan.sizing.size import size_model
from kvplan.sizing.support import kv_means
from kvplan.sizing.terms import Term
from kvplan.specs.formats import check_fits, kv_format
from kvplan.specs.schema import ModelSpec

CURVE_FORMATS = ("bf16", "fp8", "int4_per_token_head")
"""KV formats whose capacity a report shows beside the deployment's own."""

BILL = ("weights", "activations", "cuda_graphs", "runtime", "kv_pool")


def hardware_objects(scenario: Scenario, deployment: Deployment, gpus: int) -> dict[str, Any]:
    """``model``, ``gpu`` (``gpus`` of them), ``memory`` and ``capacity`` of a result; None where unknown."""
    model, gpu, fit = deployment.model, deployment.gpu, deployment.fit
    return {
        "model": None if model is None else _model(model, fit, scenario, deployment),
        "gpu": None
        if gpu is None
        else {
            "name": gpu.name,
            "memory_bytes": gpu.usable_memory_bytes,
            "bandwidth_bytes_per_s": gpu.bandwidth_bytes_per_s,
            "count": gpus,
        },
        "memory": None if fit is None else _memory(scenario, fit, deployment),
        "capacity": None if fit is None else _capacity(scenario, fit),
    }


def _model(
    model: ModelSpec, fit: FitReport | None, scenario: Scenario, deployment: Deployment
) -> dict[str, Any]:
    form = scenario.cache.dtype if fit is None else fit.kv_format
    report = size_model(model, context_tokens=deployment.config.max_model_len, kv=form)
    kinds = ", ".join(f"{row.count} x {row.kind}" for row in report.rows)
    return {
        "name": model.name,
        "summary": f"{model.num_layers} layers: {kinds}",
        "kv_bytes_per_token": report.kv_bytes_per_token,
        "state_bytes_per_sequence": report.state_bytes_per_sequence,
        "weights_bytes": None if fit is None else fit.weights_bytes,
        "kv_dtype": report.request.form.name,
    }


def _memory(scenario: Scenario, fit: FitReport, deployment: Deployment) -> dict[str, Any]:
    lines = {term.name: term for term in bill_terms(fit)}
    pool = _given_pool(scenario, fit, deployment)
    if pool is not None:
        lines[pool.name] = pool
    bill = [
        {"name": name, "bytes": int(line.value), "formula": line.formula, "source": line.source}
        for name in BILL
        if (line := lines.get(name)) is not None and line.value > 0
    ]
    total = fit.binding.bill.total_bytes
    unused = total - sum(int(line.value) for name, line in lines.items() if name in BILL and line.value > 0)
    if unused > 0:
        why = "left outside the engine's share of memory" + ("" if pool is None else ", and beside the pool")
        bill.append({"name": "unused", "bytes": unused, "formula": why, "source": REST})
    return {
        "bill": bill,
        "total_bytes": total,
        "num_blocks": fit.num_blocks,
        "block_size": fit.block_size,
        "kv_tokens": fit.kv_tokens,
        "max_concurrency": _concurrency(fit, deployment) * scenario.parallel.replicas,
        "max_concurrency_context": fit.max_model_len,
        "starts": fit.fits or not _checked(scenario),
        "longest_request": fit.longest_context(),
    }


def refuse_start(context_tokens: int, longest: int | None) -> AnswerIsNo:
    """What says no of an engine whose pool has no room for one request as long as it would take.

    Args:
        context_tokens: its ``max_model_len``.
        longest: tokens of the longest request that fits; 0 or None for none.
    """
    return AnswerIsNo(
        f"the engine would not start: its KV pool has no room for one request of {context_tokens:,} tokens",
        hint=f"add --set engine.max_model_len={longest}, the longest that fits"
        if longest
        else "see what would fit: kvplan fit",
    )


def would_not_start(scenario: Scenario, deployment: Deployment) -> AnswerIsNo | None:
    """Why the engine of a deployment would not start; None where it would, or nobody knows."""
    fit = deployment.fit
    if fit is None or fit.fits or not _checked(scenario):
        return None
    return refuse_start(fit.max_model_len, fit.longest_context())


def _given_pool(scenario: Scenario, fit: FitReport, deployment: Deployment) -> Term | None:
    """What a pool takes that was given, and not left to the bill; None where it was not.

    vLLM allocates the blocks it is told. SGLang's pools beside the full one are sized by its tokens, but for
    states, which have their slots first.
    """
    config, capacity, pool = deployment.config, fit.binding.capacity, fit.binding.pool
    if isinstance(config, EngineConfig):
        if scenario.cache.blocks is None:
            return None
        words = f"given: {config.num_blocks:,} blocks x {capacity.block_bytes:,} B"
        return Term("kv_pool", words, config.num_blocks * capacity.block_bytes, "B", _GIVEN)
    if config.pool_tokens == fit.kv_tokens:
        return None
    size = math.ceil(config.pool_tokens * pool.token_bytes)
    words = f"given: {config.pool_tokens:,} tokens x {number(pool.token_bytes):,} B"
    if capacity.states:
        size += capacity.states * pool.state_bytes
        words += f" + {capacity.states:,} states x {pool.state_bytes:,} B"
    return Term("kv_pool", words, size, "B", _GIVEN)


_GIVEN = "the scenario"


def _checked(scenario: Scenario) -> bool:
    """Whether the engine looks if one longest request fits before it starts, and the bill says what it sees.

    vLLM does, SGLang lowers its limit instead. A pool that was given is a what-if, and other ways to hold
    blocks are nobody's engine.
    """
    cache = scenario.cache
    plain = cache.blocks is None and cache.retention == "engine" and cache.allocation.kind == "paged"
    return scenario.engine.kind == "vllm" and plain and scenario.disaggregation is None


def _concurrency(fit: FitReport, deployment: Deployment) -> float:
    """Longest requests that a replica holds at once: a pool that was given need not be the bill's."""
    config = deployment.config
    if isinstance(config, EngineConfig):
        given, fitting = config.num_blocks, fit.num_blocks
    else:
        given, fitting = config.pool_tokens, fit.kv_tokens
    return float(fit.total_concurrency * Fraction(given, fitting)) if fitting > 0 else 0.0


def _capacity(scenario: Scenario, fit: FitReport) -> list[dict[str, Any]]:
    engine = scenario.engine
    replicas = scenario.parallel.replicas
    own = fit.kv_format.name
    formats = [own, *(name for name in CURVE_FORMATS if kv_format(name).name != own)]
    curves = capacity_curve(
        fit.model,
        fit.gpu,
        kv_dtypes=[
            name for name in formats if _applies(name, fit.model) and (name == own or _taken(name, fit))
        ],
        parallel=fit.parallel,
        expert_parallel=scenario.parallel.expert_parallel,
        weights_dtype=scenario.weights_dtype,
        engine=engine.kind,
        version=engine.version,
        utilization=engine.gpu_memory_utilization,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        block_size=scenario.cache.block_size,
        cuda_graphs=not engine.enforce_eager,
        async_scheduling=fit.serving.async_scheduling,
        prefix_caching=fit.serving.prefix_caching,
    )
    return [
        {
            "dtype": name,
            "points": [{"context_tokens": c, "max_concurrency": n * replicas} for c, n in points],
        }
        for name, points in curves
    ]


def _taken(name: str, fit: FitReport) -> bool:
    """Whether the engine has a cache of that format, and kernels for it on the GPU."""
    form, engine = kv_format(name), fit.serving.kind
    had = form.name in (SGLANG_KV if engine == "sglang" else VLLM_KV)
    return had and kv_means(fit.model, form, fit.gpu, fit.serving, engine) != "none"


def _applies(name: str, model: ModelSpec) -> bool:
    """Whether a format applies to every attention layer of the model (a latent-only one may not)."""
    try:
        for group in model.groups():
            if group.block.attention is not None:
                check_fits(kv_format(name), group.block.attention)
    except UsageError:
        return False
    return True
