"""Putting requests in the order of their arrival, and spreading those that arrive in clumps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from kvplan.errors import DataError
from kvplan.traces.accounting import Accounting
from kvplan.traces.request import Request
from kvplan.traces.settings import setting

WINDOW = 4096
"""How many requests a late row may be behind before sorting needs the whole trace in memory."""


def by_arrival(
    requests: Iterable[Request], accounting: Accounting, window: int = WINDOW
) -> Iterator[Request]:
    """The requests stably sorted by arrival, holding at most ``window`` of them.

    Raises:
        DataError: a request is further out of order than the window reaches.
    """
    held: deque[Request] = deque()
    latest = float("-inf")
    passed = float("-inf")
    room = window
    for request in requests:
        arrival_s = request.arrival_s
        if arrival_s >= latest:
            latest = arrival_s
            held.append(request)
        else:
            accounting.resorted += 1
            if arrival_s < passed:
                raise DataError(
                    f"request {request.id} arrives {passed - arrival_s:g} s before one more than {window:,} "
                    "rows earlier: too far out of order to sort on the way",
                    where=accounting.name,
                    hint=f"sort the file by time first, or in memory ({setting('sort', 'full')})",
                )
            place = len(held)
            while place and held[place - 1].arrival_s > arrival_s:
                place -= 1
            held.insert(place, request)
        if room:
            room -= 1
        else:
            request = held.popleft()
            passed = request.arrival_s
            yield request
    yield from held


def sorted_whole(requests: Iterable[Request], accounting: Accounting | None = None) -> Iterator[Request]:
    """The requests stably sorted by arrival, all of them in memory.

    Counts the late ones where an accounting is given; merging sessions puts nothing right and gives none.
    """
    everything = list(requests)
    if accounting is not None:
        latest = float("-inf")
        for request in everything:
            if request.arrival_s < latest:
                accounting.resorted += 1
            else:
                latest = request.arrival_s
    everything.sort(key=lambda request: request.arrival_s)
    everything.reverse()
    while everything:
        yield everything.pop()


FAR_S = 600.0
"""A first arrival so late is told by a clock that did not start with the trace; averages over the time before
it would say nothing."""


LONGEST_S = 1e6
"""Few traces go on for eleven days."""

SINCE_1970_S = 1e8
"""Seconds since 1970 are more by now; since 1970 taken for milliseconds they are less."""


def from_far(requests: Iterable[Request], report: Accounting) -> Iterator[Request]:
    """Times from the first arrival where that is far from 0: the time of day, say; others as they are."""
    found = iter(requests)
    first = next(found, None)
    if first is None:
        return iter(())
    whole = chain((first,), found)
    if first.arrival_s < FAR_S:
        return whole
    note = f"times count from the first request, which came at {first.arrival_s:,.0f} s"
    if LONGEST_S < first.arrival_s < SINCE_1970_S:
        scale = f"a time scale of 1000 reads them ({setting('time_scale', 1000)})"
        note += f": if that is seconds since 1970 taken for milliseconds, {scale}"
    report.note(note)
    return from_first(whole)


HASTE_PER_S = 100.0
"""Requests a second of a whole trace that no published one has: are its times in a larger unit?"""

HASTE_REQUESTS = 20
"""Fewer say nothing about a rate."""


def noting_haste(requests: Iterable[Request], report: Accounting, rate_scale: float) -> Iterator[Request]:
    """The requests as they are; a note where times in seconds were probably taken for milliseconds."""
    count, first_s, last_s = 0, None, 0.0
    for request in requests:
        count += 1
        last_s = request.arrival_s
        first_s = last_s if first_s is None else first_s
        yield request
    span_s = (last_s - (first_s or 0.0)) * rate_scale
    if count >= HASTE_REQUESTS and 0.0 < span_s < count / HASTE_PER_S:
        report.note(
            f"{count:,} requests in {span_s:.3g} s: if the times are seconds taken for milliseconds, a time "
            f"scale of 1000 reads them ({setting('time_scale', 1000)})"
        )


CROWD = 1.5
"""Requests an instant above which a coarse clock has put them together; other traffic seldom meets."""


def noting_clumps(requests: Iterable[Request], report: Accounting) -> Iterator[Request]:
    """The requests as they are; a note where many of them come at the same instants."""
    count, instants, most, here, last_s = 0, 0, 0, 0, -1.0
    for request in requests:
        count += 1
        if request.arrival_s == last_s:
            here += 1
        else:
            last_s = request.arrival_s
            instants += 1
            most, here = max(most, here), 1
        yield request
    if instants > 1 and count >= max(HASTE_REQUESTS, CROWD * instants):
        report.note(
            f"{count:,} requests come at {instants:,} instants, up to {max(most, here):,} at once, and queue "
            f"for one another: a coarse clock does that; spread them ({setting('smooth', True)})"
        )


def from_first(requests: Iterable[Request]) -> Iterator[Request]:
    """Shift the arrivals so that the first one is at 0."""
    start: float | None = None
    for request in requests:
        if start is None:
            start = request.arrival_s
        yield request._replace(arrival_s=request.arrival_s - start) if start else request


def smooth(requests: Iterable[Request]) -> Iterator[Request]:
    """Spread each clump of equal arrivals evenly over the gap to the next clump.

    A coarse clock makes requests arrive together that did not: of ``n`` at time ``t`` with the next at
    ``u``, the k-th moves to ``t + k * (u - t) / n``. The last clump uses the gap before it.
    """
    clump: list[Request] = []
    gap = 0.0
    for request in requests:
        if clump and request.arrival_s > clump[0].arrival_s:
            gap = request.arrival_s - clump[0].arrival_s
            yield from _spread(clump, gap)
            clump = []
        clump.append(request)
    if clump:
        yield from _spread(clump, gap)


def _spread(clump: list[Request], gap: float) -> Iterator[Request]:
    start = clump[0].arrival_s
    yield clump[0]
    for k, request in enumerate(clump[1:], start=1):
        yield request._replace(arrival_s=start + k * gap / len(clump))
