"""Engine-level constants from a serving run: simulate it, compare what requests saw, move the constants.

What is compared are logarithms of percentiles (of TTFT, TPOT and end-to-end time; of TTFT for short, middling
and long prompts; of TPOT when few and when many requests were in flight), so that noise of single requests
does not matter; where the server said what it took from scheduling each request to its first token, also of
that and of the rest of TTFT, each by itself. Regressions over simulations all around find the constants under
a robust loss (``kvplan.scenario.search``), weakly drawn to what is usual: what a run cannot tell apart is
then divided by what is plausible. Where that misses, it begins again from afar
(``kvplan.scenario.foothold``). A constant that the run does not determine is named, with the factor by which
it could be off. One half of the requests is fitted on, the errors printed are those of the other half. Cached
prompt tokens and closed loops are replayed as they were (``kvplan.scenario.log_replay``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.engine.protocols import StepBatch
from kvplan.errors import UsageError
from kvplan.latency.client import LIMITS, STALL, STALL_SHARE, client_overhead
from kvplan.latency.drafting import DraftingLatency
from kvplan.latency.profile import ProfileLatency
from kvplan.latency.roofline import Roofline
from kvplan.latency.routing import SKEW_KEY
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_advice import (
    another_model,
    another_size,
    front_end_left,
    further_runs,
    left_assumed,
    poor,
    strange,
    streams_left,
    unsure_why,
)
from kvplan.scenario.fit_client import client_spread
from kvplan.scenario.fit_constants import (
    CHUNK,
    CLIENT,
    CONSTANTS,
    LAUNCH,
    SERVER,
    SPREAD,
    TOKEN,
    Constant,
)
from kvplan.scenario.fit_end import LEAST_NOISE, End, at_bounds, between, end_of, share_of
from kvplan.scenario.fit_front_end import FrontEnd, front_end
from kvplan.scenario.fit_run import Errors, FittedRun, farthest
from kvplan.scenario.fit_stalls import EXPECTED, client_stalls
from kvplan.scenario.fit_streams import Streams, streamed
from kvplan.scenario.log_features import METRICS, quantile
from kvplan.scenario.log_limits import limits_of_all, saturated
from kvplan.scenario.run import Run
from kvplan.scenario.schema import Scenario

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

UNSURE = 0.35
"""A constant whose logarithm is known no better than this (42 %) is called not identified."""
SETTLED = 0.7
"""The same where a run leaves more than this share of what was uncertain before it."""
NEWS = 0.5
"""E-folds by which single requests must say something else of the front end than percentiles do."""
LOOP_SPREAD = 0.4
"""Of the client's overhead, before anything was measured, in a closed loop: there it is also what keeps
requests apart, and other things that do (stalls, steps that differ) would be called its."""


@dataclass(frozen=True, slots=True)
class EngineFit:
    """What came out.

    Attributes:
        constants: every fitted or kept constant.
        uncertainty: share by which each identified constant may be off, nine times in ten.
        alone: the same for all that were fitted, from the run alone: without what is usual elsewhere.
        unidentified: constant to the reason why the run says too little about it; its value is what agrees
            best with both the run and what is usual.
        assumed: of them, those that are what the clock assumes without a run; a fit leaves them to it, which
            also knows how far they may be off.
        spread: names of the constants that were fitted, and the factor of the covariance of their logarithms:
            what an ensemble of clocks that agree with the run draws from.
        client_s: where the client's overhead lies nine times in ten; None where the clock's own range holds.
        before, after: held-out error ``simulated / measured - 1`` by metric and statistic, with the
            scenario's own constants and with the fitted ones.
        parts: of each metric the share by which it is off in the part of a run where it is farthest off.
        variation: parameters of ``latency`` by which clients differ, found after the constants.
        tail_s: seconds by which the held-out 99th percentile of TTFT is longer than the simulated one: stalls
            of a real engine, which no clock has and which do not scale with the rest; 0 where requests wait.
        in_flight: requests in flight of the runs, nine times in ten.
        requests: how many were simulated; half of them were fitted on.
        notes: what to know about the run.
    """

    model: str
    constants: dict[str, float]
    uncertainty: dict[str, float]
    alone: dict[str, float]
    unidentified: dict[str, str]
    assumed: tuple[str, ...]
    spread: tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]
    client_s: tuple[float, float] | None
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]
    parts: dict[str, float]
    variation: dict[str, float]
    tail_s: float
    in_flight: tuple[float, float]
    requests: int
    notes: tuple[str, ...]


def fit_engine(
    scenario: Scenario,
    log: EngineLog | Sequence[EngineLog],
    progress: Callable[[str], None] | None = None,
) -> EngineFit:
    """Fit the constants of the scenario's clock to measured runs.

    Args:
        scenario: deployment and clock; its workload is not played.
        log: what was measured on that deployment; several runs of it are fitted together.
        progress: told about each iteration.

    Raises:
        UsageError: the clock has nothing to fit.
        DataError: the deployment rejects requests that the real engine served.
    """
    kind = scenario.latency.model
    if kind not in CONSTANTS:
        raise UsageError(
            f"the {kind} clock has no engine-level constants to fit",
            where="latency.model", hint="fit with {model: roofline} or {model: profile}",
        )  # fmt: skip
    logs = [log] if isinstance(log, EngineLog) else list(log)
    return _Fitting(scenario, logs, kind, progress or (lambda text: None)).fit()


class _Fitting:
    """The runs as a function of constants, and the search on it."""

    def __init__(
        self, scenario: Scenario, logs: Sequence[EngineLog], kind: str, tell: Callable[[str], None]
    ) -> None:
        self.kind, self.tell = kind, tell
        run = Run(scenario)
        base = run.clock.model
        assert isinstance(base, (Roofline, ProfileLatency, DraftingLatency))
        model = run.deployment.model
        self.served = None if model is None else model.name
        self.tp = scenario.parallel.tp
        given = self.given = scenario.latency.parameters()
        self.client, _ = client_overhead({name: value for name, value in given.items() if name in LIMITS})
        self.client = replace(self.client, seed=str(scenario.seed))
        self.system = run.system
        if scenario.disaggregation is not None:
            # Who answers is the decode server, and its own times say nothing of the prefill server.
            logs = [log.without_server_times() for log in logs]
        if scenario.parallel.pp > 1 or isinstance(base, DraftingLatency):
            # What lies between two tokens is not one step of all requests, or brings more than a token each.
            logs = [log.without_gaps() for log in logs]
        self.runs = [FittedRun(run.system, log, base, self.client) for log in logs]
        self.closed = any(each.closed for each in self.runs)
        self.could_tell = (
            scenario.engine.kind == "vllm" and scenario.disaggregation is None
            and not any(each.timed for each in self.runs)
        )  # fmt: skip
        self.assumed = {item.name: item.value for item in run.clock.assumptions}
        constants = CONSTANTS[kind]
        if self.closed and not self.client.spread:
            constants = (*constants, SPREAD)
        self._begin(constants)
        self._weigh(self.start)
        if base.launching.eager or self._feels(LAUNCH):
            self._begin((*constants, LAUNCH))
        names = [item.name for item in self.constants]
        rows = [each.log.rows for each in self.runs]
        self.reasons, self.notes = limits_of_all(
            list(zip(rows, [r.flight for r in self.runs], strict=True)), names
        )

    def _begin(self, constants: Sequence[Constant]) -> None:
        """These are what may move, from what the scenario or the clock says."""
        given = self.given
        self.constants = constants
        self.own = {c.name: float(given.get(c.name, self._default(c))) for c in constants}
        self.start = {c.name: min(max(self.own[c.name] or c.start, c.low), c.high) for c in constants}

    def _default(self, constant: Constant) -> float:
        if constant in (SERVER, TOKEN, SPREAD):
            return 0.0  # off unless somebody says otherwise
        value = self.assumed.get(f"latency.{constant.name}", constant.start)
        return float(value) if isinstance(value, (int, float)) else constant.start

    def _feels(self, constant: Constant) -> bool:
        """Whether anything that is compared changes within what is usual of a constant that is not moved."""
        import numpy as np

        usual = self._default(constant)
        ends = [usual * math.exp(sign * constant.spread) for sign in (-1.0, 1.0)]
        low, high = (self._residual({**self.start, constant.name: value}) for value in ends)
        return bool(np.abs(high - low).max() > LEAST_NOISE)

    def fit(self) -> EngineFit:
        reasons = self.reasons
        free = [
            replace(c, spread=LOOP_SPREAD) if c == CLIENT and self.closed else c
            for c in self.constants
            if c.name not in reasons or c.name == "request_s"
        ]
        before = self._errors(self.own)
        first = end_of(free, self.start, self._residual, self._weigh, self.tell)
        if sum(each.warm_up(first.values) for each in self.runs):
            self.tell("once more, without what came while the engine was warming up")
            before = self._errors(self.own)
            first = end_of(free, self.start, self._residual, self._weigh, self.tell)
        end, told = self._ended(free, first)
        streams = None
        if free and self.system.one_by_one and not self.client.streams:
            other, streams = streamed(self.runs, first, end, free, self.start, self.tell)
            if other is not None:
                free, end, told = [*free, CHUNK], other, None
        usual = {CHUNK.name: CHUNK.start, **self.start}
        values = end.values
        prompts = [row.prompt_tokens for each in self.runs for row in each.log.rows]
        for name in self._unsure(free, end):
            if name == SERVER.name and told is not None and told.deviation <= UNSURE:
                continue
            reasons.setdefault(name, unsure_why(name, end.deviations[name], prompts))
        variation = self._vary(values)
        after = self._errors(values)
        parts = [each.misfit(values) for each in self.runs]
        tails = [each.tail_s(values) for each in self.runs if not saturated(each.log.rows)]
        doubts = [doubt for each in self.runs for doubt in each.doubts(values)]
        flight = sorted(size for each in self.runs for size in each.flight)
        requests = sum(len(each.log.rows) for each in self.runs)
        return EngineFit(
            self.kind,
            {name: float(f"{value:.6g}") for name, value in values.items()},
            {name: share_of(size) for name, size in end.deviations.items() if name not in reasons},
            {name: share_of(size) for name, size in self._alone(end, told).items()},
            reasons,
            tuple(
                name for name in reasons
                if name not in self.given and values[name] == self.start.get(name) == self.own[name]
            ),
            (tuple(end.deviations), end.factor),
            between(values[CLIENT.name], end.deviations.get(CLIENT.name)),
            before,
            after,
            {metric: max(each[metric] for each in parts) for metric in METRICS},
            variation,
            max(tails, default=0.0),
            (float(f"{quantile(flight, 0.05):.3g}"), float(f"{quantile(flight, 0.95):.3g}")),
            requests,
            tuple(
                dict.fromkeys(
                    (*self._notes(), *self.notes, *poor(after), *doubts, *strange(free, values, usual),
                     *self._left(values), *self._further(reasons), *self._front_end(end, reasons),
                     *self._streams_left(streams))
                )
            ),
        )  # fmt: skip

    def _ended(self, free: Sequence[Constant], end: End) -> tuple[End, FrontEnd | None]:
        """Where the constants come to, and what requests sent close behind others say of the front end.

        Percentiles tell of that only where it is full; where it is not, the constants are looked for once
        more from what single requests say of it, if that is anything new.
        """
        by_name = {constant.name: constant for constant in free}
        server, client = by_name.get(SERVER.name), by_name.get(CLIENT.name)
        calm = [each for each in self.runs if not each.closed and not saturated(each.log.rows)]
        if server is None or client is None or not calm or SERVER.name not in self._unsure(free, end):
            return end, None
        told = front_end(calm, end.values, server, client)
        moved = abs(math.log(told.seconds / end.values[SERVER.name]))
        if moved <= NEWS and told.deviation >= SETTLED * server.spread:
            return end, None
        self.tell("once more, with what requests sent close behind others say of the front end")
        again = [replace(c, spread=told.deviation) if c == server else c for c in free]
        begin = {**self.start, SERVER.name: min(max(told.seconds, server.low), server.high)}
        return end_of(again, begin, self._residual, self._weigh, self.tell), told

    def _alone(self, end: End, told: FrontEnd | None) -> dict[str, float]:
        """What the run alone says of each constant; of the front end also request by request."""
        if told is None or told.deviation > UNSURE:
            return end.alone
        return {**end.alone, SERVER.name: min(end.alone[SERVER.name], told.deviation)}

    def _notes(self) -> list[str]:
        """What was done to each log, once where all say the same."""
        other = (
            [] if self.served is None else another_model([each.log.model for each in self.runs], self.served)
        )
        other += another_size([each.log.tp for each in self.runs], self.tp)
        if any(each.timed for each in self.runs):
            other.append(
                "what the server says it took from scheduling each request to its first token is compared by "
                "itself, and so is what clients waited beside that"
            )
        return other + [note for each in self.runs for note in each.notes()]

    def _left(self, values: Mapping[str, float]) -> list[str]:
        """What was not looked for, by a step of the runs' median load."""
        rows = [row for each in self.runs for row in each.log.rows]
        busy = quantile(sorted(size for each in self.runs for size in each.flight), 0.5)
        context = quantile(sorted(row.prompt_tokens + row.output_tokens / 2 for row in rows), 0.5)
        requests = max(round(busy), 1)
        cached = requests * round(context)
        clock = self.runs[0].clock(values)
        step = clock.parts(StepBatch(requests, cached, requests, cached, [], requests))
        skew = self.assumed.get(f"latency.{SKEW_KEY}")
        assumed = isinstance(skew, (int, float)) and SKEW_KEY not in self.given
        return left_assumed(step, requests, float(skew or 0.0) if assumed else None)

    def _further(self, reasons: Mapping[str, str]) -> list[str]:
        runs = [(each.log.rows, each.flight) for each in self.runs]
        return further_runs(
            reasons, runs, closed=all(each.closed for each in self.runs), most=self.system.most_running
        )

    def _front_end(self, end: End, reasons: Mapping[str, str]) -> list[str]:
        """From which rate on the runs say nothing of TTFT, where they do not tell the front end."""
        if SERVER.name not in reasons or SERVER.name not in end.deviations:
            return []
        rates = [len(each.log.rows) / max(each.log.rows[-1].arrival_s, 1e-9) for each in self.runs]
        return front_end_left(
            end.values[SERVER.name], end.deviations[SERVER.name], max(rates), server_times=self.could_tell
        )

    def _streams_left(self, streams: Streams | None) -> list[str]:
        tokens = sorted(tpot for each in self.runs for row in each.log.rows if (tpot := row.tpot_s))
        if streams is None or not tokens:
            return []
        flight = quantile(sorted(size for each in self.runs for size in each.flight), 0.95)
        return streams_left(streams.likely_s, streams.most_s, flight, quantile(tokens, 0.5))

    def _vary(self, values: Mapping[str, float]) -> dict[str, float]:
        """Let clients differ from request to request from now on, as far as the runs tell.

        Where requests wait for others TTFT is waiting, and clients of a loop send nothing while it stalls.
        """
        calm = [each for each in self.runs if not each.closed and not saturated(each.log.rows)]
        if not calm:
            return {}
        found: dict[str, float] = {}
        pairs = [pair for each in calm for pair in each.pairs(values)]
        # In a closed loop the spread decides what the engine does, and was fitted with the constants.
        if not self.closed and not self.client.spread:
            ways = [pair for each in calm for pair in each.ways(values)]
            spread = client_spread(ways, calm[0].outside(values))
            if spread is not None:
                found[SPREAD.name] = spread
                for each in self.runs:
                    each.client = replace(each.client, spread=spread)
        if not self.client.stall_s:
            stalls = client_stalls(pairs, calm[0].outside(values))
            if stalls is not None:
                stalls = EXPECTED * stalls[0], stalls[1]
                found |= dict(zip((STALL, STALL_SHARE), stalls, strict=True))
                for each in self.runs:
                    each.client = replace(each.client, stall_s=stalls[0], stall_share=stalls[1])
        return found

    def _residual(self, values: Mapping[str, float]) -> Array:
        import numpy as np

        return np.concatenate([each.residual(values) for each in self.runs])

    def _weigh(self, values: Mapping[str, float]) -> None:
        for each in self.runs:
            each.weigh(values)

    def _errors(self, values: Mapping[str, float]) -> Errors:
        return farthest([each.errors(values) for each in self.runs])

    def _unsure(self, free: Sequence[Constant], end: End) -> list[str]:
        """Constants that the run alone does not determine.

        One that ran to the end of its range would go on if it could: where it belongs is not known.
        """
        return [
            constant.name
            for constant in free
            if end.alone[constant.name] > UNSURE
            or end.deviations[constant.name] > SETTLED * constant.spread
            or at_bounds(end, (constant,))
        ]
