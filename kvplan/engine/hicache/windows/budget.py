"""``PrefillAdder``'s books where windows may come back from the host."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.pool import TokenPool
from kvplan.engine.sglang_windows.budget import WindowBudget


class HostedWindowBudget(WindowBudget):
    """Budgets of one prefill batch, of both pools of the device.

    Args:
        config, pool, ratio, reserved, mixed_decodes, shares: as of ``WindowBudget``.

    Attributes:
        loads: tokens of windows that the request which is looked at would load.
    """

    __slots__ = ("loads",)

    def __init__(
        self, config: SglangConfig, pool: TokenPool, ratio: float, reserved: int, mixed_decodes: int,
        shares: Callable[[], float],
    ) -> None:  # fmt: skip
        super().__init__(config, pool, ratio, reserved, mixed_decodes, shares)
        self.loads = 0

    def windows_of(self, extend: int, answer: int) -> int:
        """As the base class, and what the load takes."""
        return super().windows_of(extend, answer) + self.loads
