"""Serving a workload with an engine and keeping all it says; a helper of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.protocols import StepBatch
from kvplan.engine.recorder import Metric, Recorder, RequestRow, SeriesPoint
from kvplan.engine.strategy import Engine
from kvplan.traces.request import Request


class Clock:
    """A linear clock that remembers the steps it has timed."""

    def __init__(self) -> None:
        self.decodes: list[tuple[int, int]] = []
        """Requests that decode in a step, and the tokens they attend to."""

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds of one step."""
        if batch.decode_requests:
            self.decodes.append((batch.decode_requests, batch.decode_kv_tokens))
        return 5e-3 + 2e-4 * batch.scheduled_tokens + 1e-5 * batch.decode_context


class Served(NamedTuple):
    """What a run left behind."""

    rows: list[RequestRow]
    rejected: list[tuple[str, str]]
    totals: dict[str, int | float]
    series: list[SeriesPoint]
    lines: list[str]
    stuck: str | None
    sections: dict[str, list[Metric]]
    decodes: list[tuple[int, int]]

    def metric(self, section: str, name: str) -> int | float | str | None:
        """The value of a strategy's figure."""
        return next(metric.value for metric in self.sections[section] if metric.name == name)

    @property
    def outcome(self) -> tuple[object, ...]:
        """What two equal engines agree on."""
        return self.rows, self.rejected, self.totals, self.stuck


Maker = Callable[[EngineConfig, Clock, Recorder], Engine]


def serve(
    make: Maker, config: EngineConfig, requests: Iterable[Request], *, log: bool = False, stride: int = 1
) -> Served:
    """Serve the requests; an engine that says it is stuck has answered, too.

    Args:
        stride: steps from one point of the series to the next; an engine without a log takes no more at once.
    """
    rows: list[RequestRow] = []
    rejected: list[tuple[str, str]] = []
    lines: list[str] = []
    clock = Clock()
    recorder = Recorder(
        on_request=rows.append,
        on_rejected=lambda request, reason, _: rejected.append((request, reason)),
        on_decision=lines.append if log else None,
    )
    recorder.series_stride = stride
    engine = make(config, clock, recorder)
    stuck = None
    try:
        engine.run(requests)
    except EngineStuck as exc:
        stuck = exc.message
    engine.close()
    return Served(
        rows, rejected, recorder.totals.to_dict(), recorder.series, lines, stuck, recorder.sections,
        clock.decodes,
    )  # fmt: skip


def request(name: str, prompt: int, output: int, arrival_s: float = 0.0, start: int = 0) -> Request:
    """A request with a prompt of its own."""
    return Request(name, arrival_s, ((start, prompt),), prompt, ((start + 10**7, output),), output)
