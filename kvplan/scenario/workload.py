"""The requests of a scenario: a trace read from disk, or a synthetic workload drawn from its seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvplan.errors import TooFewRequests, UsageError
from kvplan.provenance import InputFile, input_file
from kvplan.scenario.clients import Clients
from kvplan.scenario.schema import WorkloadPart
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.traces.trace import Trace

DEFAULT_REQUESTS = 1000
DEFAULT_RATE = 5.0
_OF_RATES = ("rate_scale", "arrivals", "burstiness")


@dataclass(slots=True)
class Workload:
    """Requests to replay, and the books of where they came from (complete once they are consumed)."""

    part: WorkloadPart
    seed: int
    trace: Trace | None

    @property
    def clients(self) -> Clients:
        """Who sends the requests."""
        part = self.part
        return Clients(
            limit=part.max_in_flight,
            answered=part.turns == "answered",
            sessions=part.max_sessions,
            at_once=self.at_once,
            timeout_s=part.timeout_s,
            first_token_timeout_s=part.first_token_timeout_s,
            retries=part.retries,
            retry_after_s=part.retry_after_s,
        )

    @property
    def at_once(self) -> bool:
        """Whether nothing but the clients' limits says when requests are sent."""
        part = self.part
        if part.rate is not None or part.synthesize is None:
            return False
        if part.max_sessions is not None:
            return True
        from kvplan.traces.workloads import workload

        return part.max_in_flight is not None and workload(part.synthesize).turns is None

    def requests(self) -> Iterator[Request]:
        """The requests in order of arrival."""
        if self.trace is not None:
            return self.trace.requests()
        from kvplan.traces.synthesize import synthesize

        part = self.part
        assert part.synthesize is not None
        return synthesize(
            part.synthesize,
            part.requests or DEFAULT_REQUESTS,
            None if self.at_once else (part.rate or DEFAULT_RATE) * part.rate_scale,
            self.seed,
            arrivals=part.arrivals,
            shape=part.burstiness,
            input_tokens=part.prompt_tokens,
            output_tokens=part.output_tokens,
        )

    @property
    def name(self) -> str:
        """File name or workload name."""
        return (
            os.path.basename(self.trace.name)
            if self.trace is not None
            else f"{self.part.synthesize} (synthetic)"
        )

    @property
    def expected(self) -> int | None:
        """How many requests will come, where that is known beforehand (for progress)."""
        if self.trace is None:
            return self.part.requests or DEFAULT_REQUESTS
        return self.part.limit

    def check_rate_counts(self) -> None:
        """That another ``rate`` makes another workload; reads the trace's first request.

        Raises:
            UsageError: it has times, which no rate changes. DataError: it cannot be read.
        """
        if self.trace is None:
            return
        next(self.trace.requests(), None)
        if not self.trace.report.rate_used:
            raise UsageError(
                "the trace has times of its own, so that every rate is the same traffic",
                where="workload.rate",
                hint="vary workload.rate_scale: 2 replays it twice as fast",
            )

    def inputs(self) -> list[InputFile]:
        """The file that was read, by content."""
        if self.trace is None or self.part.trace in (None, "-") or not os.path.isfile(self.part.trace):
            return []
        return [input_file(self.part.trace)]

    def to_dict(self, taken: int) -> dict[str, object]:
        """The ``trace`` object of a result; ``taken`` requests reached the engine's front end."""
        if self.trace is None:
            return {
                "name": self.name,
                "format": "synthetic",
                "rows_read": taken,
                "requests": taken,
                "dropped": {},
                "notes": [],
                "reuse_known": True,
            }
        books = self.trace.report
        return {
            "name": self.name,
            "format": self.trace.format,
            "rows_read": books.rows,
            "requests": books.requests,
            "dropped": {reason: entry.count for reason, entry in sorted(books.dropped.items())},
            "notes": books.remarks(),
            "reuse_known": self.trace.reuse_known,
        }


def open_workload(part: WorkloadPart, seed: int) -> Workload:
    """Open the trace, or check the name of the synthetic workload.

    Raises:
        UsageError: more requests are to be in flight than there are.
        DataError: no such trace format, or the file is not what it is said to be; OSError: unreadable.
        UnknownName: no such workload.
    """
    if part.trace is None:
        assert part.synthesize is not None
        from kvplan.traces.workloads import workload

        workload(part.synthesize)
        drawn = Workload(part, seed, None)
        count, limit = part.requests or DEFAULT_REQUESTS, part.max_in_flight
        if limit is not None and part.rate is None and not drawn.at_once:
            raise UsageError(
                f"{part.synthesize} has sessions, of which requests in flight do not say how many there are",
                where="workload.max_in_flight",
                hint="say how many users (workload.turns: answered, workload.max_sessions), or a rate",
            )
        unused = [
            name for name in _OF_RATES if getattr(part, name) != WorkloadPart.model_fields[name].default
        ]
        if drawn.at_once and unused:
            raise UsageError(
                f"without a rate nothing arrives by a process: {unused[0]} changes nothing",
                where=f"workload.{unused[0]}", hint="give workload.rate, or leave it out",
            )  # fmt: skip
        if drawn.at_once and limit is not None and limit > count:
            raise TooFewRequests(
                f"{limit:,} requests in flight, and the workload has {count:,}",
                where="workload.max_in_flight",
                hint="raise workload.requests (-n): several times as many tell what the load does",
            )  # fmt: skip
        return drawn
    from kvplan.traces.trace import open_trace

    trace = open_trace(
        part.trace,
        format=part.format,
        limit=part.limit,
        time_scale=part.time_scale,
        rate_scale=part.rate_scale,
        block_size=part.block_size,
        smooth=part.smooth,
        clamp_outputs=part.clamp_outputs,
        rate=part.rate,
        seed=seed,
        sort=part.sort,
        by_session=part.turns == "answered",
    )
    return Workload(part, seed, trace)
