"""From ``parallel.dp_attention`` of a scenario to ranks in step."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario

WHERE = "parallel.dp_attention"


def data_parallel_attention(scenario: Scenario, deployment: Deployment) -> Chosen:
    """One attention rank for each of ``parallel.tp`` GPUs.

    Raises:
        UsageError: SGLang's scheduler, context parallelism, or a clock that times ranks with the same tokens.
    """
    parallel, config = scenario.parallel, deployment.config
    if not isinstance(config, EngineConfig):
        raise UsageError(
            "data-parallel attention is simulated on vLLM's scheduler only",
            where="engine.kind",
            hint="use vllm",
        )
    if parallel.cp > 1:
        raise UsageError(
            f"with data-parallel attention a sequence lives on one rank, not on cp {parallel.cp} of them",
            where=WHERE,
            hint="use one of the two",
        )
    if scenario.latency.model != "linear":
        raise UsageError(
            f"the {scenario.latency.model} clock times ranks that compute the same tokens; with data-parallel"
            " attention each has its own, and only experts work for all",
            where="latency.model",
            hint="give the time of one rank's step: {model: linear, a: ..., b: ..., c: ...}",
        )
    strategy = DataParallelAttention(parallel.tp, scenario.routing.ranks)
    assumed = Assumption(
        WHERE, parallel.tp, "ranks in step: a step lasts as long as the clock says for the slowest rank"
    )
    return Chosen(strategy, (assumed,), (), (config,) * parallel.tp)
