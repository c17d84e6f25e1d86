"""The clients of a scenario's workload: whether they wait for answers, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import TYPE_CHECKING, cast

from kvplan.engine.api_server import ApiServer
from kvplan.engine.arrivals import Arrivals, Relayed
from kvplan.engine.clients import Conversations, InFlightLimit
from kvplan.engine.recorder import Metric, Recorder
from kvplan.engine.streaming import Streamer
from kvplan.errors import TooFewRequests, UsageError
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.impatient import Impatient
    from kvplan.latency.client import ClientOverhead

SECTION = "clients"


@dataclass(frozen=True, slots=True)
class Clients:
    """How requests come to be sent.

    Attributes:
        limit: requests in flight at most; None: any number.
        answered: turns are sent their think time after the answer to the turn before.
        sessions: under way at most; None: any number.
        at_once: requests have no times of their own: they wait for nothing but the limits.
        timeout_s: seconds after which a client gives up; None: never.
        first_token_timeout_s: seconds after which it does so if no token has come.
        retries: tries after the first one, at most; retry_after_s: from giving up to the second try, doubled
            for each one after it.
    """

    limit: int | None = None
    answered: bool = False
    sessions: int | None = None
    at_once: bool = False
    timeout_s: float | None = None
    first_token_timeout_s: float | None = None
    retries: int = 0
    retry_after_s: float = 0.0

    @property
    def give_up(self) -> bool:
        """Whether any client may."""
        return self.timeout_s is not None or self.first_token_timeout_s is not None

    def latest_s(self, latency: str) -> float:
        """No ``ttft_s`` or ``e2e_s`` of a served request is longer; infinite where clients try again."""
        limits = {"e2e_s": (self.timeout_s,), "ttft_s": (self.timeout_s, self.first_token_timeout_s)}
        given = [limit for limit in limits.get(latency, ()) if limit is not None]
        return min(given) if given and not self.retries else inf

    def arrivals(
        self, requests: Iterable[Request], client: ClientOverhead, *, whole: bool = True
    ) -> Arrivals:
        """The requests as these clients send them.

        Args:
            requests: in the order of their own times.
            client: what a client waits for beside the engine, from sending to the last token: so much later
                than the engine is done it can send the next request. Of one that gives up, the median.
            whole: these are all requests of the workload, not its beginning.

        Raises:
            UsageError: nobody waits for an answer where somebody should, too many requests, fewer sessions
                than are to be under way, or time-outs within which no answer can come.
        """
        arrivals: Arrivals
        reaction_s, own_s = client.seconds, None
        if client.varies:
            reaction_s, own_s = client.least_s, _own(client)
        if self.answered:
            arrivals = turns = Conversations(requests, reaction_s, self.sessions, own_s)
            if whole and not turns.turns:
                raise UsageError(
                    "no request of this workload says whose answer its sender waited for",
                    where="workload.turns",
                    hint="traces with think times do (weka, otel, tracelab, mooncake with delays), and the "
                    "synthetic workloads chat and agentic, where they are long enough (-n); "
                    "workload.max_in_flight bounds any other",
                )
            if whole and self.at_once and self.sessions is not None and turns.sessions < self.sessions:
                raise TooFewRequests(
                    f"{self.sessions:,} sessions at a time, and the workload has {turns.sessions:,}",
                    where="workload.max_sessions",
                    hint="more requests (workload.requests, -n) make more sessions",
                )
        else:
            arrivals = Arrivals(requests)
        if self.limit is not None:
            arrivals = InFlightLimit(arrivals, self.limit, reaction_s, own_s)
        if client.streams:
            arrivals = self._streamed(arrivals, client)
        elif client.queues:
            arrivals = ApiServer(arrivals, client.service_s, client.servers)
        if not self.give_up:
            return arrivals
        if whole:
            self._check_patience(client.seconds)
        return self._impatient(arrivals, client.seconds)

    def _streamed(self, arrivals: Arrivals, client: ClientOverhead) -> Streamer:
        """The same by way of a front end that tokens wait at, too.

        Raises:
            UsageError: clients give up, which they would by tokens that they have not seen yet.
        """
        if self.give_up:
            raise UsageError(
                "clients that give up are simulated with a front end that hands tokens out at once: they are "
                "noticed in the engine, before their tokens wait there",
                where="workload.timeout_s",
                hint="leave out the time-outs, or latency.api_server_chunk_s and api_server_output_s",
            )  # fmt: skip
        return Streamer(arrivals, client.service_s, client.output_s, client.chunk_s)

    def _impatient(self, arrivals: Arrivals, reaction_s: float) -> Impatient:
        """The same from clients that wait for so long for the engine's part of an answer."""
        from kvplan.engine.impatient import Impatient
        from kvplan.engine.patience import Patience

        left = (self.timeout_s, self.first_token_timeout_s)
        patience = Patience(*(inf if whole_s is None else max(0.0, whole_s - reaction_s) for whole_s in left))
        return Impatient(arrivals, patience, self.retries, self.retry_after_s, reaction_s)

    def _check_patience(self, reaction_s: float) -> None:
        """Whether anybody can be served at all.

        Raises:
            UsageError: clients give up before an answer can be there.
        """
        for name in ("timeout_s", "first_token_timeout_s"):
            whole_s = getattr(self, name)
            if whole_s is not None and whole_s <= reaction_s:
                raise UsageError(
                    f"every client gives up after {whole_s:g} s, and {reaction_s:g} s of it pass outside the "
                    "engine: no request can be served",
                    where=f"workload.{name}", hint="give them more time, or lower latency.client_overhead_s",
                )  # fmt: skip

    def report(self, arrivals: Arrivals, recorder: Recorder) -> None:
        """Write the section ``clients`` of a run that is over, where clients waited."""
        found: list[Metric] = []
        span, impatient = recorder.totals.makespan_s, None
        if self.give_up:
            impatient = cast("Impatient", arrivals)
            found += self._about_patience(impatient)
            arrivals = impatient.inner
        if isinstance(arrivals, Streamer):
            found += _about_streams(arrivals, span)
        if isinstance(arrivals, (ApiServer, Streamer)):
            arrivals = arrivals.inner
        waits, reaction_s = arrivals.waits, arrivals.reaction_s
        if recorder.outside_s:
            reaction_s = fmean(recorder.outside_s)
        if isinstance(arrivals, InFlightLimit):
            limited, arrivals = arrivals, arrivals.inner
            late_s = limited.held_back_s / limited.sent if limited.sent else 0.0
            found.append(Metric("max_in_flight", self.limit, "requests", "sent and not answered, at most"))
            if not self.at_once:
                found += [
                    Metric("held_back", limited.held_back, "requests", "sent later than at their own time"),
                    Metric(
                        "held_back_mean", late_s, "s",
                        "a request was sent after its own time; no part of its latencies",
                    ),
                ]  # fmt: skip
        if isinstance(arrivals, Conversations):
            found += [
                Metric("sessions", arrivals.sessions, "1", "one after the other, turn by turn"),
                Metric("turns", arrivals.turns, "requests", "sent their think time after the answer before"),
            ]
            if self.sessions is not None:
                found += [
                    Metric("max_sessions", self.sessions, "1", "under way at most"),
                    Metric(
                        "full", arrivals.last_begun_s / span if span else 0.0, "1",
                        "of the run, until the last session began; fewer are under way after that",
                    ),
                ]  # fmt: skip
        if found:
            inside_s = (
                sum(recorder.e2e_s) if impatient is None else impatient.answered_s + impatient.gave_up_s
            )
            found.append(
                Metric(
                    "in_flight_mean", inside_s / span if span else 0.0, "requests",
                    "sent and not finished by the engine, averaged over the run",
                )
            )  # fmt: skip
            if waits:
                found.append(
                    Metric("reaction", reaction_s, "s", "from an answer until its client can act on it")
                )
            recorder.sections[SECTION] = found

    def _about_patience(self, arrivals: Impatient) -> Iterator[Metric]:
        if self.timeout_s is not None:
            yield Metric("timeout", self.timeout_s, "s", "a client waits for the whole answer")
        if self.first_token_timeout_s is not None:
            yield Metric(
                "first_token_timeout", self.first_token_timeout_s, "s", "a client waits for the first token"
            )
        yield Metric(
            "gave_up",
            arrivals.times,
            "1",
            "how often a client left without an answer; its request was dropped",
        )
        if self.retries:
            yield Metric(
                "retried", arrivals.retries, "1",
                "how often a request was sent again; its latencies count from the first time",
            )  # fmt: skip
        yield Metric("lost", arrivals.lost, "1", "requests that were never answered")


def _about_streams(arrivals: Streamer, span_s: float) -> Iterator[Metric]:
    """What a front end had to do that tokens wait at."""
    yield Metric(
        "front_end_busy", arrivals.busy_s / span_s if span_s else 0.0, "1",
        "of the run, with handing out tokens",
    )  # fmt: skip
    yield Metric(
        "chunk_tokens", arrivals.outputs / arrivals.chunks if arrivals.chunks else 1.0, "tokens",
        "a chunk that a client is sent; more than 1 where the front end is behind",
    )  # fmt: skip


def _own(client: ClientOverhead) -> Callable[[Request], float]:
    """By request."""
    return lambda request: client.of(request.id)


class Watched(Relayed):
    """Arrivals whose progress is reported: how many have come, and the time."""

    def __init__(self, inner: Arrivals, report: Callable[[int, float], None]) -> None:
        super().__init__(inner)
        self._report = report
        self._count = 0

    def take(self) -> Request:
        """See the base class."""
        request = super().take()
        if self._count % 256 == 0:
            self._report(self._count, request.arrival_s)
        self._count += 1
        return request
