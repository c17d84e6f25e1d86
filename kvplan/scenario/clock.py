"""The clock of a deployment."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from kvplan.latency.build import build_latency
from kvplan.latency.clock import Clock
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario

if TYPE_CHECKING:
    from kvplan.specs.model import ModelSpec


def clock_of(scenario: Scenario, deployment: Deployment) -> Clock:
    """The clock that ``latency`` of a scenario asks for, on what the scenario was resolved to.

    Raises:
        UnknownName, SpecError: as ``build_latency``.
    """
    part = scenario.speculative
    timed = partial(_clock, scenario, deployment)
    clock = timed(deployment.model, decode_tokens=1 if part is None else 1 + part.tokens)
    fit = deployment.fit
    if part is not None and fit is not None and clock.kind != "linear" and not fit.lookup:
        from kvplan.latency.drafting import drafting_clock, own_drafter, whole_passes

        drafter = fit.drafter or own_drafter(fit.model)
        passes = timed(drafter, mine=fit.draft, projected=part.method != "draft_model")
        clock = drafting_clock(clock, passes, whole=whole_passes(fit.model, part.tokens) if fit.draft else 1)
    pools = scenario.disaggregation
    servers = scenario.parallel.replicas if pools is None else pools.prefill.instances
    return replace(clock, client=replace(clock.client, seed=str(scenario.seed), servers=servers))


def _clock(
    scenario: Scenario,
    deployment: Deployment,
    model: ModelSpec | None,
    *,
    mine: bool = True,
    decode_tokens: int = 1,
    projected: bool = False,
) -> Clock:
    """The clock of the deployment's model, or of one that drafts for it on the same ranks.

    ``mine``: its weights come with the deployment's checkpoint.
    """
    fit, parallel, target = deployment.fit, deployment.parallel, model is deployment.model
    experts = model is not None and any(
        getattr(block.mlp, "kind", None) == "moe" for block in model.blocks.values()
    )
    return build_latency(
        {"model": scenario.latency.model, **scenario.latency.parameters()},
        model=model,
        gpu=deployment.gpu,
        parallel=parallel if target else replace(parallel, pp=1),
        kv_format=None if fit is None else fit.kv_format,
        weights_format=fit.weights_format if fit is not None and mine else None,
        # What a kernel sees: with context parallelism each rank has its part of the scheduler's block.
        block_size=deployment.config.block_size // parallel.cp,
        serving=None if fit is None else fit.serving,
        expert_parallel=scenario.parallel.expert_parallel and (target or experts),
        decode_tokens=decode_tokens,
        projected=projected,
    )
