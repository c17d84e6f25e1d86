"""Noticing that requests preempt each other without end.

vLLM's own rules allow it: with ``scheduler_reserve_full_isl`` off, two requests of the same priority and
arrival can take turns in preempting each other while both compute their prompts. Every other storm of
preemptions ends within as many steps as the longest prompt has tokens, because whoever stands first in line
is never preempted and computes a token a step.
"""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck


class Watchdog:
    """Counts steps that preempt, since the last step that sampled a token.

    Attributes:
        fruitless: how many there were; whoever takes steps without telling sets it back to 0.
    """

    __slots__ = ("_limit", "fruitless")

    def __init__(self, config: EngineConfig) -> None:
        self._limit = config.max_model_len + config.max_num_seqs
        self.fruitless = 0

    def planned(self, sampled_requests: int, victim: str | None, clock: float) -> None:
        """A step was planned; ``victim`` is the last request it preempted.

        Raises:
            EngineStuck: no token was sampled for longer than any storm of preemptions can last.
        """
        if sampled_requests:
            self.fruitless = 0
        elif victim is not None:
            self.fruitless += 1
            if self.fruitless > self._limit:
                raise EngineStuck(clock, victim, "is preempted without end")
