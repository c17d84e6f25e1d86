"""One pool of prefill or decode instances, resolved: its own deployment and clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.engine.disaggregation.strategy import PoolPlan
from kvplan.errors import KvplanError, UsageError
from kvplan.scenario.clock import clock_of
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.pool_ranks import ranks_of
from kvplan.scenario.pools import own_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.disaggregation import PoolPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvplan.latency.clock import Clock
    from kvplan.specs.schema import GpuSpec

SECTION = "disaggregation"


@dataclass(frozen=True, slots=True)
class Side:
    """One pool, resolved: where its instances run and what they are; ``clock``: its own, if it has one."""

    name: str
    plan: PoolPlan
    deployment: Deployment
    clock: Clock | None = None

    def perturbed(self, draw: Sequence[float]) -> PoolPlan:
        """The pool with a clock of its own that is off like the others'."""
        if self.clock is None or self.clock.perturbed is None:
            return self.plan
        return replace(self.plan, latency=self.clock.perturbed(draw))

    @property
    def gpus(self) -> int:
        """Of one instance."""
        return self.deployment.parallel.gpus


def side_of(scenario: Scenario, deployment: Deployment, name: str, part: PoolPart) -> Side:
    """A pool's own deployment: the scenario's, with what the pool says instead.

    Raises:
        UsageError: blocks of its own beside what blocks follow from, or a GPU without a model.
        KvplanError: as resolving the pool as a scenario of its own raises, with the pool named.
    """
    where = f"{SECTION}.{name}"
    if part.blocks is not None and (part.gpu is not None or part.tp is not None or part.pp is not None):
        raise UsageError(
            "a pool has blocks, or a GPU and parallelism that they follow from", where=f"{where}.blocks",
            hint="leave one of them out",
        )  # fmt: skip
    elsewhere = {key: getattr(part, key) for key in ("tp", "pp") if getattr(part, key) is not None}
    if (elsewhere or part.gpu is not None) and deployment.fit is None:
        raise UsageError(
            f"{'gpu' if part.gpu is not None else next(iter(elsewhere))} of a pool needs a model and a GPU",
            where=where,
            hint="name 'model' and 'gpu' in the scenario, or say blocks",
        )
    if (elsewhere or part.gpu is not None) and scenario.cache.blocks is not None:
        raise UsageError(
            "cache.blocks fixes the blocks of every pool, whatever its GPUs", where=where,
            hint=f"leave cache.blocks out, or say {where}.blocks",
        )  # fmt: skip
    own = own_scenario(scenario, part)
    ranks = None
    if scenario.disaggregation is not None:
        ranks = ranks_of(scenario, scenario.disaggregation.lanes, part)
    if own is scenario:
        return Side(name, PoolPlan(part.instances, part.router, ranks=ranks), deployment)
    try:
        found = resolve_deployment(own)
        moved = found.gpu != deployment.gpu or found.parallel != deployment.parallel
        clock = clock_of(own, found) if moved else None
    except KvplanError as exc:
        exc.where = f"{where}: {exc.where}" if exc.where else where
        raise
    latency = None if clock is None else clock.model
    return Side(name, PoolPlan(part.instances, part.router, found.config, latency, ranks), found, clock)


def gpu_of(side: Side, key: str) -> GpuSpec:
    """The GPU of a pool's instances, which option ``key`` needs.

    Raises:
        UsageError: the scenario does not name one.
    """
    gpu = side.deployment.gpu
    if gpu is None:
        raise UsageError(
            f"{key} of a transfer needs the GPU of the {side.name} pool, which the scenario does not name",
            where=f"{SECTION}.{key}",
            hint="name 'gpu'",
        )
    return gpu
