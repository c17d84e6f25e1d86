"""An engine that reads its whole workload before it serves the first request, for the offline optimum."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.engine.arrivals import Arrivals, arrivals_of
from kvplan.engine.config import EngineConfig
from kvplan.engine.content import Content
from kvplan.engine.frontend import rejection
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.replacement.foresight import Foresight
from kvplan.engine.replica import Replica
from kvplan.engine.scheduler_vllm import VllmScheduler
from kvplan.errors import UsageError
from kvplan.traces.request import Request

MAX_REQUESTS = 1_000_000
"""Most requests that are kept in memory to look ahead over."""


class ClairvoyantReplica(Replica):
    """A ``Replica`` for the eviction policy ``belady``; requests must all be given to one ``run``."""

    def __init__(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> None:
        self._foresight = Foresight(config.block_size)
        super().__init__(config, latency, recorder)

    def make_scheduler(self) -> VllmScheduler:
        """One whose evictions look ahead."""
        return VllmScheduler(self.config, keep_schedule=self.logging, foresight=self._foresight)

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Read all requests, then serve them.

        Raises:
            UsageError: too many to look ahead over. DataError: two have the same id.
        """
        arrivals = arrivals_of(requests, self.recorder)
        for number, request in enumerate(arrivals.ahead()):
            if number == MAX_REQUESTS:
                raise UsageError(
                    f"the eviction policy belady looks ahead over {MAX_REQUESTS:,} requests at most",
                    where="cache.eviction",
                    hint="limit the workload (--limit), or choose a policy that does not know the future",
                )
            self._announce(request)
        super().run(arrivals)

    def _announce(self, request: Request) -> None:
        """Of L prompt tokens the first (L - 1) // block_size blocks can be hit: one token is computed."""
        if rejection(request, self.config) is None:
            blocks = (request.prompt_tokens - 1) // self.config.block_size
            self._foresight.add(request.id, Content(request.prompt, ()), blocks)
