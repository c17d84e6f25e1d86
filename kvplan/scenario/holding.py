"""``cache.allocation`` and ``cache.retention`` of a scenario, as strategies of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.holding.laws import Capped, Law, PromptShare, QuantizedWindow, Share
from kvplan.engine.holding.placed import GrowthRule
from kvplan.engine.holding.strategy import ContiguousGrowth, PagedReport, SlotAllocation, TokenDropping
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import EnginePart, Scenario
from kvplan.sizing.retention import parse_retention
from kvplan.sizing.stores import Heads

if TYPE_CHECKING:
    from kvplan.scenario.schema.holding import AllocationPart
    from kvplan.sizing.capacity import FitReport

COPY_SHARE = 0.5
"""A copy within the memory of a GPU reads and writes every byte."""


def holding_strategy(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """What the scenario asks for; ``None`` is the plain engine.

    Raises:
        UsageError: two of them at once, another engine than vLLM, a model it has no meaning for, a budget
            smaller than a block, bytes that are needed and not known.
    """
    cache = scenario.cache
    retained, allocated = cache.retention != "engine", cache.allocation.kind != "paged"
    reported = cache.allocation.report != "none"
    if not (retained or allocated or reported):
        return None
    where = "cache.retention" if retained else "cache.allocation"
    if not isinstance(scenario.engine, EnginePart):
        raise UsageError(
            f"{where} is simulated on vLLM's scheduler only", where="engine.kind", hint="use vllm"
        )
    if retained and allocated:
        raise UsageError(
            f"retention {cache.retention} and allocation {cache.allocation.kind} are not simulated together",
            where=where,
            hint="simulate one after the other, and compare",
        )
    if retained:
        law = _law(scenario, deployment)
        return Chosen(TokenDropping(law), warnings=(law.warning,))
    if cache.allocation.kind == "slots":
        return Chosen(SlotAllocation(cache.allocation.reserve, cache.allocation.fit))
    if cache.allocation.kind == "contiguous":
        return _contiguous(cache.allocation, deployment)
    return Chosen(PagedReport())


# -- what is kept of a request's tokens ---------------------------------------------------------------------


def _law(scenario: Scenario, deployment: Deployment) -> Law:
    text = scenario.cache.retention
    _ensure_heads(text, scenario, deployment)
    if text == "kivi":
        return _quantized_window(deployment)
    retention = parse_retention(text)
    size, longest = deployment.config.block_size, deployment.config.max_model_len
    if retention.recent and retention.sink + retention.recent < size:
        raise UsageError(
            f"{text}: {retention.sink + retention.recent} tokens are less than a block of {size}",
            where="cache.retention",
            hint="keep at least a block, or use a smaller cache.block_size",
        )
    most = retention.context_kept(longest)
    if most < size:
        raise UsageError(
            f"{text} keeps {most} of max_model_len ({longest:,}) tokens, less than a block of {size}",
            where="cache.retention",
            hint="raise the budget",
        )
    if retention.recent:
        return Capped(text, retention.sink, retention.recent)
    assert retention.budget is not None
    if text.startswith("snapkv"):
        return PromptShare(text, retention.budget, retention.least)
    return Share(text, retention.budget)


def _ensure_heads(text: str, scenario: Scenario, deployment: Deployment) -> None:
    """Refuse models whose caches the methods say nothing about."""
    from kvplan.specs.schema import CompressedAttention, LatentAttention

    model = deployment.model
    if model is None:
        return
    blocks = model.layers()
    if any(isinstance(block.attention, (LatentAttention, CompressedAttention)) for block in blocks):
        raise UsageError(
            f"{text}: {model.name} keeps latents, one for all heads; the method chooses keys and values",
            where="cache.retention",
            hint="use a model with plain attention, or retention: engine",
        )
    if scenario.cache.groups is None and any(block.state is not None for block in blocks):
        raise UsageError(
            f"{text}: layers of {model.name} keep a state and no tokens that could be dropped",
            where="cache.retention",
            hint="use a model with plain attention, or retention: engine",
        )


def _quantized_window(deployment: Deployment) -> QuantizedWindow:
    fit = deployment.fit
    if fit is None:
        raise UsageError(
            "kivi: without 'model' and 'gpu' the bytes of its full-precision buffer are not known",
            where="cache.retention",
            hint="name a model and a gpu, and cache.dtype kivi2 or kivi4",
        )
    form = fit.kv_format
    flush = max(form.k.residual, form.v.residual, form.k.group if form.k.granularity == "channel" else 0)
    if not max(form.k.residual, form.v.residual):
        raise UsageError(
            f"kivi: the KV format {form.name} keeps no tokens in full precision",
            where="cache.dtype",
            hint="use kivi2 or kivi4",
        )
    return QuantizedWindow(f"kivi ({form.name})", flush, _buffer_blocks(fit, flush))


def _buffer_blocks(fit: FitReport, tokens: int) -> int:
    """Blocks' worth of memory that ``tokens`` tokens take in full precision, all layers of a rank."""
    pool = fit.binding.pool
    bits = 0
    for page in pool.pages:
        content = page.store.content if page.store is not None else None
        if isinstance(content, Heads):
            k, v = content.form.k, content.form.v
            bits += content.count * (content.k_dim * k.residual_bits + content.v_dim * v.residual_bits)
    layout = pool.layout(fit.max_model_len)
    size = -(-bits * tokens // 8)
    return max(-(-size // layout.block_bytes), -(-tokens // layout.block_size))


# -- contiguous regions -------------------------------------------------------------------------------------


def _contiguous(part: AllocationPart, deployment: Deployment) -> Chosen:
    size = deployment.config.block_size
    chunk = -(-part.chunk // size) if part.chunk is not None else 0
    if part.when_full == "preempt":
        return Chosen(ContiguousGrowth(GrowthRule(chunk, False, 0, 1.0), part.fit))
    block_bytes = _block_bytes(part, deployment)
    speed, assumed = _copy_speed(part, deployment)
    rule = GrowthRule(chunk, True, block_bytes, speed)
    return Chosen(ContiguousGrowth(rule, part.fit), assumptions=assumed)


def _block_bytes(part: AllocationPart, deployment: Deployment) -> int:
    if part.bytes_per_token is not None:
        return part.bytes_per_token * deployment.config.block_size
    fit = deployment.fit
    if fit is None:
        raise UsageError(
            "a region that moves is copied, and without 'model' and 'gpu' its bytes are not known",
            where="cache.allocation",
            hint="give bytes_per_token and copy_bytes_per_s, or when_full: preempt",
        )
    return fit.binding.pool.layout(fit.max_model_len).block_bytes


def _copy_speed(part: AllocationPart, deployment: Deployment) -> tuple[float, tuple[Assumption, ...]]:
    if part.copy_bytes_per_s is not None:
        return float(part.copy_bytes_per_s), ()
    if deployment.gpu is None:
        raise UsageError(
            "a region that moves is copied, and without a 'gpu' the speed of that is not known",
            where="cache.allocation.copy_bytes_per_s",
            hint="give it, for example 1500GB, or when_full: preempt",
        )
    speed = deployment.gpu.bandwidth_bytes_per_s * COPY_SHARE
    source = "half the GPU's memory bandwidth: a copy reads and writes"
    return speed, (Assumption("cache.allocation.copy_bytes_per_s", speed, source),)
