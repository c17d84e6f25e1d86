"""An SGLang engine for a model with sliding windows, with host memory."""

from __future__ import annotations

from kvplan.engine.hicache.metrics import window_metrics
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.windows.index import HostedWindowIndex
from kvplan.engine.hicache.windows.scheduler import HostedWindowScheduler
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_windows.pool import WindowPool
from kvplan.engine.sglang_windows.replica import WindowReplica
from kvplan.engine.sglang_windows.windows import SlidingWindows


class HostedWindowReplica(WindowReplica, HierarchicalReplica):
    """A replica whose tokens and windows go on in the host.

    Args:
        config, latency, recorder: as of ``SglangReplica``.
        windows: the device's pool for windows.
        index: the cache, empty.
    """

    index: HostedWindowIndex

    def __init__(
        self, config: SglangConfig, latency: LatencyModel, recorder: Recorder, windows: SlidingWindows,
        index: HostedWindowIndex,
    ) -> None:  # fmt: skip
        self.windows = windows
        self.peak_full = self.peak_windows = 0
        HierarchicalReplica.__init__(self, config, latency, recorder, index)

    def make_scheduler(self) -> HostedWindowScheduler:
        """Above four pools."""
        pool = WindowPool(self.config, self.windows, self.index)
        made = HostedWindowScheduler(self.config, pool, keep_schedule=self.logging)
        self.windowed = self.hierarchical = made
        return made

    def close(self) -> None:
        """As the base classes; the section ``tiers`` tells of the host's windows, too."""
        super().close()
        self.recorder.sections["tiers"] += window_metrics(self)
