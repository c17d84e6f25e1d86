"""Clients that wait for answers: a closed loop.

An open-loop replay of what such clients sent is wrong by as much as the simulated engine is faster or slower
than the one they had before them: it queues what would never have been sent, or leaves idle what would have
been busy. Here a request is sent when what it waits for has happened, in the simulation; its arrival is the
time at which it is sent, and latencies count from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from math import inf
from statistics import median

from kvplan.engine.arrivals import Arrivals, Relayed
from kvplan.errors import UsageError
from kvplan.traces.request import Request

MAX_REQUESTS = 1_000_000
"""Most requests that are kept in memory to wait for answers."""


class InFlightLimit(Relayed):
    """At most ``limit`` requests are in flight; the next one is sent when an answer has come.

    Requests are sent in the order given, none before its own time. One that is turned away is answered at
    once.

    Attributes:
        sent: requests that were sent.
        held_back: those of them sent later than at their own time.
        held_back_s: by how much, all together.

    Args:
        inner: what the clients would send without a limit.
        limit: requests in flight at most.
        reaction_s: from the engine's last token to the next request: the client's and the network's part.
        own_s: the same of each request, none less than ``reaction_s``; None: they do not differ.
    """

    def __init__(
        self,
        inner: Arrivals,
        limit: int,
        reaction_s: float,
        own_s: Callable[[Request], float] | None = None,
    ) -> None:
        super().__init__(inner)
        self.waits = True
        self.reaction_s = reaction_s
        self._own_s = own_s
        self._outside_s: dict[str, float] = {}
        self._unused = limit
        self._free_s: list[float] = []
        self._now = 0.0
        self.sent = self.held_back = 0
        self.held_back_s = 0.0

    @property
    def next_s(self) -> float:
        """See the base class."""
        own_s = self.inner.next_s
        if self._unused:
            return own_s
        free = self._free_s
        if not free:
            return inf
        return own_s if own_s > free[0] else free[0]

    def take(self) -> Request:
        """See the base class."""
        now = self._now = self.next_s
        if self._unused:
            self._unused -= 1
        else:
            heappop(self._free_s)
        request = self.inner.take()
        self.sent += 1
        if self._own_s is not None:
            self._outside_s[request.id] = self._own_s(request)
        if request.arrival_s < now:
            self.held_back += 1
            self.held_back_s += now - request.arrival_s
            request = request._replace(arrival_s=now)
        return request

    def answered(self, request_id: str, time_s: float) -> None:
        """See the base class."""
        super().answered(request_id, time_s)
        heappush(self._free_s, time_s + self._outside_s.pop(request_id, self.reaction_s))

    def gave_up(self, request_id: str, time_s: float) -> bool:
        """See the base class."""
        heappush(self._free_s, time_s + self._outside_s.pop(request_id, self.reaction_s))
        return super().gave_up(request_id, time_s)

    def turned_away(self, request_id: str) -> None:
        """See the base class."""
        self.answered(request_id, self._now)  # not when it would have been sent without a limit


class Conversations(Arrivals):
    """A turn is sent its think time after the answer to the turn before (``Request.follows``).

    Other requests are sent at their own times. With a limit of sessions, each begins at its own time or when
    another one is over, whichever is later, and keeps the pace of its own times from there; the first ones
    begin one by one over the median think time, as people who were there before would not act all at once. A
    refusal is an answer, and so is having given up: what follows is sent, and a session goes on.

    Attributes:
        turns: requests that wait for an answer.
        sessions: of all requests; one without a session is a session.
        last_begun_s: when the last session that has begun did so, where their number is limited.

    Args:
        requests: all of them; what follows a request comes after it, in its session, or does not wait.
        reaction_s: from the engine's last token to the client, and from there to the engine.
        limit: sessions under way at most; None: any number.
        own_s: the reaction of each request's client, none less than ``reaction_s``; None: they do not differ.

    Raises:
        UsageError: too many to be kept in memory.
    """

    waits = True

    def __init__(
        self,
        requests: Iterable[Request],
        reaction_s: float,
        limit: int | None = None,
        own_s: Callable[[Request], float] | None = None,
    ) -> None:
        self.reaction_s = reaction_s
        self._outside_s: dict[str, float] = {}
        self._now = self.last_begun_s = 0.0
        self._due: list[tuple[float, int, Request]] = []
        self._waiting: dict[str, list[tuple[float, int, Request]]] = {}
        self._session_of: dict[str, str] = {}
        found: dict[str, list[tuple[int, Request, bool]]] = {}
        thinks_s: list[float] = []
        for number, request in enumerate(requests):
            if number == MAX_REQUESTS:
                raise UsageError(
                    f"turns that wait for answers are kept in memory, {MAX_REQUESTS:,} of them at most",
                    where="workload.turns", hint="limit the workload (--limit)",
                )  # fmt: skip
            if own_s is not None:
                self._outside_s[request.id] = own_s(request)
            session = self._session(request)
            follows = request.follows
            waits = follows is not None and self._session_of.get(follows[0]) == session
            if follows is not None and waits:
                thinks_s.append(follows[1])
            self._session_of[request.id] = session
            found.setdefault(session, []).append((number, request, waits))
        self.turns, self.sessions = len(thinks_s), len(found)
        self._over_s: dict[str, float] = {}
        self._unanswered = {session: len(members) for session, members in found.items()}
        # Sessions begin in the order of their first requests; those of one time as they were given.
        begins = {
            session: min(request.arrival_s for _, request, waits in members if not waits)
            for session, members in found.items()
        }
        self._later = deque(
            (begins[session], found[session]) for session in sorted(found, key=begins.__getitem__)
        )
        apart_s = 0.0 if limit is None or not thinks_s else median(thinks_s) / limit
        for place in range(len(found) if limit is None else min(limit, len(found))):
            self._begin(place * apart_s)
        self._free_s: list[float] = []

    def _session(self, request: Request) -> str:
        """What it belongs to: its session, that of the request it follows, or its own."""
        if request.session is not None:
            return request.session
        follows = request.follows
        return request.id if follows is None else self._session_of.get(follows[0], request.id)

    @property
    def _begins_s(self) -> float:
        """When the next session begins, for all that is known now; infinite if none can."""
        if not self._later or not self._free_s:
            return inf
        own_s = self._later[0][0]
        return own_s + max(0.0, self._free_s[0] - own_s)

    def _begin(self, earliest_s: float) -> None:
        """The next session begins, at its own time or then."""
        own_s, members = self._later.popleft()
        late_s = max(0.0, earliest_s - own_s)
        self.last_begun_s = max(earliest_s, own_s)
        for number, request, waits in members:
            follows = request.follows
            if follows is not None and waits:
                self._waiting.setdefault(follows[0], []).append((follows[1], number, request))
            else:
                heappush(self._due, (request.arrival_s + late_s, number, request))

    @property
    def next_s(self) -> float:
        """See the base class."""
        begins_s = self._begins_s
        return min(self._due[0][0], begins_s) if self._due else begins_s

    @property
    def next_prompt_tokens(self) -> int:
        """See the base class."""
        due = self._due
        request = due[0][2] if due and due[0][0] <= self._begins_s else self._later[0][1][0][1]
        return request.prompt_tokens

    @property
    def over(self) -> bool:
        """See the base class."""
        return not self._due and not self._waiting and not self._later

    def take(self) -> Request:
        """See the base class."""
        # Not as soon as one session is over: that another one was over before may become known later.
        while self._begins_s <= self.next_s:
            self._begin(heappop(self._free_s))
        now, _, request = heappop(self._due)
        # A sum may come out a last bit earlier than what has been sent already.
        self._now = now = max(now, self._now)
        return request if request.arrival_s == now else request._replace(arrival_s=now)

    def ahead(self) -> Iterator[Request]:
        """Not known.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "who looks ahead must know in which order requests come, and turns that wait for answers come in "
            "an order of their own",
            where="workload.turns", hint="workload.turns: timed, or a cache.eviction other than belady",
        )  # fmt: skip

    def answered(self, request_id: str, time_s: float) -> None:
        """See the base class."""
        now = time_s + self._outside_s.pop(request_id, self.reaction_s)
        for gap_s, number, request in self._waiting.pop(request_id, ()):
            heappush(self._due, (now + gap_s, number, request))
        session = self._session_of[request_id]
        # Who came during a step is turned away after it, as of when it came: the last to be told of is not
        # always the last that was answered.
        over_s = self._over_s[session] = max(now, self._over_s.get(session, now))
        self._unanswered[session] -= 1
        if not self._unanswered[session]:
            heappush(self._free_s, over_s)

    def gave_up(self, request_id: str, time_s: float) -> bool:
        """See the base class."""
        self.answered(request_id, time_s)
        return False

    def turned_away(self, request_id: str) -> None:
        """See the base class."""
        self.answered(request_id, self._now)
