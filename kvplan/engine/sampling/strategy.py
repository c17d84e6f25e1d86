"""Several samples of every request, as a scenario asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.instance import one_full_group
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sampling.replica import SamplingEngine, SamplingRule
from kvplan.engine.strategy import Engine
from kvplan.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """``rule.n`` samples of every request."""

    rule: SamplingRule
    holds_on: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        return "sampling" if self.rule.trunk_lag is None else "sampling (beam)"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> Engine:
        """One deployment.

        Raises:
            UsageError: more samples than may run at once, several layer groups, the clairvoyant eviction
                policy, or beams with a prefix cache.
        """
        n = self.rule.n
        if n > config.max_num_seqs:
            raise UsageError(
                f"{n} samples of a request never run together: the engine runs at most "
                f"{config.max_num_seqs} at a time",
                where="sampling.n",
                hint="raise engine.max_num_seqs or lower n",
            )
        if not one_full_group(config):
            raise UsageError(
                "several samples are simulated on one group of full attention",
                where="cache.groups",
                hint="--set 'cache.groups=[{kind: full}]' treats all layers alike",
            )
        if config.eviction == "belady":
            raise UsageError("belady knows requests, not samples", where="cache.eviction", hint="use lru")
        if self.rule.trunk_lag is not None and config.enable_prefix_caching:
            raise UsageError(
                "beams are not published: what they have computed is not the answer",
                where="cache.prefix",
                hint="set cache.prefix to none",
            )
        return SamplingEngine(config, latency, recorder, self.rule)
