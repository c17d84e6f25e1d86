"""The clock of a deployment."""

from __future__ import annotations

from dataclasses import replace

from kvplan.latency.build import Clock, build_latency
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario


def clock_of(scenario: Scenario, deployment: Deployment) -> Clock:
    """The clock that ``latency`` of a scenario asks for, on what the scenario was resolved to.

    Raises:
        UnknownName, SpecError: as ``build_latency``.
    """
    fit = deployment.fit
    clock = build_latency(
        {"model": scenario.latency.model, **scenario.latency.parameters()},
        model=deployment.model,
        gpu=deployment.gpu,
        parallel=deployment.parallel,
        kv_format=None if fit is None else fit.kv_format,
        weights_format=None if fit is None else fit.weights_format,
        # What a kernel sees: with context parallelism each rank has its part of the scheduler's block.
        block_size=deployment.config.block_size // deployment.parallel.cp,
        serving=None if fit is None else fit.serving,
        expert_parallel=scenario.parallel.expert_parallel,
    )
    return replace(clock, client=replace(clock.client, seed=str(scenario.seed)))
