"""Scenarios simulated for their figures, in processes of their own: a sweep's points, a plan's tries.

``concurrent.futures``, which every Python has: the runs share nothing, so a scheduler of tasks would add a
dependency and no speed.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing import resource_tracker
from typing import Any

from kvplan.errors import KvplanError
from kvplan.scenario.schema import Scenario

Outcome = dict[str, Any]
"""``figures`` of a point, or its ``error``; the other one is None. And its ``warnings``, ``assumptions``."""

NOT_RUN: Outcome = {"figures": None, "error": None, "warnings": [], "assumptions": []}

Outcomes = Generator[tuple[int, Outcome], None, None]
"""Number of a point and its outcome, as they come."""

DIED = KvplanError(
    "the process that simulated it died: killed, or out of memory",
    hint="simulate this point alone, with fewer requests, or the sweep with --jobs 1",
)


def outcomes(scenarios: Mapping[int, dict[str, Any]], jobs: int, slower: float = 1.0) -> Outcomes:
    """Simulate resolved scenarios, at most ``jobs`` at a time; every step takes ``slower`` times as long."""
    jobs = min(jobs, len(scenarios))
    return _one_by_one(scenarios, slower) if jobs <= 1 else _in_processes(scenarios, jobs, slower)


def _one_by_one(left: Mapping[int, dict[str, Any]], slower: float) -> Outcomes:
    for number, scenario in left.items():
        yield number, simulate_point(scenario, slower)


def _in_processes(left: Mapping[int, dict[str, Any]], jobs: int, slower: float) -> Outcomes:
    """In no order. When a process dies, nobody knows which point it was: the rest goes on one at a time."""
    undone = dict(left)
    for number, outcome in _pool(left, jobs, slower):
        del undone[number]
        yield number, outcome
    for number, scenario in undone.items():
        alone = list(_pool({number: scenario}, 1, slower))
        yield alone[0] if alone else (number, failure(DIED))


def _pool(left: Mapping[int, dict[str, Any]], jobs: int, slower: float) -> Outcomes:
    """Outcomes as they come, until all are there or a process has died."""
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _quiet_interrupts)
    try:
        with deaf():
            running = {pool.submit(simulate_point, item, slower): number for number, item in left.items()}
        for future in as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool:
        return
    except BaseException:  # interrupted: what runs is not waited for
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started meanwhile never hear Ctrl-C; their starter does, then or at the end.

    One that did before ``_quiet_interrupts`` would end in a traceback of its imports.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starts a process too, and lets Ctrl-C through again after it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _quiet_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; the first one decides for all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def simulate_point(document: dict[str, Any], slower: float = 1.0) -> Outcome:
    """Simulate one resolved scenario, without an ensemble, and keep its figures.

    With ``slower`` every step takes so many times as long as its clock says.
    """
    from kvplan.scenario.figures import block_bytes_of, figures
    from kvplan.scenario.run import Run
    from kvplan.scenario.settling import Stays

    scenario = Scenario.model_validate(
        {**document, "accuracy": {**document.get("accuracy", {}), "ensemble": 0}}
    )
    try:
        run = Run(scenario)
        if slower != 1.0:
            from kvplan.latency.slowed import Slowed

            run.clock = replace(run.clock, model=Slowed(run.clock.model, slower))
        stays = Stays()
        run.execute(on_request=stays.add)
        if run.interruption is not None:
            raise KeyboardInterrupt
        result = run.result([])
        found = figures(result, block_bytes_of(scenario, run.deployment), stays)
        read = [f"Trace: {note}" for note in result["trace"]["notes"]]
        return {
            "figures": found,
            "error": None,
            "warnings": list(dict.fromkeys([*read, *run.warnings])),
            "assumptions": [asdict(item) for item in run.assumptions],
        }
    except Exception as exc:  # a sweep goes on, whatever is wrong with one of its points
        return failure(as_error(exc))


def as_error(exc: Exception) -> KvplanError:
    """What a point's row says of an exception."""
    if isinstance(exc, KvplanError):
        return exc
    if isinstance(exc, OSError):
        return KvplanError(exc.strerror or str(exc), where=str(exc.filename) if exc.filename else None)
    if isinstance(exc, MemoryError):
        return KvplanError("out of memory", hint="simulate fewer requests, or with --jobs 1")
    problem = KvplanError(
        f"internal error: {type(exc).__name__}: {exc}",
        hint="this is a bug in kvplan; simulate this point alone with --debug and report the traceback",
    )
    problem.code = "internal"
    return problem


def failure(error: KvplanError) -> Outcome:
    """The outcome of a point that was not simulated."""
    return {**NOT_RUN, "error": error.to_dict()["error"]}
