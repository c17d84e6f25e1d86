"""The command that starts an engine as a scenario has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvplan.latency.routing import EXCHANGE_KEY, HIGH_THROUGHPUT, LOW_LATENCY
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.schema import Scenario

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport

CONTEXT_PARALLEL = (0, 13, 0)
"""vLLM from here on has GPUs of its own for parts of a context; 0.12 has the flag and refuses it."""

SHARDS_BY_DECODE = (0, 26, 0)
"""And from here on they keep the whole cache each unless decodes are told to divide it, too."""

BACKENDS = (0, 5, 1)
"""SGLang from here on has backends that send tokens to experts; DeepEP was its own flag before."""

NOT_APPENDED = frozenset(
    {
        "kind", "version", "max_num_seqs", "max_num_batched_tokens", "max_model_len",
        "gpu_memory_utilization", "enforce_eager", "max_running_requests", "chunked_prefill_size",
        "context_length", "mem_fraction_static", "page_size", "disable_cuda_graph", "preemption",
        "radix_eviction_policy", "radix_eviction_policy_config",
    }
)  # fmt: skip
"""Options that the memory plan's command has, and a strategy that vLLM no longer has."""

OTHER_NAMES = {"policy": "scheduling-policy"}
"""Options whose flag is not called as their field."""


def serve_line(scenario: Scenario) -> str | None:
    """Of one replica; None where it has none: without a model and a GPU, or with what no engine has."""
    from kvplan.sizing.flags import engine_flags

    if scenario.engine.kind == "vllm" and scenario.cache.eviction != "lru":
        return None  # its only order
    deployment = resolve_deployment(scenario)
    fit = deployment.fit
    eviction = "" if fit is None else _eviction(scenario, deployment, fit)
    if eviction is None:
        return None
    part = scenario.speculative
    eagle = part is not None and part.method == "eagle"
    line = None if fit is None else engine_flags(fit, eagle=eagle)[fit.serving.kind]
    if line is None or fit is None:
        return None
    if scenario.parallel.cp > 1 and fit.serving.version < CONTEXT_PARALLEL:
        return None
    more = (*_exchange(scenario, fit), *_pool(scenario, deployment, fit), *_options(scenario), eviction)
    line = " ".join((line, *more)).rstrip()
    if scenario.tiers is None and not scenario.cache.host_memory:
        return line  # tiers take links and curves with them
    from kvplan.scenario.tiers import launch_flags

    tiers = launch_flags(scenario, deployment)
    return line if tiers is None else f"{line} {tiers}"


def _exchange(scenario: Scenario, fit: FitReport) -> Iterator[str]:
    """DeepEP's kernels, where the engine would send tokens through them."""
    way = scenario.latency.parameters().get(EXCHANGE_KEY)
    parallel, version = scenario.parallel, fit.serving.version
    if way not in (HIGH_THROUGHPUT, LOW_LATENCY) or not parallel.expert_parallel:
        return
    if fit.serving.kind == "sglang":
        yield "--enable-deepep-moe" if version < BACKENDS else "--moe-a2a-backend deepep"
        yield f"--deepep-mode {'normal' if way == HIGH_THROUGHPUT else 'low_latency'}"
    elif parallel.ranks > 1:
        yield f"--all2all-backend {way}"


def _pool(scenario: Scenario, deployment: Deployment, fit: FitReport) -> Iterator[str]:
    """What makes the pool another one than the memory plan's."""
    from kvplan.engine.config import EngineConfig

    if scenario.parallel.cp > 1:
        yield f"--prefill-context-parallel-size {scenario.parallel.cp}"
        if fit.serving.version >= SHARDS_BY_DECODE:
            yield f"--decode-context-parallel-size {scenario.parallel.cp}"
    if scenario.cache.blocks is not None:
        config = deployment.config
        if isinstance(config, EngineConfig):
            yield f"--num-gpu-blocks-override {config.num_blocks}"
        else:
            yield f"--max-total-tokens {config.pool_tokens}"


def _eviction(scenario: Scenario, deployment: Deployment, fit: FitReport) -> str | None:
    """SGLang's flags for an order of eviction; None where its version has none for it."""
    import json
    import shlex

    from kvplan.engine.sglang.config import SglangConfig
    from kvplan.scenario.schema import SglangPart
    from kvplan.scenario.sglang import takes_eviction
    from kvplan.sizing.sglang.profiled import radix_eviction_policy

    config, engine = deployment.config, scenario.engine
    if not isinstance(config, SglangConfig) or not isinstance(engine, SglangPart):
        return ""
    name, flags = config.radix_eviction_policy, []
    if name != radix_eviction_policy(fit):
        if not takes_eviction(fit.serving.version, name):
            return None
        flags.append(f"--radix-eviction-policy {name}")
    if engine.radix_eviction_policy_config is not None:
        given = json.dumps(engine.radix_eviction_policy_config.model_dump(exclude_none=True))
        flags.append(f"--radix-eviction-policy-config {shlex.quote(given)}")
    return " ".join(flags)


def _options(scenario: Scenario) -> Iterator[str]:
    """What the engine's version would do otherwise."""
    engine = scenario.engine
    usual = type(engine).model_validate({"kind": engine.kind, "version": engine.version})
    for name in type(engine).model_fields:
        value = getattr(engine, name)
        if name in NOT_APPENDED or value == getattr(usual, name) or value is None:
            continue
        flag = OTHER_NAMES.get(name, name.replace("_", "-"))
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag} {value}"
