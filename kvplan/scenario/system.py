"""The engines of a scenario: what is built again for every run, ensemble member and audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import make_engine
from kvplan.engine.instance import one_full_group
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.strategy import Engine, Strategy
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig


@dataclass(frozen=True, slots=True)
class System:
    """Engine options, how many replicas share the requests and how, and the strategy, if any.

    ``chosen``: the strategy with what a result has to say about it.
    """

    config: EngineConfig | SglangConfig
    replicas: int = 1
    router: str = "round-robin"
    strategy: Strategy | None = None
    chosen: Chosen | None = None

    def engine(self, name: str, latency: LatencyModel, recorder: Recorder) -> Engine:
        """A fresh system; ``name`` is ``fast`` or ``reference``."""
        return make_engine(
            name,
            self.config,
            latency,
            recorder,
            replicas=self.replicas,
            router=self.router,
            strategy=self.strategy,
        )

    def perturbed(self, draw: Sequence[float]) -> System:
        """The same with copies, transfers and clocks of its own that are off, for a member of an ensemble."""
        if self.chosen is None or self.chosen.perturbed is None:
            return self
        return replace(self, strategy=self.chosen.perturbed(draw))

    @property
    def instances(self) -> tuple[EngineConfig | SglangConfig, ...]:
        """Options of every engine instance."""
        if self.chosen is not None and self.chosen.instances is not None:
            return self.chosen.instances
        return (self.config,) * self.replicas

    @property
    def most_running(self) -> int:
        """Requests that all instances run at once, at most."""
        return sum(
            each.max_num_seqs if isinstance(each, EngineConfig) else each.max_running_requests
            for each in self.instances
        )

    def gpus(self, deployment: Deployment) -> Mapping[str, int]:
        """How many GPUs all instances have together, by name."""
        if self.chosen is not None and self.chosen.gpus is not None:
            return self.chosen.gpus
        return {deployment.gpu_name: deployment.parallel.gpus * self.replicas}

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """What the strategy assumes."""
        return () if self.chosen is None else self.chosen.assumptions

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about the strategy."""
        return () if self.chosen is None else self.chosen.warnings

    @property
    def asks_once(self) -> bool:
        """Whether the clock is asked for the time of every step, once, and for nothing else."""
        return self.strategy is None or bool(getattr(self.strategy, "asks_once", False))

    @property
    def one_by_one(self) -> bool:
        """Whether it is one instance whose steps follow one another, each as soon as somebody is there."""
        return self.replicas == 1 and (
            self.strategy is None or bool(getattr(self.strategy, "one_by_one", False))
        )

    @property
    def by_block(self) -> bool:
        """Whether its pool has other groups than full attention, which takes longer to simulate."""
        config = self.config
        return isinstance(config, EngineConfig) and not one_full_group(config)


def _prefix_reuse(scenario: Scenario, deployment: Deployment) -> Strategy | None:
    """``cache.reuse_granularity`` other than the block size, and ``cache.pinned``."""
    cache = scenario.cache
    if cache.pinned is None and cache.reuse_granularity in (None, deployment.config.block_size):
        return None
    from kvplan.scenario.reuse import prefix_reuse

    return prefix_reuse(cache)


def _holding(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """``cache.retention`` other than the engine's, and ``cache.allocation`` other than plain blocks."""
    cache = scenario.cache
    plain = cache.allocation.kind == "paged" and cache.allocation.report == "none"
    if cache.retention == "engine" and plain:
        return None
    from kvplan.scenario.holding import holding_strategy

    return holding_strategy(scenario, deployment)


def _sampling(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """``sampling`` of more than one answer."""
    if scenario.sampling.n == 1:
        return None
    from kvplan.scenario.sampling import sampling_strategy

    return sampling_strategy(scenario, deployment)


def _speculation(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """``speculative``."""
    if scenario.speculative is None:
        return None
    from kvplan.scenario.speculation import speculation

    return speculation(scenario, deployment, scenario.speculative)


def _disaggregation(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """``disaggregation``."""
    if scenario.disaggregation is None:
        return None
    from kvplan.scenario.disaggregation import disaggregation

    return disaggregation(scenario, deployment, scenario.disaggregation)


def _tiers(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """``tiers``, ``cache.host_memory``, and ``engine.preemption`` other than recomputing.

    Below SGLang's prefill servers they are a matter of ``disaggregation``.
    """
    preemption = getattr(scenario.engine, "preemption", "recompute")
    if not scenario.has_tiers and preemption == "recompute":
        return None
    if scenario.engine.kind == "sglang" and scenario.disaggregation is not None:
        return None
    from kvplan.scenario.tiers import tiers

    return tiers(scenario, deployment)


def _data_parallel_attention(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """``parallel.dp_attention``; of prefill and decode instances a matter of ``disaggregation``."""
    if scenario.parallel.ranks == 1 or scenario.disaggregation is not None:
        return None
    from kvplan.scenario.lockstep import data_parallel_attention

    return data_parallel_attention(scenario, deployment)


def _recurrent_states(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """Recurrent layers below SGLang; below vLLM their states are groups of the plain engine, and with drafts
    they are a matter of ``speculative``, on prefill and decode servers of ``disaggregation``."""
    if isinstance(deployment.config, EngineConfig) or _elsewhere(scenario):
        return None
    from kvplan.scenario.sglang_states import recurrent_states

    return recurrent_states(scenario, deployment)


def _sliding_windows(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """SGLang's pool for windows, which a scenario need not ask for: the model's have one; as of states."""
    if scenario.engine.kind != "sglang" or deployment.fit is None or _elsewhere(scenario):
        return None
    from kvplan.scenario.sglang_windows import sliding_windows

    return sliding_windows(scenario, deployment)


def _elsewhere(scenario: Scenario) -> bool:
    """Whether SGLang's pools beside that of tokens are a matter of another part of the scenario."""
    return scenario.speculative is not None or scenario.disaggregation is not None


def _is_given(scenario: Scenario, key: str) -> bool:
    part, _, name = key.rpartition(".")
    return name in (getattr(scenario, part) if part else scenario).model_fields_set


Strategies = Callable[[Scenario, Deployment], Strategy | Chosen | None]

STRATEGIES: tuple[tuple[Strategies, tuple[str, ...]], ...] = (
    (_prefix_reuse, ("cache.pinned", "cache.reuse_granularity")),
    (_holding, ("cache.retention", "cache.allocation")),
    (_tiers, ("tiers", "cache.host_memory", "engine.preemption")),
    (_sampling, ("sampling",)),
    (_speculation, ("speculative",)),
    (_disaggregation, ("disaggregation",)),
    (_data_parallel_attention, ("parallel.dp_attention", "parallel.attention_ranks")),
    (_recurrent_states, ("model",)),
    (_sliding_windows, ("model",)),
)
"""Each looks for its own part of a scenario, by the keys behind it; None where it is not asked for."""


def system_of(scenario: Scenario, deployment: Deployment) -> System:
    """What a scenario asks for.

    Raises:
        UsageError: strategies that are not simulated together, or clients that give up where somebody holds
            on to them.
    """
    looks = [(look(scenario, deployment), keys) for look, keys in STRATEGIES]
    asked = [found for found, _ in looks if found is not None]
    if len(asked) > 1:
        from kvplan.scenario.together import together

        keys = [key for found, keys in looks if found is not None for key in keys]
        asked = [together(asked, where=", ".join(key for key in keys if _is_given(scenario, key)))]
    strategies = [item.strategy if isinstance(item, Chosen) else item for item in asked]
    gives_up = scenario.workload.gives_up
    if gives_up and getattr(deployment.config, "eviction", None) == "belady":
        raise UsageError(
            "who looks ahead must know which requests will be served, and clients may give up",
            where="workload.timeout_s", hint="leave out the time-outs, or a cache.eviction other than belady",
        )  # fmt: skip
    if strategies and gives_up and getattr(strategies[0], "holds_on", False):
        raise UsageError(
            f"{strategies[0].name} is simulated with clients that wait for ever",
            where="workload.timeout_s", hint="leave out the time-outs, or the strategy",
        )  # fmt: skip
    return System(
        deployment.config,
        scenario.parallel.replicas,
        scenario.routing.policy,
        strategies[0] if strategies else None,
        next((item for item in asked if isinstance(item, Chosen)), None),
    )
