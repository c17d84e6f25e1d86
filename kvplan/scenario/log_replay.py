"""Playing a logged run on a simulated engine: the same lengths, cached prefixes, and the client's own limit.

*Cached prompt tokens* were computed before; what they share with what is not logged. They are replayed as
prefixes of one document that a first request computes long before the run, so that every request finds as
many tokens cached as it did (to the block). Sessions that each cached their own text share blocks here.

*Closed loop*: a client that keeps at most N requests in flight sends the next one when one is finished. A
replay of its arrivals would show queueing that never was, or none where there was; so the simulated client
sends when the simulated engine finishes, one client overhead later.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.errors import DataError
from kvplan.scenario.clients import Clients
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.measured import MAX_TOKENS, Measured
from kvplan.traces.request import Request, default_output

if TYPE_CHECKING:
    from kvplan.engine.protocols import LatencyModel
    from kvplan.latency.client import ClientOverhead
    from kvplan.scenario.system import System

REJECTED_SHARE = 0.05
WARM_S = 3600.0
"""Seconds before the run's first request at which what was cached is computed."""
DOCUMENT = 1 << 50
"""First token of the document; no request's own content reaches it."""
CLOSED_SHARE = 0.8
"""Share of requests sent just when another was finished, from which a log is one of a closed loop."""
_JUST_S, _JUST_SHARE = 0.01, 0.02
_FEWEST_ROUNDS = 3
_GRAIN_S = 1e-6
"""Times as logs round them."""


class LogReplay:
    """A logged run, ready to be played under any clock.

    Args:
        system: the deployment that was measured.
        log: what was measured.

    Raises:
        DataError: the log has cached tokens and the deployment caches nothing.
    """

    def __init__(self, system: System, log: EngineLog) -> None:
        self.system, self.log = system, log
        known = [min(row.cached_tokens or 0, row.prompt_tokens - 1) for row in log.rows]
        self.cached = max(known, default=0)
        if self.cached and not _caches(system):
            raise DataError(
                "the log has cached prompt tokens, and the scenario's engine caches none", where=log.path,
                hint="leave cache.prefix at the engine's own, or drop the column cached_tokens",
            )  # fmt: skip
        self.limit = log.max_in_flight
        if self.limit is None:
            self.limit = closed_loop(log.rows)
        self.limit = self.limit or None
        # A limit that was seldom reached leaves the client's own times; one that was reached replaces them.
        self.paced = self.limit is not None and share_full(log.rows, self.limit) < CLOSED_SHARE
        began_s = WARM_S if self.cached else 0.0
        self._requests = [
            Request(
                str(index), began_s + (row.arrival_s if self._own_time(index) else 0.0),
                _prompt(index, row.prompt_tokens, cached), row.prompt_tokens,
                default_output(index, row.output_tokens), row.output_tokens,
            )
            for index, (row, cached) in enumerate(zip(log.rows, known, strict=True))
        ]  # fmt: skip

    def _own_time(self, index: int) -> bool:
        """Whether a request was sent at a time of its own, not only when another was answered."""
        return self.limit is None or self.paced or index < self.limit

    @property
    def closed(self) -> bool:
        """Whether the next request waits for an answer."""
        return self.limit is not None

    def notes(self) -> tuple[str, ...]:
        """What was made of the log."""
        found = []
        if self.system.replicas > 1:
            dealt = f"requests are dealt to {self.system.replicas} replicas by {self.system.router}"
            found.append(f"{dealt} (routing.policy): the log does not say which one served which")
        if self.cached:
            found.append("cached prompt tokens are replayed as prefixes of one document computed before")
        if self.limit is not None:
            how = "as declared" if self.log.max_in_flight else "as the log shows"
            found.append(
                f"a closed loop of {self.limit} requests in flight, {how}: requests are sent when others are "
                "finished"
                + (", and not before their logged time" if self.paced else "")
                + "; how latency grows with the rate of an open loop is not seen"
            )
        return tuple(found)

    def play(self, latency: LatencyModel, client: ClientOverhead) -> list[Measured | None]:
        """What the client of each request of the log sees; None if it was rejected.

        Raises:
            DataError: as ``inside``.
        """
        return seen_by(client, self.inside(latency, client))

    def inside(self, latency: LatencyModel, client: ClientOverhead) -> list[Measured | None]:
        """The engine's part of it; None if it was rejected.

        Raises:
            DataError: many requests are rejected that the measured engine served.
        """
        arrivals = Clients(self.limit).arrivals([*self._document(), *self._requests], client)
        rows: list[tuple[RequestRow, float]] = []
        recorder = Recorder(on_request=lambda row: rows.append((row, arrivals.held_s)), series=False)
        engine = self.system.engine("fast", latency, recorder)
        engine.run(arrivals)
        engine.close()
        self._check(recorder)
        seen: list[Measured | None] = [None] * len(self._requests)
        for row, held_s in rows:
            if row.id != "document":
                seen[int(row.id)] = Measured(
                    row.arrival_s, row.prompt_tokens, row.output_tokens,
                    row.first_token_s - row.arrival_s, row.finish_s - row.arrival_s,
                    row.cached_tokens, row.first_token_s - held_s - row.scheduled_s,
                )  # fmt: skip
        return seen

    def _document(self) -> list[Request]:
        """The request that computes what was cached."""
        if not self.cached:
            return []
        output = default_output(len(self._requests), 1)
        prompt = _prompt(len(self._requests), self.cached + 1, self.cached)
        return [Request("document", 0.0, prompt, self.cached + 1, output, 1)]

    def _check(self, recorder: Recorder) -> None:
        rejected = recorder.totals.rejected
        if rejected > REJECTED_SHARE * len(self._requests):
            raise DataError(
                f"the scenario's engine rejects {rejected:,} of {len(self._requests):,} requests that the "
                f"measured one served: {next(iter(recorder.rejections), 'no reason')}",
                where=self.log.path, hint="is this the deployment that was measured?",
            )  # fmt: skip


def seen_by(client: ClientOverhead, inside: Sequence[Measured | None]) -> list[Measured | None]:
    """What clients see of what the engine did, request by request."""
    return [None if row is None else row.later(client.of(str(index))) for index, row in enumerate(inside)]


def closed_loop(rows: Sequence[Measured]) -> int | None:
    """How many requests a client kept in flight, if it sent each when another was finished."""
    most = max(_others(rows), default=0) + 1
    if len(rows) < _FEWEST_ROUNDS * most or share_full(rows, most) < CLOSED_SHARE:
        return None
    return most


def share_full(rows: Sequence[Measured], limit: int) -> float:
    """Share of the requests after the first ``limit`` that were sent just when the number in flight fell.

    In a full loop the one after ``k`` others waits for the end number ``k - limit``, in order of ends; those
    that end in one step are followed by as many, so that between two of them fewer are in flight.
    """
    ends = sorted(row.arrival_s + row.e2e_s for row in rows)
    typical = sorted(row.e2e_s for row in rows)[len(rows) // 2]
    just = max(_JUST_S, _JUST_SHARE * typical)
    later = rows[limit:]
    waits = (row.arrival_s - end for row, end in zip(later, ends, strict=False))
    return sum(-_GRAIN_S <= wait <= just for wait in waits) / len(later) if later else 0.0


def _others(rows: Sequence[Measured]) -> list[int]:
    """Requests in flight when each one, in order of arrival, was sent; those sent with it in order."""
    ends = sorted(row.arrival_s + row.e2e_s for row in rows)
    return [index - bisect_right(ends, row.arrival_s + _GRAIN_S) for index, row in enumerate(rows)]


def _caches(system: System) -> bool:
    config = system.config
    return (
        config.enable_prefix_caching if isinstance(config, EngineConfig) else not config.disable_radix_cache
    )


def _prompt(index: int, tokens: int, cached: int) -> tuple[tuple[int, int], ...]:
    own = (index * MAX_TOKENS, tokens - cached)
    return ((DOCUMENT, cached), own) if cached else (own,)
