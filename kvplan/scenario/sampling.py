"""``sampling`` of a scenario, as a strategy of the engine."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.sampling.beams import default_trunk_lag
from kvplan.engine.sampling.replica import SamplingRule
from kvplan.engine.sampling.strategy import Sampling
from kvplan.errors import UsageError
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario


def sampling_strategy(scenario: Scenario, deployment: Deployment) -> Chosen:
    """What the scenario asks for; more than one sample.

    Raises:
        UsageError: another engine than vLLM, or more samples than may run at once.
    """
    part, config = scenario.sampling, deployment.config
    if not isinstance(config, EngineConfig):
        raise UsageError(
            "several samples of a request are simulated on vLLM's scheduler only",
            where="engine.kind",
            hint="use vllm",
        )
    if part.n > (limit := config.max_num_seqs):
        raise UsageError(
            f"{part.n} samples of a request never run together: the engine runs at most {limit} at a time",
            where="sampling.n",
            hint="raise engine.max_num_seqs or lower n",
        )
    lag = None
    if part.mode == "beam":
        lag = default_trunk_lag(part.n) if part.trunk_lag is None else part.trunk_lag
    block_bytes = None
    if (fit := deployment.fit) is not None:
        block_bytes = fit.binding.pool.layout(fit.max_model_len).block_bytes
    return Chosen(
        Sampling(SamplingRule(part.n, part.fork, lag, block_bytes)), warnings=_warnings(part.n, lag)
    )


def _warnings(n: int, lag: int | None) -> tuple[str, ...]:
    """What the result takes for granted."""
    length = f"sampling: all {n} samples of a request are taken to be as long as its answer"
    if lag is None:
        return (length,)
    trunk = (
        f"sampling: beams are taken to differ in their last {lag} tokens, whatever the scores; a beam that "
        "is preempted comes back on its own while the others go on"
    )
    return (length, trunk)
