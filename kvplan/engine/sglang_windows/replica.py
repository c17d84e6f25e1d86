"""An SGLang engine with a pool for sliding windows."""

from __future__ import annotations

from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.sglang_windows.metrics import SECTION, WindowFigures
from kvplan.engine.sglang_windows.pool import WindowPool
from kvplan.engine.sglang_windows.scheduler import WindowScheduler
from kvplan.engine.sglang_windows.windows import SlidingWindows


class WindowReplica(SglangReplica):
    """A replica whose tokens have places in two pools.

    ``used_blocks`` and the pool of decision lines and series are the full one.

    Args:
        config, latency, recorder: as of ``SglangReplica``.
        windows: the pool for windows.

    Attributes:
        peak_full, peak_windows: most tokens of each pool that requests held.
    """

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, windows: SlidingWindows
    ) -> None:
        self.windows = windows
        self.peak_full = self.peak_windows = 0
        super().__init__(config, latency, recorder)

    def make_scheduler(self) -> WindowScheduler:
        """Above both pools."""
        pool = WindowPool(self.config, self.windows)
        self.windowed = WindowScheduler(self.config, pool, keep_schedule=self.logging)
        return self.windowed

    def quiet(self) -> bool:
        # Whoever waits is looked at with every step.
        return not self.scheduler.waiting and super().quiet()

    def coasted(self, done: int, taken: int) -> SglangPlan:
        last = super().coasted(done, taken)
        self._note_peaks()
        return last

    def record(self, plan: SglangPlan, clock: float) -> bool:
        heard = super().record(plan, clock)
        self._note_peaks()
        return heard

    def _note_peaks(self) -> None:
        pool = self.windowed.pool
        self.peak_full = max(self.peak_full, self.config.pool_tokens - pool.unreferenced)
        self.peak_windows = max(self.peak_windows, pool.used_windows)

    def close(self) -> None:
        """As the base class; writes the section of windows."""
        super().close()
        scheduler, pool = self.windowed, self.windowed.pool
        figures = WindowFigures(
            span=pool.span, full_pool=self.config.pool_tokens, window_pool=pool.window_tokens,
            peak_full=self.peak_full, peak_windows=self.peak_windows,
            evicted=pool.cache.evicted, evicted_windows=pool.cache.evicted_windows,
            slid=pool.slid, missed=scheduler.missed, missed_tokens=scheduler.missed_tokens,
            queried=scheduler.queried_tokens,
        )  # fmt: skip
        self.recorder.sections[SECTION] = figures.metrics()
