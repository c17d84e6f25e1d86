"""Choosing an engine: one interface, a fast implementation, the oracle, and other ways to manage memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import make_replica, one_full_group, simulated_in_segments
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.strategy import Engine, Strategy, strategy_engine
from kvplan.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig

ENGINES = ("fast", "reference")


def make_engine(
    name: str,
    config: EngineConfig | SglangConfig,
    latency: LatencyModel,
    recorder: Recorder,
    *,
    replicas: int = 1,
    router: str = "round-robin",
    strategy: Strategy | None = None,
) -> Engine:
    """``fast``, or ``reference``: the same decisions, block by block; several replicas behind a router.

    Full attention or chunks in blocks of two sizes are simulated block by block under either name. Of the
    strategies SGLang's pools for windows and for states have oracles; the others have one implementation.
    """
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    if strategy is not None:
        if replicas == 1:
            return strategy_engine(strategy, config, latency, recorder, reference=name == "reference")
        if not getattr(strategy, "behind_router", False):
            raise UsageError(
                f"{strategy.name} is simulated for one replica",
                where="parallel.replicas",
                hint="simulate one replica with the rate divided by the number of replicas",
            )
        from kvplan.engine.cluster import Cluster

        return Cluster(replicas, router, config, latency, recorder, strategy)
    if replicas > 1:
        if name != "fast":
            raise UsageError(
                f"several replicas are simulated with the fast engine only, not with {name!r}",
                hint="simulate one replica with the rate divided by the number of replicas",
            )
        from kvplan.engine.cluster import Cluster

        return Cluster(replicas, router, config, latency, recorder)
    if not isinstance(config, EngineConfig):
        if name == "fast":
            from kvplan.engine.sglang.replica import SglangReplica

            return SglangReplica(config, latency, recorder)
        from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine

        return ReferenceSglangEngine(config, latency, recorder)
    if config.eviction != "lru" and not (name == "fast" and one_full_group(config)):
        raise UsageError(
            f"the eviction policy {config.eviction!r} is simulated by the fast engine, on one group of full "
            "attention",
            where="cache.eviction",
            hint="use lru here, or --set 'cache.groups=[{kind: full}]' for a model with several groups",
        )
    if config.eviction == "belady":
        from kvplan.engine.replacement.clairvoyant import ClairvoyantReplica

        return ClairvoyantReplica(config, latency, recorder)
    if name == "fast" and simulated_in_segments(config):
        return make_replica(config, latency, recorder)
    from kvplan.engine.reference.loop import ReferenceEngine

    return ReferenceEngine(config, latency, recorder)
