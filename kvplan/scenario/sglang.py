"""SGLang's side of a deployment: how many tokens the pool has, and which options the engine runs with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import PARAMETERS, EvictionParameters
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.pool import check_pool
from kvplan.scenario.schema import Scenario, SglangPart
from kvplan.scenario.sglang_states import state_rules
from kvplan.sizing.serving import engine_version
from kvplan.sizing.sglang.profiled import prefill_decode_interval, radix_eviction_policy
from kvplan.sizing.sglang.start import SEQUENCES_BESIDE_DRAFTS

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport
    from kvplan.specs.model import ModelSpec

DEFAULT_CONTEXT_LENGTH = 131_072
"""``context_length`` when neither the scenario nor a model says one."""

DEFAULT_CHUNKED_PREFILL_SIZE = 8192
"""SGLang's on GPUs of 60 to 160 GiB, used where no GPU is named."""

OPTIONS_SINCE = {
    "radix_eviction_policy": (0, 5, 3),
    "radix_eviction_policy_config": (0, 5, 20),
    "enable_priority_scheduling": (0, 5, 3),
    "max_queued_requests": (0, 4, 10),
    "disable_priority_preemption": (0, 5, 10),
    "min_free_slots_delay": (0, 5, 15),
    "retraction_policy": (0, 5, 16),
    "prefill_max_requests": (0, 5, 7),
    "prefill_decode_interval": (0, 5, 19),
    "prefill_decode_interval_min_bs": (0, 5, 23),
}
"""Options that decide who runs, and that older versions do not know."""

ORDERS_SINCE = {"hrrn": (0, 5, 20), "shortest-prefill-first": (0, 5, 21)}
"""Orders of the queue that older versions do not know."""

EVICTION_SINCE = {
    "lru": (0, 5, 3),
    "lfu": (0, 5, 3),
    "slru": (0, 5, 10),
    "priority": (0, 5, 11),
    "tlru": (0, 5, 21),
}
"""Orders of eviction that SGLang's command line takes (``RADIX_EVICTION_POLICY_CHOICES``)."""

RANKS_DARE = 0.3
"""How much less SGLang keeps back for answers below data-parallel attention (``handle_data_parallelism``)."""

DEFAULT_PAGE_SIZE = 1
"""SGLang's, used where no model and GPU are named whose kernels want another."""


def sglang_config(
    scenario: Scenario, engine: SglangPart, fit: FitReport | None, model: ModelSpec | None
) -> tuple[SglangConfig, tuple[Assumption, ...]]:
    """Fill what is left open.

    Args:
        fit: the plan for the model on the GPU; None where the scenario names none.
        model: what is served; None where only its bytes are known.

    Raises:
        UsageError: an option or a combination that SGLang refuses, or a pool that is not simulated.
        AnswerIsNo: the model does not fit on the GPU.
    """
    _check_options(engine)
    if engine.min_free_slots_delay is not None and scenario.parallel.pp > 1:
        raise UsageError(
            "SGLang does not start with min_free_slots_delay and pipeline parallelism",
            where="engine.min_free_slots_delay", hint="leave it out, or use parallel.pp 1",
        )  # fmt: skip
    assumed: list[Assumption] = []
    page = _page_size(engine, fit)
    if page != (engine.page_size or DEFAULT_PAGE_SIZE):
        assumed.append(Assumption("engine.page_size", page, "what the attention kernels on this GPU read"))
    pool = _pool_tokens(scenario, engine, fit, page)
    if scenario.cache.blocks is None and engine.max_total_tokens is None:
        assumed.append(
            Assumption("engine.max_total_tokens", pool, "what the memory bill leaves for the KV pool")
        )
    context = engine.context_length or _longest(model)
    if engine.context_length is None:
        source = "kvplan's default"
        if model is not None:
            source = "the limit of the model" if model.max_context else "what engines take without a limit"
        assumed.append(Assumption("engine.context_length", context, source))
    chunk = engine.chunked_prefill_size
    if chunk is None:
        chunk = fit.serving.max_num_batched_tokens if fit else DEFAULT_CHUNKED_PREFILL_SIZE
        chunk -= chunk % page
        assumed.append(Assumption("engine.chunked_prefill_size", chunk, "the engine's default on this GPU"))
    ranks = scenario.parallel.ranks
    chunk //= ranks
    interval = engine.prefill_decode_interval
    if interval is None:
        interval = prefill_decode_interval(fit)
        if interval:
            source = "what SGLang takes of this model on this GPU"
            assumed.append(Assumption("engine.prefill_decode_interval", interval, source))
    eviction: str = scenario.cache.eviction or radix_eviction_policy(fit)
    if scenario.cache.eviction is None and eviction != "lru":
        source = "what SGLang takes of this model on this GPU"
        assumed.append(Assumption("engine.radix_eviction_policy", eviction, source))
    if fit is not None and engine.mem_fraction_static is None:
        share = fit.serving.utilization
        assumed.append(Assumption("engine.mem_fraction_static", share, "the engine's default on this GPU"))
    drafts = scenario.speculative is not None
    running = _running(engine, fit, pool, context, drafts=drafts, ranks=ranks)
    states = state_rules(scenario, fit, page)
    rule = "SGLang's rule for this pool"
    if engine.max_running_requests is not None and ranks > 1:
        rule = f"of each of {ranks} ranks, which share {engine.max_running_requests}"
    elif drafts and running == SEQUENCES_BESIDE_DRAFTS // ranks:
        rule = "SGLang's rule beside drafts"
    config = SglangConfig(
        pool_tokens=pool,
        page_size=page,
        context_length=context,
        max_running_requests=running,
        chunked_prefill_size=chunk,
        max_prefill_tokens=engine.max_prefill_tokens,
        schedule_policy=engine.schedule_policy,
        schedule_conservativeness=engine.schedule_conservativeness * (RANKS_DARE if ranks > 1 else 1.0),
        radix_eviction_policy=eviction,
        radix_eviction_policy_config=_eviction_parameters(engine, eviction),
        disable_radix_cache=engine.disable_radix_cache,
        enable_mixed_chunk=engine.enable_mixed_chunk,
        prefill_max_requests=engine.prefill_max_requests,
        prefill_decode_interval=interval,
        prefill_decode_interval_min_bs=engine.prefill_decode_interval_min_bs,
        disable_overlap_schedule=engine.disable_overlap_schedule,
        enable_priority_scheduling=engine.enable_priority_scheduling,
        schedule_low_priority_values_first=engine.schedule_low_priority_values_first,
        disable_priority_preemption=engine.disable_priority_preemption,
        priority_scheduling_preemption_threshold=engine.priority_scheduling_preemption_threshold,
        retraction_policy=engine.retraction_policy,
        max_queued_requests=engine.max_queued_requests,
        min_free_slots_delay=engine.min_free_slots_delay,
    )
    if states is not None:
        if not states.spare and not config.disable_radix_cache and not config.disable_overlap_schedule:
            config = replace(config, disable_overlap_schedule=True)
            assumed.append(
                Assumption("engine.disable_overlap_schedule", True, "the model keeps no spare states")
            )
        most = states.slots // states.slots_per_request(config)
        if most < running:
            running, rule = most, "what its recurrent states have slots for"
            config = replace(config, max_running_requests=most)
    if engine.max_running_requests != running:
        assumed.append(Assumption("engine.max_running_requests", running, rule))
    return config, tuple(assumed)


def _check_options(engine: SglangPart) -> None:
    """Refuse options that this version does not have."""
    version = engine_version("sglang", engine.version)
    for name, since in OPTIONS_SINCE.items():
        if getattr(engine, name) != SglangPart.model_fields[name].default and version < since:
            first = ".".join(map(str, since))
            raise UsageError(
                f"SGLang {engine.version} has no option {name}: {first} is the first that does",
                where=f"engine.{name}",
                hint=f"leave it out, or say engine.version={first}",
            )
    for name, table in (("schedule_policy", ORDERS_SINCE), ("radix_eviction_policy", EVICTION_SINCE)):
        value = getattr(engine, name)
        first_version = table.get(value, version)
        if version < first_version:
            first = ".".join(map(str, first_version))
            raise UsageError(
                f"SGLang {engine.version} has no {name} {value}: {first} is the first that does",
                where=f"engine.{name}",
                hint=f"use another, or say engine.version={first}",
            )


def takes_eviction(version: tuple[int, ...], policy: str) -> bool:
    """Whether a version of SGLang takes an order of eviction on its command line."""
    return policy in EVICTION_SINCE and version >= EVICTION_SINCE[policy]


def _eviction_parameters(engine: SglangPart, policy: str) -> EvictionParameters:
    """``radix_eviction_policy_config``.

    Raises:
        UsageError: the policy does not have one of them.
    """
    part = engine.radix_eviction_policy_config
    given = {} if part is None else part.model_dump(exclude_none=True)
    for name in given:
        if name not in PARAMETERS.get(policy, ()):
            raise UsageError(
                f"the eviction policy {policy} has no parameter {name}: SGLang does not start so",
                where=f"engine.radix_eviction_policy_config.{name}",
                hint="leave it out, or take another policy",
            )
    return EvictionParameters(**given)


def _longest(model: ModelSpec | None) -> int:
    if model is None:
        return DEFAULT_CONTEXT_LENGTH
    from kvplan.sizing.context import default_context

    return default_context(model, "sglang", None)


def _page_size(engine: SglangPart, fit: FitReport | None) -> int:
    """As given where kernels read such pages, else as they want them."""
    return fit.block_size if fit is not None else engine.page_size or DEFAULT_PAGE_SIZE


def _running(
    engine: SglangPart, fit: FitReport | None, pool: int, context: int, *, drafts: bool, ranks: int
) -> int:
    """Requests at a time: as given to all ranks, but no more than SGLang lets the pool have."""
    from kvplan.sizing.sglang.pool import running_requests

    version = fit.serving.version if fit is not None else engine_version("sglang", engine.version)
    given = engine.max_running_requests or (SEQUENCES_BESIDE_DRAFTS if drafts else None)
    shared = None if given is None else max(given // ranks, 1)
    return running_requests(version, pool, context, given=shared)


def _pool_tokens(scenario: Scenario, engine: SglangPart, fit: FitReport | None, page: int) -> int:
    if scenario.cache.blocks is not None:
        return scenario.cache.blocks * page
    if fit is None:
        assert engine.max_total_tokens is not None  # the scenario's own validation
        return engine.max_total_tokens
    from kvplan.scenario.sglang_windows import WINDOWS, check_windows

    for layer in fit.binding.pool.pages:
        if layer.store is not None and layer.store.reach not in ("context", *WINDOWS):
            from kvplan.sizing.stores import REACHES

            raise UsageError(
                f"layers of {fit.model.name} keep {REACHES[layer.store.reach]}; "
                "SGLang's pools for them are not simulated yet",
                where="engine.kind",
                hint="simulate it with engine.kind=vllm, or give the full pool alone with cache.blocks",
            )
    if not fit.binding.pool.token_bytes:
        raise UsageError(
            f"{fit.model.name} keeps a state a request and nothing per token; "
            "SGLang's engine is simulated with layers that attend",
            where="engine.kind",
            hint="simulate it with engine.kind=vllm",
        )
    check_windows(fit, engine)
    check_pool(fit, fit.kv_tokens // page)
    # SGLang takes the smaller one of what is asked for and what fits.
    return min(fit.kv_tokens, engine.max_total_tokens or fit.kv_tokens)
