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
        UsageError: SGLang's scheduler, or context parallelism.
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
    strategy = DataParallelAttention(parallel.tp, scenario.routing.ranks)
    text = "ranks in step: a step lasts as long as the clock says for the slowest rank"
    if scenario.latency.model != "linear":
        text += "'s own attention, and for dense and expert layers with the tokens of all ranks together"
    assumed = Assumption(WHERE, parallel.tp, text)
    return Chosen(strategy, (assumed,), (), (config,) * parallel.tp)
