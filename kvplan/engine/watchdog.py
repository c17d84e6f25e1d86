"""Noticing that requests preempt each other without end.

vLLM's own rules allow it: with ``scheduler_reserve_full_isl`` off, two requests of the same priority and
arrival can take turns in preempting each other while both compute their prompts. Every other storm of
preemptions ends within as many steps as the longest prompt has tokens, because whoever stands first in line
is never preempted and computes a token a step.
"""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.replica import Replica


class Watchdog:
    """Counts steps that preempt, since the last step that sampled a token."""

    __slots__ = ("_fruitless", "_limit")

    def __init__(self, config: EngineConfig) -> None:
        self._limit = config.max_model_len + config.max_num_seqs
        self._fruitless = 0

    def planned(self, plan: StepPlan, clock: float) -> None:
        """A step was planned.

        Raises:
            EngineStuck: no token was sampled for longer than any storm of preemptions can last.
        """
        if plan.batch.sampled_requests:
            self._fruitless = 0
        elif plan.preempted:
            self._fruitless += 1
            if self._fruitless > self._limit:
                raise EngineStuck(clock, plan.preempted[-1].request.id, "is preempted without end")


class WatchedReplica(Replica):
    """The plain engine, which says so when nothing comes of its preemptions."""

    def __init__(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> None:
        super().__init__(config, latency, recorder)
        self._watchdog = Watchdog(config)

    def _record(self, plan: StepPlan, clock: float) -> None:
        self._watchdog.planned(plan, clock)
        super()._record(plan, clock)
