"""vLLM's scheduler options, from a scenario and what was found out about its model and GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.pool import check_pool
from kvplan.scenario.schema import EnginePart, Scenario
from kvplan.units import format_tokens

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport
    from kvplan.specs.schema import ModelSpec

DEFAULT_MODEL_LEN = 131_072
"""``max_model_len`` when neither the scenario nor a model says one."""

DEFAULT_BLOCK_SIZE = 16
"""vLLM's, used where no model and GPU are named whose kernels want another."""

DEFAULT_MAX_NUM_SEQS = 256
DEFAULT_MAX_NUM_BATCHED_TOKENS = 8192
"""vLLM's API-server defaults on large GPUs, used where no GPU is named."""


def vllm_config(
    scenario: Scenario, engine: EnginePart, fit: FitReport | None, model: ModelSpec | None
) -> tuple[EngineConfig, tuple[Assumption, ...]]:
    """The engine's options, and which of them nobody said.

    Raises:
        UsageError: a pool of groups that cannot be simulated, or that context parallelism does not divide.
        AnswerIsNo: no block fits.
    """
    cache = scenario.cache
    filled: list[Assumption] = []
    if fit is not None:
        if engine.max_num_seqs is None:
            filled.append(_default("engine.max_num_seqs", fit.serving.max_num_seqs))
        if engine.max_num_batched_tokens is None:
            filled.append(_default("engine.max_num_batched_tokens", fit.serving.max_num_batched_tokens))
        if engine.gpu_memory_utilization is None:
            filled.append(_default("engine.gpu_memory_utilization", fit.serving.utilization))
    blocks = cache.blocks
    if blocks is None:
        assert fit is not None  # the scenario's own validation: blocks, or model and gpu
        blocks = _blocks_that_fit(fit)
        filled.append(Assumption("cache.blocks", blocks, "what the memory bill leaves for the KV pool"))
    max_model_len = engine.max_model_len
    if max_model_len is None:
        max_model_len, source = _longest(model, engine.version)
        filled.append(Assumption("engine.max_model_len", max_model_len, source))
    groups, block_size = _shared(*_groups(scenario, fit), scenario.parallel.cp)
    config = EngineConfig(
        num_blocks=blocks,
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_seqs=engine.max_num_seqs or (fit.serving.max_num_seqs if fit else DEFAULT_MAX_NUM_SEQS),
        max_num_batched_tokens=engine.max_num_batched_tokens
        or (fit.serving.max_num_batched_tokens if fit else DEFAULT_MAX_NUM_BATCHED_TOKENS),
        enable_prefix_caching=cache.prefix == "hash",
        enable_chunked_prefill=engine.enable_chunked_prefill,
        policy=engine.policy,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        long_prefill_adaptive=engine.long_prefill_token_threshold_adaptive,
        watermark=engine.watermark,
        scheduler_reserve_full_isl=engine.scheduler_reserve_full_isl,
        prefill_schedule_interval=engine.prefill_schedule_interval,
        async_scheduling=fit.serving.async_scheduling if fit else engine.async_scheduling,
        retention_interval=engine.prefix_cache_retention_interval,
        eviction=cache.eviction or "lru",
        groups=groups,
    )
    return config, tuple(filled)


def _default(name: str, value: int | float) -> Assumption:
    return Assumption(name, value, "the engine's default on this GPU")


def _longest(model: ModelSpec | None, version: str) -> tuple[int, str]:
    """``max_model_len`` where nobody says one, and where it is from."""
    if model is None:
        return DEFAULT_MODEL_LEN, "kvplan's default"
    from kvplan.sizing.context import default_context, starts_unstretched

    found = default_context(model, "vllm", version)
    if starts_unstretched(model, "vllm", version):
        return found, (
            f"what vLLM takes of {model.name} unless told: before LongRoPE stretches it to "
            f"{format_tokens(model.max_context or found)}"
        )
    return found, f"the limit of {model.name}" if model.max_context else "what engines take without a limit"


def _blocks_that_fit(fit: FitReport) -> int:
    check_pool(fit, fit.num_blocks)
    return fit.num_blocks


def _shared(groups: tuple[CacheGroup, ...], block_size: int, cp: int) -> tuple[tuple[CacheGroup, ...], int]:
    """Blocks as the scheduler counts them: one on every context rank, together for cp times the tokens.

    As vLLM does (``dcp_world_size``, ``pcp_world_size``), which shares full attention only.
    """
    if cp == 1:
        return groups, block_size
    other = next((group.kind for group in groups if group.kind != "full"), None)
    if other is not None or len(groups) > 1:
        raise UsageError(
            f"context parallelism divides the cache of full attention; this pool has {len(groups)} groups"
            + (f", one of them {other}" if other else ""),
            where="parallel.cp",
            hint="use cp 1: "
            + (
                "beside states it is not simulated"
                if {group.kind for group in groups} <= {"full", "mamba"}
                else "vLLM refuses it, too"
            ),
        )
    return tuple(CacheGroup("full", group.block_size * cp) for group in groups), block_size * cp


def _groups(scenario: Scenario, fit: FitReport | None) -> tuple[tuple[CacheGroup, ...], int]:
    """Layer groups of the pool and the base block size: from the scenario, else from the model."""
    size = scenario.cache.block_size or DEFAULT_BLOCK_SIZE
    if scenario.cache.groups is not None:
        return tuple(
            CacheGroup(part.kind, part.block_size or size, part.window or 0) for part in scenario.cache.groups
        ), size
    if fit is None:
        return (CacheGroup("full", size),), size
    layout = fit.binding.pool.layout(fit.max_model_len)
    groups = []
    for page in layout.groups:
        reach, limit = page.reach
        if reach == "remainder":
            continue  # one block a request, from its first token to its last: no decision depends on it
        if reach == "context":
            groups.append(CacheGroup("full", page.block_tokens, drafts=page.drafts))
        elif reach == "window":
            groups.append(CacheGroup("sliding", page.block_tokens, limit, drafts=page.drafts))
        elif reach == "chunk":
            groups.append(CacheGroup("chunked", page.block_tokens, limit, drafts=page.drafts))
        elif reach == "state":
            groups.append(CacheGroup("mamba", layout.block_size))
        else:
            from kvplan.sizing.stores import REACHES

            raise UsageError(
                f"the layers {page.name!r} of {fit.model.name} keep {REACHES[reach]}: not simulated yet",
                where="cache.groups",
                hint="say which groups stand in for them, for example --set 'cache.groups=[{kind: full}]'",
            )
    return tuple(groups), layout.block_size
