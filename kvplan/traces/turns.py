"""Which answer a client waited for, from recordings that say when answers were complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from kvplan.traces.request import Request


class Recorded(NamedTuple):
    """A request and what was recorded of it; times in seconds of the recording's clock, as they stand there.

    Attributes:
        request: as its reader made it.
        sent_s: when it was sent.
        answered_s: when its answer was complete; ``None`` if that is not known.
        think_s: how long after an answer it was sent, where that is recorded by itself.
    """

    request: Request
    sent_s: float
    answered_s: float | None
    think_s: float | None = None


def with_turns(
    recorded: Sequence[Recorded], *, time_scale: float = 1.0, grain_s: float = 0.0
) -> Iterator[Request]:
    """The requests, each with the one it ``follows``: of its session, the last that was answered before it.

    Several may follow one (they were sent side by side), and what was sent while nothing had been answered
    follows nothing. The rate at which sessions come does not change how long people think, so the time is
    scaled with ``time_scale`` only.

    Args:
        recorded: in any order; yielded in the same.
        grain_s: how much later than its successor an answer may seem to be complete, as times are rounded.
    """
    order = sorted(range(len(recorded)), key=lambda number: recorded[number].sent_s)
    flying: dict[str, list[tuple[float, int]]] = {}
    latest: dict[str, tuple[float, int]] = {}
    follows: dict[int, tuple[str, float]] = {}
    for number in order:
        request, sent_s, answered_s, think_s = recorded[number]
        session = request.session
        if session is None:
            continue
        open_calls = flying.setdefault(session, [])
        while open_calls and open_calls[0][0] <= sent_s + grain_s:
            done = heappop(open_calls)
            latest[session] = max(latest.get(session, done), done)
        if session in latest:
            done_s, other = latest[session]
            gap_s = max(0.0, sent_s - done_s) if think_s is None else think_s
            follows[number] = recorded[other].request.id, gap_s * time_scale
        if answered_s is not None:
            heappush(open_calls, (answered_s, number))
    for number, item in enumerate(recorded):
        request = item.request
        yield request._replace(follows=follows[number]) if number in follows else request
