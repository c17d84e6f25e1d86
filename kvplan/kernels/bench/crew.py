"""Running jobs in processes of their own, which may crash, hang or lose the device without taking others
along.

A kernel that reads out of bounds leaves its process without a usable device; one that never ends leaves it
waiting for ever. Neither may cost the results of the other jobs, so a job that kills its process or keeps it
too long becomes a failed row, and its process is replaced.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

Row = dict[str, Any]
STARTING_S = 120.0
"""Time for a process to import what it needs, which may be torch on a busy machine."""
LOST = "lost_device"
"""Set by a job in its row when the device no longer answers its process."""


def _serve(pipe: Connection, work: Callable[[Any], Row]) -> None:
    """Say that the imports are done, then answer jobs until nobody asks."""
    try:
        pipe.send(None)
        while True:
            pipe.send(work(pipe.recv()[0]))
    except (EOFError, BrokenPipeError):
        # Nobody waits for answers any more.
        return


@dataclass(slots=True, eq=False)
class _Member:
    process: Any
    pipe: Connection
    job: Any = None
    since: float = 0.0
    up: bool = False

    def dismiss(self) -> None:
        """End the process, whatever it does."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


class Crew:
    """Processes that share a queue of jobs.

    Args:
        work: module-level function of one job; must return a row and not raise.
        failed: a row for a job that has none, from the job and the reason.
        patience_s: a job that takes longer is given up.
    """

    def __init__(self, size: int, work: Callable[[Any], Row], failed: Callable[[Any, str], Row],
                 patience_s: float) -> None:  # fmt: skip
        self.size, self.work, self.failed, self.patience_s = size, work, failed, patience_s
        self.members: list[_Member] = []

    def run(self, jobs: Sequence[Any], late: Callable[[], bool] = lambda: False) -> Iterator[Row]:
        """Rows as they come; stops handing out jobs once ``late``, so some may have none."""
        waiting = deque(jobs)
        try:
            while (waiting and not late()) or self._busy():
                if not late():
                    self._hand_out(waiting)
                yield from self._collect()
        finally:
            for member in self.members:
                member.dismiss()
            self.members.clear()

    def _busy(self) -> list[_Member]:
        return [member for member in self.members if member.job is not None]

    def _hand_out(self, waiting: deque[Any]) -> None:
        idle = [member for member in self.members if member.job is None]
        while waiting and (idle or len(self.members) < self.size):
            member = idle.pop() if idle else self._hire()
            member.job, member.since = waiting.popleft(), time.monotonic()
            try:
                member.pipe.send((member.job,))
            except (BrokenPipeError, OSError):
                # It died idle: somebody else gets the job.
                waiting.appendleft(member.job)
                self._replace(member)

    def _hire(self) -> _Member:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.work), daemon=True)
        process.start()
        theirs.close()
        self.members.append(_Member(process, ours))
        return self.members[-1]

    def _replace(self, member: _Member) -> None:
        member.dismiss()
        self.members.remove(member)

    def _collect(self) -> Iterator[Row]:
        busy = self._busy()
        ready = set(wait([member.pipe for member in busy], timeout=1.0)) if busy else set()
        for member in busy:
            job = member.job
            if member.pipe in ready:
                try:
                    answer = member.pipe.recv()
                except (EOFError, OSError):
                    member.process.join(5)
                    self._replace(member)
                    yield self.failed(job, f"its process died (exit code {member.process.exitcode})")
                    continue
                if answer is None:
                    member.up, member.since = True, time.monotonic()
                    continue
                member.job = None
                if answer.pop(LOST, False):
                    self._replace(member)
                yield answer
                continue
            patience = self.patience_s if member.up else STARTING_S
            if time.monotonic() - member.since > patience:
                self._replace(member)
                yield self.failed(job, f"no result within {patience:.0f} s")
