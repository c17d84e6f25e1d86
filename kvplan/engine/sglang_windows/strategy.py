"""A pool for sliding windows as a strategy: plain values a scenario is translated to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.replica import WindowReplica
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.errors import UsageError

if TYPE_CHECKING:
    from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine


@dataclass(frozen=True, slots=True)
class WindowPools:
    """What SGLang does with models whose windows have a pool of their own.

    Attributes:
        windows: that pool.
    """

    behind_router: ClassVar[bool] = True
    asks_once: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True
    windows: SlidingWindows

    @property
    def name(self) -> str:
        """As messages call it."""
        return "SGLang's pool for sliding windows"

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> WindowReplica:
        """Not below vLLM.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this pool is SGLang's; vLLM's groups share one", where="engine.kind", hint="use sglang"
        )

    def sglang_engine(self, config: SglangConfig, latency: LatencyModel, recorder: Recorder) -> WindowReplica:
        """One replica.

        Raises:
            UsageError: see ``SlidingWindows.check``.
        """
        self.windows.check(config)
        return WindowReplica(config, latency, recorder, self.windows)

    def sglang_reference(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder
    ) -> ReferenceSglangEngine:
        """Its oracle.

        Raises:
            UsageError: see ``SlidingWindows.check``.
        """
        from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
        from kvplan.engine.reference.sglang_windows import ReferenceWindowScheduler

        self.windows.check(config)
        scheduler = ReferenceWindowScheduler(config, self.windows)
        return ReferenceSglangEngine(config, latency, recorder, scheduler=scheduler)
