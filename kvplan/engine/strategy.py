"""What an engine is, and ways to manage memory other than the plain one's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.errors import UsageError
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.sglang.config import SglangConfig


class Engine(Protocol):
    """Something that serves a stream of requests and writes to its recorder."""

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, in order of arrival, until all are finished."""
        ...

    def close(self) -> None:
        """Bring the recorder's totals up to date; also after an interrupted run."""
        ...


class Strategy(Protocol):
    """What is done differently from the plain engine: tiers, another allocation, separate prefill, ...

    One whose engines are a ``Replica`` each, or ranks in step, that can be given requests one by one, says
    so with a class variable ``behind_router``; then several replicas can have it, each for itself. One
    whose engines cannot drop a request says so with ``holds_on``: its clients wait for ever. One whose
    steps take what the latency model answers, which is asked once for each and for nothing else, says so
    with ``asks_once``; what a step would take, that is not taken, is asked of ``HeardLatency.unheard``. One
    of SGLang's scheduler has a method ``sglang_engine``, like ``engine`` with a ``SglangConfig``; one that
    has an oracle, too, builds it with ``sglang_reference``.
    """

    @property
    def name(self) -> str:
        """As a scenario calls it."""
        ...

    def engine(self, config: EngineConfig, latency: LatencyModel, recorder: Recorder) -> Engine:
        """One deployment with this strategy.

        Raises:
            UsageError: the strategy does not go with these engine options (says which, and why).
        """
        ...


def strategy_engine(
    strategy: Strategy,
    config: EngineConfig | SglangConfig,
    latency: LatencyModel,
    recorder: Recorder,
    *,
    reference: bool = False,
) -> Engine:
    """One deployment with a strategy; ``reference``: its oracle, where it has one.

    Raises:
        UsageError: the strategy does not go with this engine or its options.
    """
    if isinstance(config, EngineConfig):
        return strategy.engine(config, latency, recorder)
    build: Callable[[SglangConfig, LatencyModel, Recorder], Engine] | None = None
    if reference:
        build = getattr(strategy, "sglang_reference", None)
    if build is None:
        build = getattr(strategy, "sglang_engine", None)
    if build is None:
        raise UsageError(
            f"{strategy.name} is simulated on vLLM's scheduler only", where="engine.kind", hint="use vllm"
        )
    return build(config, latency, recorder)
