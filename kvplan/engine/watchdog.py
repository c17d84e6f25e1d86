"""Noticing that requests preempt each other without end.

vLLM's own rules allow it: with ``scheduler_reserve_full_isl`` off, two requests of the same priority and
arrival can take turns in preempting each other while both compute their prompts. Every other storm of
preemptions ends within as many steps as the longest prompt has tokens, because whoever stands first in line
is never preempted and computes a token a step: unless blocks are missing that no running request holds. Who
stands first preempts itself then, until what holds them (a transfer, say) has come, which no number of steps
bounds.
"""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck

PATIENCE = 1000
"""A storm of preemptions may last so many times longer while blocks are expected."""


class Watchdog:
    """Counts steps that preempt, since the last step that sampled a token.

    Attributes:
        fruitless: how many there were, each as ``PATIENCE`` where no blocks were expected; whoever takes
            steps without telling sets it back to 0.
    """

    __slots__ = ("_limit", "fruitless")

    def __init__(self, config: EngineConfig) -> None:
        self._limit = PATIENCE * (config.max_model_len + config.max_num_seqs)
        self.fruitless = 0

    def planned(
        self, sampled_requests: int, victim: str | None, clock: float, *, expected: bool = False
    ) -> None:
        """A step was planned; ``victim`` is the last request it preempted.

        Args:
            expected: blocks come back that no running request holds.

        Raises:
            EngineStuck: no token was sampled for longer than any storm of preemptions can last.
        """
        if sampled_requests:
            self.fruitless = 0
        elif victim is not None:
            self.fruitless += 1 if expected else PATIENCE
            if self.fruitless > self._limit:
                raise EngineStuck(clock, victim, "is preempted without end")
