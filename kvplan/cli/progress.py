"""A progress line on stderr: requests, rate and time left; nothing where stderr is not a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from kvplan.cli.output import redraws

if TYPE_CHECKING:
    from kvplan.traces.request import Request

_INTERVAL_S = 0.2


class Progress(AbstractContextManager["Progress"]):
    """Rewrites one line, five times a second at most.

    Args:
        expected: how many requests will come; ``None`` when nobody knows.
        quiet: print nothing.
    """

    def __init__(self, expected: int | None, *, quiet: bool = False) -> None:
        self._expected = expected
        self.live = redraws(sys.stderr) and not quiet
        self._started = self._shown = time.monotonic()
        self._drawn = False

    def update(self, requests: int, simulated_s: float) -> None:
        """``requests`` were taken in; the simulation stands at ``simulated_s`` seconds."""
        if not self.live:
            return
        now = time.monotonic()
        if now - self._shown < _INTERVAL_S:
            return
        self._shown = now
        rate = requests / (now - self._started)
        line = f"{requests:,} requests  {rate:,.0f}/s  t = {simulated_s:,.0f} s"
        if self._expected and requests and rate > 0:
            left = max(0.0, (self._expected - requests) / rate)
            line += f"  {requests / self._expected:4.0%}  {left:,.0f} s left"
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()
        self._drawn = True

    def member(self, simulated: int, members: int) -> None:
        """``simulated`` of the ``members`` of an ensemble are simulated; each is a run of its own."""
        if not self.live:
            return
        sys.stderr.write(f"\r\x1b[Kensemble: {simulated} of {members} simulations with perturbed clocks")
        sys.stderr.flush()
        self._drawn = True

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def reading(requests: Iterator[Request]) -> Iterator[Request]:
    """The requests of a trace as they are, counted on one line where somebody would see it."""
    with Progress(None) as progress:
        if not progress.live:
            yield from requests
            return
        for count, request in enumerate(requests, 1):
            progress.update(count, request.arrival_s)
            yield request


def cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def simulations(total: int | None) -> Callable[[int], None] | None:
    """Counts simulations on one line, of ``total`` where that is known; None where nobody would see it."""
    if not redraws(sys.stderr):
        return None
    started = time.monotonic()

    def show(done: int) -> None:
        spent = time.monotonic() - started
        if total is None:
            sys.stderr.write(f"\r\x1b[K{done} simulations, {spent:,.0f} s\r")
        else:
            left = spent / done * (total - done)
            end = "\r\x1b[K" if done == total else ""
            sys.stderr.write(f"\r\x1b[K{done} of {total} simulations  {left:,.0f} s left{end}")
        sys.stderr.flush()

    return show
