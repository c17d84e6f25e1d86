"""From ``disaggregation`` of a scenario to pools, a route between them, and the strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.sglang.payload import NO_PAYLOAD
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.disaggregation.strategy import Disaggregation
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.instance import one_full_group
from kvplan.engine.strategy import Strategy
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.transfer import slower
from kvplan.scenario.cargo import sizes_of
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.pool_ranks import about_ranks, check_ranks, lanes_of
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.disaggregation import DisaggregationPart
from kvplan.scenario.sglang_beside import about_payload, sides_beside
from kvplan.scenario.sglang_disaggregation import (
    about_options,
    check_names,
    check_sglang,
    check_vllm,
    decode_options,
    prefill_host,
    unchecked,
)
from kvplan.scenario.side import SECTION, Side, side_of
from kvplan.scenario.wire import layers_of, payload_of, route_between, token_bytes
from kvplan.sizing.serving import parse_version

FENCES = (0, 24, 0)
"""vLLM from here on frees no blocks under a step in flight where its connector may load (``kv_both``)."""

DELIVERS = (0, 27, 0)
"""vLLM from here on computes a prompt again that is preempted while it ends, where its connector sends."""

GROUPS_OF = (0, 33)
"""The version whose connector is simulated with several groups of layers."""

CONVENTIONS = {
    "decode": "sampled by the decode instance, as vLLM does",
    "prefill": "sampled by the prefill instance, as DistServe and Mooncake count",
}


def disaggregation(scenario: Scenario, deployment: Deployment, part: DisaggregationPart) -> Chosen:
    """The strategy, and what it assumes.

    Raises:
        UsageError: replicas beside pools, or a part that does not go with the rest (says which).
        UnknownName: no such link, GPU or number format.
        AnswerIsNo: the model does not fit on a pool's GPU.
    """
    _check(scenario, part)
    sides = (
        side_of(scenario, deployment, "prefill", part.prefill),
        side_of(scenario, deployment, "decode", part.decode),
    )
    payload, hosted = NO_PAYLOAD, None
    beside: tuple[Assumption, ...] = ()
    if scenario.engine.kind == "sglang":
        sides, beside = sides_beside(scenario, part, sides, decode_options(scenario, part))
        payload = payload_of(deployment, sides[0].plan.beside)
        hosted = prefill_host(scenario, part, sides[0])
    prefill, decode = sides
    route, more = route_between(part, deployment, prefill, decode, lanes_of(scenario, part))
    strategy: Disaggregation | SglangDisaggregation
    if isinstance(deployment.config, EngineConfig):
        _check_groups(deployment.config, sides, part)
        sizes, assumed = sizes_of(scenario, deployment, part)
        strategy = Disaggregation(
            route=route,
            block_bytes=sizes.block,
            state_bytes=sizes.state,
            prefill=prefill.plan,
            decode=decode.plan,
            layers=layers_of(deployment, part),
            first_token=FirstToken(part.first_token),
            handover=_handover(scenario, part),
        )
        instances = strategy.pools(deployment.config)
        convention = CONVENTIONS[part.first_token]
    else:
        bytes_per_token, assumed = token_bytes(deployment, part, apart=payload.window_block_bytes > 0)
        strategy = SglangDisaggregation(
            route=route,
            block_bytes=bytes_per_token * deployment.config.block_size,
            prefill=prefill.plan,
            decode=decode.plan,
            options=decode_options(scenario, part),
            payload=payload,
            host=None if hosted is None else _cache(hosted.strategy),
        )
        instances = strategy.pools(deployment.config)
        convention = "sampled by the prefill instance, handed out by the decode instance, as SGLang does"
        about = about_options(strategy.options, part, deployment.fit)
        more = (*more, *about, *beside, *about_payload(payload))
        more = more if hosted is None else (*more, *hosted.assumptions)
    ranks = about_ranks(scenario, part)

    def perturbed(draw: Sequence[float]) -> Disaggregation | SglangDisaggregation:
        changed = replace(
            strategy,
            route=tuple(replace(stage, carrier=slower(stage.carrier, draw[0])) for stage in route),
            prefill=prefill.perturbed(draw),
            decode=decode.perturbed(draw),
        )
        if hosted is None or hosted.perturbed is None:
            return changed
        assert isinstance(changed, SglangDisaggregation)
        return replace(changed, host=_cache(hosted.perturbed(draw)))

    return Chosen(
        strategy,
        (Assumption(f"{SECTION}.first_token", part.first_token, convention), *assumed, *ranks, *more),
        (*_warnings(scenario, sides), *(() if hosted is None else hosted.warnings)),
        instances,
        _gpus(sides),
        perturbed,
    )


def _cache(strategy: Strategy) -> HierarchicalCache:
    assert isinstance(strategy, HierarchicalCache)
    return strategy


def _handover(scenario: Scenario, part: DisaggregationPart) -> Handover:
    """What vLLM does with prompts whose blocks it needs while they end."""
    version = parse_version(scenario.engine.version)
    if part.prefill.kv_role == "kv_both" and version >= FENCES:
        return Handover.KEPT
    return Handover.REPEATED if version >= DELIVERS else Handover.LOST


def _check_groups(config: EngineConfig, sides: tuple[Side, ...], part: DisaggregationPart) -> None:
    """Refuse what vLLM does not start with above several groups of layers, or what is not simulated.

    Raises:
        UsageError: says what, and why.
    """
    if one_full_group(config):
        return
    for side in sides:
        if side.deployment.parallel.pp > 1:
            raise UsageError(
                f"{side.deployment.parallel.pp} pipeline stages above {len(config.groups)} groups of caches: "
                "vLLM's NIXL connector refuses to start",
                where=f"{SECTION}.{side.name}.pp",
                hint="use tensor parallelism",
            )
    if part.dtype is not None and any(group.kind == "mamba" for group in config.groups):
        raise UsageError(
            "recurrent states are sent as they are stored, not in another number format",
            where=f"{SECTION}.dtype",
            hint="leave it out",
        )


def _about_groups(scenario: Scenario, side: Side) -> Iterator[str]:
    """What to know about caches of several groups on vLLM's instances."""
    config = side.deployment.config
    if not isinstance(config, EngineConfig) or one_full_group(config):
        return
    if parse_version(scenario.engine.version)[:2] != GROUPS_OF:
        yield (
            "caches of several groups are sent as by vLLM 0.33's NIXL connector, not that of "
            f"{scenario.engine.version}"
        )
    if any(group.kind == "mamba" for group in config.groups):
        yield "NIXL's connector reads states in one layout: start vLLM with VLLM_SSM_CONV_STATE_LAYOUT=DS"
    chunk = next((group.window for group in config.groups if group.kind == "chunked"), None)
    if chunk is not None:
        yield (
            f"vLLM 0.33's NIXL connector fails with a prompt that ends with a chunk of {chunk} tokens, as it "
            "finds nothing of it to read; here it is sent like any other"
        )


def _gpus(sides: tuple[Side, ...]) -> dict[str, int]:
    """How many GPUs the pools have together, by name."""
    found: dict[str, int] = {}
    for side in sides:
        name = side.deployment.gpu_name
        found[name] = found.get(name, 0) + side.gpus * side.plan.instances
    return found


def _check(scenario: Scenario, part: DisaggregationPart) -> None:
    check_names(scenario, part)
    if scenario.engine.kind == "sglang":
        check_sglang(scenario, part)
    else:
        check_vllm(part)
    check_ranks(scenario, part)
    if scenario.parallel.replicas > 1:
        raise UsageError(
            f"{scenario.parallel.replicas} replicas beside pools of prefill and decode instances",
            where="parallel.replicas",
            hint="say disaggregation.prefill.instances and disaggregation.decode.instances",
        )


def _warnings(scenario: Scenario, sides: tuple[Side, ...]) -> tuple[str, ...]:
    found: dict[str, None] = dict.fromkeys((*unchecked(scenario), *_about_groups(scenario, sides[0])))
    for side in sides:
        if side.plan.config is not None:
            found.update(dict.fromkeys(f"{side.name} pool: {text}" for text in side.deployment.warnings))
    return tuple(found)
