"""One run over all stages, in the order of what would be missed most if time ran out."""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kvplan.kernels.bench import ceilings, correctness, peers, points, workload
from kvplan.kernels.bench.arena import Arena
from kvplan.kernels.bench.record import Record
from kvplan.kernels.bench.timer import EventTimer, Timer

ALL_CHECKED_BY = 0.5
"""Share of the time after which no check is begun: what is not compiled then compiles when it is timed."""


COMPILED_BY = 0.92
"""Share of the time after which no peer is begun that compiles for longer than the watching process waits."""


class DeviceLost(Exception):
    """This process can no longer use the GPU; another one can."""


class Run:
    """One call of the benchmark: where it writes, how it times, and when it must stop.

    Args:
        marker: file that names what is being measured, for whoever watches this process; ``None`` for nobody.
    """

    def __init__(self, record: Record, device: str, timer: Timer, seconds: float, tiny: bool,
                 marker: Path | None = None) -> None:  # fmt: skip
        self.record, self.device, self.timer, self.tiny, self.marker = record, device, timer, tiny, marker
        self.started, self.seconds = time.monotonic(), seconds
        self.l2_bytes = int(record.body["environment"]["l2_bytes"])
        self.arena = Arena(device)
        self.complete = True

    def late(self, share: float) -> bool:
        """Whether this share of the time is used up."""
        return time.monotonic() - self.started > share * self.seconds

    def say(self, text: str) -> None:
        """Progress, on stderr."""
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", file=sys.stderr, flush=True)

    def check(self, work: list[tuple[str, Any]]) -> None:
        """Correctness, in processes of their own."""
        todo = [job for job in work if not self.record.has("correctness", correctness.key_of(job))]
        done = 0
        for row in correctness.run(todo, self.device, lambda: self.late(ALL_CHECKED_BY)):
            self.record.add("correctness", row)
            done += 1
        # Compiling ahead is no result: what was not gets compiled when it is timed.
        self.complete &= all(
            self.record.has("correctness", correctness.key_of(job)) for job in todo if job[0] != "warm"
        )
        self.record.save()
        self.say(f"correctness: {done} of {len(todo)} checked, {len(self.record.wrong())} wrong")

    def each(self, stage: str, items: Iterable[Any], key: Callable[[Any], str],
             measure: Callable[[Any], dict[str, Any]], share: float, section: str) -> None:  # fmt: skip
        """Measure what the record does not hold yet, until ``share`` of the time is used.

        Raises:
            DeviceLost: a kernel took the device with it; everything so far is saved.
        """
        done = 0
        for item in items:
            name = key(item)
            if self.record.has(section, name) or self.record.gave_up(name):
                continue
            if self.late(share):
                self.complete = False
                self.say(f"{stage}: out of time after {done}")
                break
            self._mark(name)
            try:
                row = measure(item)
            except Exception as exc:  # recorded, and the run fails at its end; the other points still count
                message = f"{type(exc).__name__}: {exc}"
                lost = self.device == "cuda" and correctness.device_lost()
                if section in ("peers", "tuning") and not lost:
                    row = {"message": message[:300]}
                else:
                    self.record.fail(stage, name, message)
                    if lost:
                        self.record.save()
                        raise DeviceLost(message) from None
                    continue
            finally:
                self._mark(None)
            self._tidy()
            self.record.add(section, {"key": name} | row)
            if section == "peers":
                self.record.save()  # the next one may compile for longer than is left
            done += 1
        self.record.save()
        self.say(f"{stage}: {done} measured")

    def _mark(self, name: str | None) -> None:
        if self.marker is None:
            return
        if name is None:
            self.marker.unlink(missing_ok=True)
        else:
            self.marker.write_text(name)

    def _tidy(self) -> None:
        """Give back what ceilings and peers allocated, where it would crowd the next one."""
        if self.device == "cuda" and torch.cuda.memory_reserved() - torch.cuda.memory_allocated() > 16 << 30:
            torch.cuda.empty_cache()

    def point(self, point: points.Point) -> dict[str, Any]:
        """Time one point."""
        work = workload.build(point, self.arena, self.l2_bytes)
        return point.row() | work.chosen | self.timer.time(work.calls).row()

    def ceiling(self, item: ceilings.Ceiling) -> dict[str, Any]:
        """Time one ceiling."""
        return item.fields | ceilings.timer_for(item, self.timer).time(item.calls()).row()

    def peer(self, item: peers.Peer) -> dict[str, Any]:
        """Time one peer at one point."""
        timer: Timer = EventTimer() if item.eager else self.timer
        row = {k: v for k, v in item.point.row().items() if k != "key"}
        how = {"peer": item.name, "timed": "launches" if item.eager else "graph"}
        return how | row | timer.time(item.make(self.device)).row()


@contextmanager
def frozen() -> Iterator[None]:
    """Leave what exists out of garbage collection: capturing a graph collects, a thousand times a run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def perform(run: Run) -> None:
    """Every stage. Checks first; then the ceilings and the points that the table is about; then the rest.

    Raises:
        DeviceLost: see ``Run.each``.
    """
    grid = points.tiny() if run.tiny else list(points.grid())
    hold, side = ([], []) if run.tiny else (points.holdout(), list(points.side()))
    first = [p for p in (*grid, *side) if points.headline(p)]
    random.Random(0).shuffle(grid)
    machine = list(ceilings.ceilings(run.device, run.tiny))
    rates = [item for item in machine if item.key in ceilings.RATES]
    by_key: Callable[[Any], str] = lambda item: item.key  # noqa: E731
    left = [p for p in (*first, *hold, *grid, *side) if not run.record.has("points", p.key)]
    run.check(correctness.jobs(run.tiny, left))
    if run.device == "cuda":
        wake()
    run.each("ceilings", rates, by_key, run.ceiling, 0.6, "ceilings")
    if not run.tiny:
        run.each("drift", points.drift(0), by_key, run.point, 0.7, "points")
    run.each("headline", first, by_key, run.point, 0.75, "points")
    run.each("hold-out", hold, by_key, run.point, 0.8, "points")
    run.each("grid", grid, by_key, run.point, 0.85, "points")
    run.each("machine", machine, by_key, run.ceiling, 0.9, "ceilings")
    run.each("side", side, by_key, run.point, 0.95, "points")
    if not run.tiny:
        run.each("drift", points.drift(1), by_key, run.point, 0.97, "points")
    others = list(peers.peers(run.tiny))
    named: Callable[[peers.Peer], str] = lambda p: f"{p.name}/{p.point.key}"  # noqa: E731
    run.each("peers", [p for p in others if not p.eager], named, run.peer, 1.0, "peers")
    run.each("compiled peers", [p for p in others if p.eager], named, run.peer, COMPILED_BY, "peers")


def wake(seconds: float = 0.5, rows: int = 4096) -> None:
    """Keep the GPU busy until its clocks are up, with products of matrices of ``rows`` rows and columns."""
    x = torch.randn(rows, rows, device="cuda", dtype=torch.bfloat16)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(20):
            x @ x
        torch.cuda.synchronize()
