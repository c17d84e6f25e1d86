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


def check_context(scenario: Scenario) -> None:
    """Refuse ranks that would share a sequence.

    Raises:
        UsageError: context parallelism.
    """
    if scenario.parallel.cp > 1:
        raise UsageError(
            f"with data-parallel attention a sequence lives on one rank, not on cp {scenario.parallel.cp} of "
            "them",
            where=WHERE,
            hint="use one of the two",
        )


def data_parallel_attention(scenario: Scenario, deployment: Deployment) -> Chosen:
    """The ranks of ``parallel.ranks``.

    Raises:
        UsageError: context parallelism.
    """
    parallel, config = scenario.parallel, deployment.config
    check_context(scenario)
    on_vllm = isinstance(config, EngineConfig)
    router = scenario.routing.ranks or ("least-loaded" if on_vllm else "round-robin")
    text = "ranks in step: a step lasts as long as the clock says for the slowest rank"
    if scenario.latency.model != "linear":
        text += "'s own attention, and for dense and expert layers with the tokens of all ranks together"
    assumed = [Assumption(WHERE, parallel.ranks, text)]
    if scenario.routing.ranks is None:
        assumed.append(Assumption("routing.ranks", router, "as the engine deals requests to ranks"))
    ranks = parallel.ranks * parallel.replicas
    return Chosen(DataParallelAttention(parallel.ranks, router), tuple(assumed), (), (config,) * ranks)
