"""Resolving a scenario: which model on which GPU, how many blocks, which options the engine runs with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.pool import check_pool
from kvplan.scenario.replayed import replayed_windows
from kvplan.scenario.schema import Scenario, SglangPart
from kvplan.sizing.parallel import Parallel
from kvplan.units import format_bytes, format_tokens

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig
    from kvplan.sizing.capacity import FitReport
    from kvplan.specs.formats import KvFormat
    from kvplan.specs.schema import GpuSpec, ModelSpec

DEFAULT_MODEL_LEN = 131_072
"""``max_model_len`` when neither the scenario nor a model says one."""

DEFAULT_BLOCK_SIZE = 16
"""vLLM's, used where no model and GPU are named whose kernels want another."""

DEFAULT_MAX_NUM_SEQS = 256
DEFAULT_MAX_NUM_BATCHED_TOKENS = 8192
"""vLLM's API-server defaults on large GPUs, used where no GPU is named."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a simulation runs on; ``model``, ``gpu`` and ``fit`` are None where the scenario names none."""

    model: ModelSpec | None
    gpu: GpuSpec | None
    fit: FitReport | None
    parallel: Parallel
    config: EngineConfig | SglangConfig
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]

    @property
    def gpu_name(self) -> str:
        """Empty where the scenario names no GPU."""
        return "" if self.gpu is None else self.gpu.name


def resolve_deployment(scenario: Scenario) -> Deployment:
    """Look everything up and fill what is left open.

    Raises:
        UnknownName, UsageError: a name or option that cannot be used.
        AnswerIsNo: the model does not fit on the GPU.
    """
    engine, cache = scenario.engine, scenario.cache
    spread = scenario.parallel
    parallel = Parallel(tp=spread.tp, pp=spread.pp, cp=spread.cp, dp_attention=spread.dp_attention)
    assumed: list[Assumption] = []
    warnings: list[str] = []
    model = gpu = None
    # Specs and sizing are imported where they are needed: a run on a given pool needs neither.
    if scenario.model is not None:
        from kvplan.specs.resolve import resolve_model

        found = resolve_model(scenario.model)
        model = found.model
        warnings.extend(found.warnings)
    if scenario.gpu is not None:
        from kvplan.specs.catalog import load_gpu

        gpu = load_gpu(scenario.gpu)
    fit = None
    if model is not None and gpu is not None:
        fit = _fit(scenario, model, gpu, parallel)
        if cache.dtype is None and cache.dtype_k is None:
            assumed.append(Assumption("cache.dtype", fit.kv_format.name, "the checkpoint's dtype"))
        warnings.extend(_without_kernels(fit))
        if fit.serving.unchecked is not None:
            warnings.append(fit.serving.unchecked)
    if isinstance(engine, SglangPart):
        if parallel.cp > 1:
            raise UsageError(
                "context parallelism is simulated on vLLM's scheduler only",
                where="parallel.cp",
                hint="use vllm",
            )
        from kvplan.scenario.sglang import sglang_config

        sglang, filled = sglang_config(scenario, engine, fit, model)
        if fit is not None and sglang.pool_tokens > max(0, fit.kv_tokens):
            warnings.append(_more_than_fits(sglang.pool_tokens, max(0, fit.kv_tokens), "tokens", fit))
        return Deployment(model, gpu, fit, parallel, sglang, (*assumed, *filled), tuple(warnings))
    if fit is not None:
        if engine.max_num_seqs is None:
            assumed.append(_default("engine.max_num_seqs", fit.serving.max_num_seqs))
        if engine.max_num_batched_tokens is None:
            assumed.append(_default("engine.max_num_batched_tokens", fit.serving.max_num_batched_tokens))
        if engine.gpu_memory_utilization is None:
            assumed.append(_default("engine.gpu_memory_utilization", fit.serving.utilization))
    blocks = cache.blocks
    if blocks is None:
        assert fit is not None  # the scenario's own validation: blocks, or model and gpu
        blocks = _blocks_that_fit(fit)
        assumed.append(Assumption("cache.blocks", blocks, "what the memory bill leaves for the KV pool"))
    max_model_len = engine.max_model_len
    if max_model_len is None:
        max_model_len, source = _longest(model, engine.version)
        warnings.extend(_not_all_of(model, engine.version))
        assumed.append(Assumption("engine.max_model_len", max_model_len, source))
    groups, block_size = _shared(*_groups(scenario, fit), parallel.cp)
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
        async_scheduling=engine.async_scheduling,
        retention_interval=engine.prefix_cache_retention_interval,
        eviction=cache.eviction,
        groups=groups,
    )
    # Groups that were given are not the model's: their blocks need not be the bill's either.
    given = cache.blocks is not None and cache.groups is None
    warnings.extend(_about_memory(config, fit, given=given))
    if fit is not None:
        warnings.extend(replayed_windows(fit, config))
    return Deployment(model, gpu, fit, parallel, config, tuple(assumed), tuple(warnings))


def _about_memory(config: EngineConfig, fit: FitReport | None, *, given: bool) -> Iterator[str]:
    """What is remarkable about the pool; ``given``: the scenario says how many blocks it has."""
    if fit is not None and given and config.num_blocks > max(0, fit.num_blocks):
        yield _more_than_fits(config.num_blocks, max(0, fit.num_blocks), "blocks", fit)
    # A window or a state is held whatever the length: only layers that keep everything can be too many.
    held = config.usable_blocks * min((g.block_size for g in config.groups if g.kind == "full"), default=0)
    if held and held < config.max_model_len:
        yield (
            f"the pool holds {format_tokens(held)} tokens, less than max_model_len "
            f"{format_tokens(config.max_model_len)}: vLLM would refuse to start; longer requests are "
            "rejected here"
        )
    if fit is not None and all(group.kind == "mamba" for group in config.groups):
        state = format_bytes(fit.binding.pool.state_bytes)
        yield (
            f"{fit.model.name} keeps a state of {state} a request on every GPU and nothing per token: memory "
            "does not grow with length"
            + ("" if config.enable_prefix_caching else "; prefixes are not cached (cache.prefix: hash)")
        )


def _without_kernels(fit: FitReport) -> Iterator[str]:
    from kvplan.sizing.flags import no_command

    reason = no_command(fit, fit.serving.kind)
    if reason is not None:
        yield f"{reason}: simulated as if it were there"


def _more_than_fits(given: int, fitting: int, what: str, fit: FitReport) -> str:
    """The warning about a pool that the memory bill has no room for."""
    room = f"for {fitting:,}" if fitting else "for none"
    return (
        f"cache.blocks gives a pool of {given:,} {what}, and the memory bill of {fit.gpu.name} has room "
        f"{room}: an engine would run out of memory"
    )


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


def _not_all_of(model: ModelSpec | None, version: str) -> Iterator[str]:
    if model is None:
        return
    from kvplan.sizing.context import starts_unstretched, unstretched_words

    if starts_unstretched(model, "vllm", version):
        yield unstretched_words(model, "engine.max_model_len=")


def _default(name: str, value: int | float) -> Assumption:
    return Assumption(name, value, "the engine's default on this GPU")


def _fit(scenario: Scenario, model: ModelSpec, gpu: GpuSpec, parallel: Parallel) -> FitReport:
    from kvplan.sizing.attention import default_format
    from kvplan.sizing.capacity import fit_model
    from kvplan.specs.formats import kv_format, kv_pair

    engine, cache = scenario.engine, scenario.cache
    form: KvFormat | None = None
    if cache.dtype_k is not None or cache.dtype_v is not None:
        base = cache.dtype or default_format(model, engine.kind)
        form = kv_pair(cache.dtype_k or base, cache.dtype_v or base)
    elif cache.dtype is not None:
        form = kv_format(cache.dtype)
    drafts = _drafts(scenario, model)
    return fit_model(
        model,
        gpu,
        max_model_len=engine.max_model_len,
        parallel=parallel,
        kv_dtype=form,
        weights_dtype=scenario.weights_dtype,
        engine=engine.kind,
        version=engine.version,
        utilization=engine.gpu_memory_utilization,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        block_size=cache.block_size,
        cuda_graphs=not engine.enforce_eager,
        # Nothing is scheduled ahead where drafts are looked up.
        async_scheduling=engine.async_scheduling and not drafts.get("lookup", False),
        prefix_caching=_unusual_caching(scenario, model),
        expert_parallel=scenario.parallel.expert_parallel,
        **drafts,
    )


def _drafts(scenario: Scenario, model: ModelSpec) -> dict[str, Any]:
    """Who drafts, and how many tokens of a step."""
    part = scenario.speculative
    if part is None:
        return {}
    if part.method == "ngram":
        return {"lookup": True, "draft_tokens": part.tokens}
    from kvplan.scenario.speculation import drafter_of

    own = part.method == "mtp"
    drafter = drafter_of(scenario, model)
    return {"draft": own, "drafter": None if own else drafter, "draft_tokens": part.tokens}


def _unusual_caching(scenario: Scenario, model: ModelSpec) -> bool | None:
    """Whether prefixes are cached, where vLLM would do otherwise unless told; else None."""
    if scenario.engine.kind != "vllm":
        return None
    from kvplan.sizing.prefix_caching import caches_prefixes
    from kvplan.sizing.serving import parse_version

    cached = scenario.cache.prefix == "hash"
    return None if cached == caches_prefixes(model, parse_version(scenario.engine.version)) else cached


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
            groups.append(CacheGroup("full", page.block_tokens))
        elif reach == "window":
            groups.append(CacheGroup("sliding", page.block_tokens, limit))
        elif reach == "chunk":
            groups.append(CacheGroup("chunked", page.block_tokens, limit))
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
