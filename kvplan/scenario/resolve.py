"""Resolving a scenario: which model on which GPU, how many blocks, which options the engine runs with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvplan.engine.config import EngineConfig
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.replayed import replayed_windows
from kvplan.scenario.schema import Scenario, SglangPart
from kvplan.scenario.vllm import vllm_config
from kvplan.sizing.parallel import Parallel, check_degrees
from kvplan.units import format_bytes, format_tokens

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport
    from kvplan.specs.formats import KvFormat
    from kvplan.specs.schema import GpuSpec, ModelSpec


def resolve_deployment(scenario: Scenario) -> Deployment:
    """Look everything up and fill what is left open.

    Raises:
        UnknownName, UsageError: a name or option that cannot be used.
        AnswerIsNo: the model does not fit on the GPU.
    """
    engine, cache = scenario.engine, scenario.cache
    spread = scenario.parallel
    parallel = Parallel(tp=spread.tp, pp=spread.pp, cp=spread.cp, attention_ranks=spread.ranks)
    check_degrees(parallel)
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
        eagle = scenario.speculative is not None and scenario.speculative.method == "eagle"
        warnings.extend(_without_kernels(fit, eagle=eagle))
        if fit.serving.unchecked is not None:
            warnings.append(fit.serving.unchecked)
    if model is not None and engine.max_model_len is None:
        from kvplan.sizing.context import unasked_words

        name = "max_model_len" if engine.kind == "vllm" else "context_length"
        unasked = unasked_words(model, engine.kind, engine.version, f"engine.{name}=")
        warnings += [unasked] if unasked else []
    if parallel.pp > 1:
        warnings.append(
            f"pipeline stages: a batch passes through all {parallel.pp} before the next begins here, where "
            f"an engine has one in each and serves up to {parallel.pp} times as many requests; what one "
            "request alone takes is right"
        )
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
    config, filled = vllm_config(scenario, engine, fit, model)
    # Groups that were given are not the model's: their blocks need not be the bill's either.
    given = cache.blocks is not None and cache.groups is None
    warnings.extend(_about_memory(config, fit, given=given))
    if fit is not None:
        warnings.extend(replayed_windows(fit, config))
    return Deployment(model, gpu, fit, parallel, config, (*assumed, *filled), tuple(warnings))


def _about_memory(config: EngineConfig, fit: FitReport | None, *, given: bool) -> Iterator[str]:
    """What is remarkable about the pool; ``given``: the scenario says how many blocks it has."""
    if fit is not None and given and config.num_blocks > max(0, fit.num_blocks):
        yield _more_than_fits(config.num_blocks, max(0, fit.num_blocks), "blocks", fit)
    if fit is not None and not given and fit.num_blocks == config.num_blocks:
        held = fit.longest_context()  # with its windows and states
    else:
        # A window or a state is held whatever the length: only layers that keep everything can be too many.
        held = config.usable_blocks * min(
            (g.block_size for g in config.groups if g.kind == "full"), default=0
        )
    if held and held < config.max_model_len:
        yield (
            f"the pool holds one request of {format_tokens(held)} tokens at most, less than max_model_len "
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


def _without_kernels(fit: FitReport, *, eagle: bool) -> Iterator[str]:
    from kvplan.sizing.flags import no_command

    reason = no_command(fit, fit.serving.kind, eagle=eagle)
    if reason is not None:
        yield f"{reason}: simulated as if it were there"


def _more_than_fits(given: int, fitting: int, what: str, fit: FitReport) -> str:
    """The warning about a pool that the memory bill has no room for."""
    room = f"for {fitting:,}" if fitting else "for none"
    return (
        f"cache.blocks gives a pool of {given:,} {what}, and the memory bill of {fit.gpu.name} has room "
        f"{room}: an engine would run out of memory"
    )


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
        async_scheduling=_ahead(scenario, parallel),
        prefix_caching=_unusual_caching(scenario, model),
        expert_parallel=scenario.parallel.expert_parallel,
        **drafts,
    )


def _ahead(scenario: Scenario, parallel: Parallel) -> bool:
    """Whether steps are planned ahead: if they are to be, and the engine can beside what else it does."""
    engine, part = scenario.engine, scenario.speculative
    if engine.kind != "vllm":
        return engine.async_scheduling
    from kvplan.sizing.ahead import can_plan_ahead
    from kvplan.sizing.serving import parse_version

    method = None if part is None else part.method
    return engine.async_scheduling and can_plan_ahead(
        parse_version(engine.version),
        pp=parallel.pp,
        draft_model=method == "draft_model",
        lookup=method == "ngram",
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
