"""One instance of the fast vLLM engine, for whatever groups the pool has."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.replica import Replica


def one_full_group(config: EngineConfig) -> bool:
    """Whether all layers have full attention: then one table of blocks serves them."""
    return len(config.groups) == 1 and config.groups[0].kind == "full"


def simulated_in_segments(config: EngineConfig) -> bool:
    """Whether the fast engine can keep these groups: in prefix indexes of one block size at most."""
    return len({group.block_size for group in config.groups if group.kind in ("full", "chunked")}) <= 1


def make_replica(config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> Replica:
    """An instance whose groups are ``simulated_in_segments``."""
    if one_full_group(config):
        return Replica(config, latency, recorder)
    from kvplan.engine.hybrid.replica import HybridReplica

    return HybridReplica(config, latency, recorder)
