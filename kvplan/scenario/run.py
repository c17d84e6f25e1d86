"""Running a scenario: deployment, clock, workload, engine, and the ``kvplan.result/1`` they produce."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.recorder import UNHELD, Recorder, RequestRow
from kvplan.errors import KvplanError, UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.client import CHUNK, OUTPUT, ClientOverhead
from kvplan.latency.clock import Clock
from kvplan.provenance import provenance
from kvplan.scenario.clients import Watched
from kvplan.scenario.clock import clock_of
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.intervals import LARGEST_WORKLOAD, NO_CLAIM, Intervals
from kvplan.scenario.offered import Offered
from kvplan.scenario.rent import Rent, rent_of
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.step_time import StepTime, listen
from kvplan.scenario.summary import (
    latency_objects,
    recorder_of,
    series_object,
    slo_objects,
    throughput_object,
)
from kvplan.scenario.system import System, system_of
from kvplan.scenario.workload import Workload, open_workload
from kvplan.traces.request import Request


class Run:
    """One simulation, from a scenario to a result.

    Args:
        scenario: what to simulate.
        engine: ``fast`` (the default) or ``reference`` (block by block, for audits).
    """

    def __init__(self, scenario: Scenario, *, engine: str = "fast") -> None:
        self.scenario = scenario
        self.deployment: Deployment = resolve_deployment(scenario)
        self.clock: Clock = clock_of(scenario, self.deployment)
        self.system: System = system_of(scenario, self.deployment)
        _check_front_end(self.system, self.clock.client)
        self.rent: Rent = rent_of(scenario.price, self.system.gpus(self.deployment))
        self.workload: Workload = open_workload(scenario.workload, scenario.seed)
        self.recorder = Recorder()
        self.offered = Offered()
        self.step_time = StepTime(self.clock.model)
        self.interruption: str | None = None
        self._engine_name = engine
        self._kept: list[Request] = []

    def execute(
        self,
        *,
        on_request: Callable[[RequestRow], None] | None = None,
        on_decision: Callable[[str], None] | None = None,
        on_progress: Callable[[int, float], None] | None = None,
        on_start: Callable[[], None] | None = None,
        held: AbstractContextManager[None] = UNHELD,
    ) -> None:
        """Simulate; results so far are kept when the user interrupts or a model misbehaves.

        ``on_start`` is called when the engine has taken the scenario and nothing is simulated yet.
        ``on_progress`` is called now and then with requests taken in and simulated seconds. ``held`` is
        entered while a finished request is counted and its row or a line of the log is written: whoever
        raises ``KeyboardInterrupt`` waits until then, so that counts and files agree.

        Raises:
            KvplanError, OSError: the run failed; ``result()`` still tells what was done until then.
            UsageError: before ``on_start``, the engine does not simulate what the scenario asks for.
        """
        self.recorder = recorder_of(
            self.clock.client, on_request=on_request, on_decision=on_decision, held=held
        )
        self.step_time = listen(self.clock, once=self.system.asks_once)
        engine = self.system.engine(self._engine_name, self.step_time.clock, self.recorder)
        if on_start is not None:
            on_start()
        self.offered = Offered()
        requests: Iterable[Request] = self.offered.counted(self.workload.requests())
        self._kept = []
        if self.clock.perturbed is not None and self.scenario.accuracy.ensemble != 0:
            requests = _keeping(requests, self._kept)
        arrivals: Arrivals | None = None
        try:
            arrivals = self.workload.clients.arrivals(requests, self.clock.client)
            with _rare_collections():
                engine.run(arrivals if on_progress is None else Watched(arrivals, on_progress))
        except KeyboardInterrupt:
            self.interruption = "interrupted by the user"
        except KvplanError as exc:
            self.interruption = exc.message
            raise
        except OSError as exc:  # a trace that cannot be read on, rows that cannot be written
            self.interruption = exc.strerror or str(exc)
            raise
        finally:
            engine.close()
            if arrivals is not None:
                self.workload.clients.report(arrivals, self.recorder)

    def result(
        self, command: Sequence[str], *, on_member: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """The ``kvplan.result/1`` document.

        ``on_member`` is told (simulated, all) members while the ensemble behind its intervals is simulated.
        """
        recorder, deployment, scenario = self.recorder, self.deployment, self.scenario
        latency, distributions = latency_objects(recorder, self.clock.client)
        config = deployment.config
        offered = self.offered.to_dict(recorder, timed=self.interruption is None and not self._paced)
        intervals = self._intervals(latency, on_member, saturated=offered["saturated"])
        document = {
            "schema": "kvplan.result/1",
            "complete": self.interruption is None,
            "scenario": scenario.to_dict(),
            "model": None,
            "gpu": None,
            "memory": None,
            "pool": {
                "num_blocks": sum(instance.num_blocks for instance in self.system.instances),
                "usable_blocks": sum(instance.usable_blocks for instance in self.system.instances),
                "block_size": config.block_size,
            },
            "capacity": None,
            "offered": offered,
            "totals": recorder.totals.to_dict(),
            "strategies": {
                name: [metric._asdict() for metric in metrics] for name, metrics in recorder.sections.items()
            },
            "latency": latency,
            "throughput": throughput_object(recorder),
            "cost": self.rent.to_dict(recorder.totals),
            "step_time": self.step_time.to_dict(len(self.system.instances)),
            "distributions": distributions,
            "series": series_object(recorder),
            "slo": slo_objects(scenario.slo, latency, recorder, self.clock.client),
            "accuracy": {**self.clock.accuracy(), **intervals.to_dict()},
            "trace": self.workload.to_dict(recorder.totals.requests),
            "assumptions": [asdict(item) for item in self.assumptions],
            "warnings": self._warnings(),
            "provenance": provenance(command, scenario.seed, [*self.workload.inputs(), *self.clock.inputs]),
        }
        if deployment.model is not None or deployment.gpu is not None:
            # Imported only here: a run on a given pool and a linear clock needs no sizing at all.
            from kvplan.scenario.hardware import hardware_objects

            document.update(hardware_objects(scenario, deployment, self.rent.gpus))
        return document

    @property
    def _paced(self) -> bool:
        """Whether answers decide when requests arrive."""
        part = self.scenario.workload
        return part.max_in_flight is not None or part.turns == "answered"

    @property
    def _in_flight(self) -> float:
        """Requests sent and not finished, averaged over the run."""
        span_s = self.recorder.totals.makespan_s
        return sum(self.recorder.e2e_s) / span_s if span_s else 0.0

    def _intervals(
        self,
        latency: dict[str, Any],
        on_member: Callable[[int, int], None] | None,
        *,
        saturated: bool,
    ) -> Intervals:
        """Where the real latencies are expected around those of this run."""
        if self.clock.bands is None:
            return NO_CLAIM
        from kvplan.scenario.ensemble import Ensemble

        scenario = self.scenario
        return Ensemble(
            clock=self.clock,
            system=self.system,
            clients=self.workload.clients,
            seed=scenario.seed,
            wanted=scenario.accuracy.ensemble,
        ).intervals(
            latency,
            self._kept,
            complete=self.interruption is None,
            saturated=saturated,
            in_flight=self._in_flight,
            on_member=on_member,
        )

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """What was chosen because nobody said it."""
        return (*self.deployment.assumptions, *self.clock.assumptions, *self.system.assumptions)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know of the deployment and its clock, whatever the run brought."""
        return (*self.deployment.warnings, *self.system.warnings, *self.clock.warnings)

    def _warnings(self) -> list[str]:
        found = list(self.warnings)
        if self.interruption is not None:
            found.append(f"stopped early: {self.interruption}")
        seen, in_flight = self.clock.seen, self._in_flight
        if seen is not None and in_flight and not seen.holds(in_flight):
            found.append(
                f"{in_flight:.3g} requests were in flight, and {seen.low:.3g} to {seen.high:.3g} in the run "
                "that the clock was fitted to: how steps grow with their requests was hardly seen there; fit "
                "a run at this load together with it (kvplan calibrate --engine-log once for each)"
            )
        for reason, count in sorted(self.recorder.rejections.items()):
            found.append(f"{count:,} requests rejected: {reason}")
        return found


def _check_front_end(system: System, client: ClientOverhead) -> None:
    """A front end that tokens wait at hears of every step.

    Raises:
        UsageError: of several engines, or of one that waits for something else between steps.
    """
    if not client.streams or system.one_by_one:
        return
    what = "several replicas" if system.strategy is None else system.strategy.name
    raise UsageError(
        f"a front end whose thread hands tokens out is simulated in front of one instance whose steps follow "
        f"one another, not of {what}",
        where=f"latency.{CHUNK}", hint=f"leave out {CHUNK} and {OUTPUT}, or simulate one instance alone",
    )  # fmt: skip


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for reference cycles a hundred times less often than Python does by default.

    A simulation makes many small objects that live for seconds of simulated time; looking through all of
    them every 700 allocations costs a fifth of the run and finds next to nothing.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _keeping(requests: Iterable[Request], kept: list[Request]) -> Iterator[Request]:
    """The requests, the first ``LARGEST_WORKLOAD + 1`` of which stay in ``kept``."""
    for request in requests:
        if len(kept) <= LARGEST_WORKLOAD:
            kept.append(request)
        yield request
