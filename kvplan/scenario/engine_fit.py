"""Engine-level constants from a serving run: simulate it, compare what requests saw, move the constants.

What is compared are logarithms of percentiles (of TTFT, TPOT and end-to-end time; of TTFT for short, middling
and long prompts; of TPOT when few and when many requests were in flight), so that noise of single requests
does not matter. Regressions over simulations all around find the constants under a robust loss
(``kvplan.scenario.search``), weakly drawn to what is usual: what a run cannot tell apart is then divided by
what is plausible. A constant that the run does not determine is named, with the factor by which it could be
off. One half of the requests is fitted on, the errors printed are those of the other half. Cached prompt
tokens and closed loops are replayed as they were (``kvplan.scenario.log_replay``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.errors import UsageError
from kvplan.latency.client import LIMITS, ClientOverhead, client_overhead
from kvplan.latency.drafting import DraftingLatency
from kvplan.latency.profile import ProfileLatency
from kvplan.latency.roofline import Roofline
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_advice import Z90, poor, unsure_why
from kvplan.scenario.fit_client import client_spread
from kvplan.scenario.fit_constants import (
    CLIENT,
    CONSTANTS,
    LAUNCH,
    OUTSIDE,
    SERVER,
    SPREAD,
    TOKEN,
    Constant,
)
from kvplan.scenario.log_features import features, in_flight, quantile, statistics_of
from kvplan.scenario.log_limits import limits_of
from kvplan.scenario.log_replay import LogReplay, seen_by
from kvplan.scenario.measured import Measured
from kvplan.scenario.run import Run
from kvplan.scenario.schema import Scenario
from kvplan.scenario.search import SPREADS, Found, search

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

STATISTICS = ("mean", "p50", "p90")
CORRELATED = 3.0
"""Percentiles of one run move together, so what they tell is this much less certain than they suggest."""
LOSS_SCALE = 0.1
UNSURE = 0.35
"""A constant whose logarithm is known no better than this (42 %) is called not identified."""
LEAST_NOISE = 0.02
SETTLED = 0.7
"""The same where a run leaves more than this share of what was uncertain before it."""
FAR = 0.12
"""Percentiles that stay so far off say that the replay is not the run: what is usual then counts for more."""
LOOP_SPREAD = 0.4
"""Of the client's overhead, before anything was measured, in a closed loop: there it is also what keeps
requests apart, and other things that do (stalls, steps that differ) would be called its."""
TAIL = 0.99
MUCH_BETTER = 0.8
"""What stays off must fall to this share for a constant more to be believed."""


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
        variation: parameters of ``latency`` by which clients differ, found after the constants.
        tail_s: seconds by which the held-out 99th percentile of TTFT is longer than the simulated one: stalls
            of a real engine, which no clock has and which do not scale with the rest; 0 where requests wait.
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
    variation: dict[str, float]
    tail_s: float
    requests: int
    notes: tuple[str, ...]


def fit_engine(
    scenario: Scenario, log: EngineLog, progress: Callable[[str], None] | None = None
) -> EngineFit:
    """Fit the constants of the scenario's clock to a measured run.

    Args:
        scenario: deployment and clock; its workload is not played.
        log: what was measured on that deployment.
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
    return _Fitting(scenario, log, kind, progress or (lambda text: None)).fit()


@dataclass(frozen=True, slots=True)
class _End:
    """Of a search: all constants, and for each that was free the standard deviation of its logarithm: with
    what is usual for all of them, and from the run alone."""

    values: dict[str, float]
    deviations: dict[str, float]
    alone: dict[str, float]
    noise: float = 0.0
    factor: tuple[tuple[float, ...], ...] = ()
    """``L`` with ``L L^T`` the covariance of the logarithms, in the order of ``deviations``."""


def _at_bounds(end: _End, constants: Iterable[Constant]) -> bool:
    """Whether one of them would go on if it could."""
    return any(not c.low * 1.01 < end.values[c.name] < c.high / 1.01 for c in constants)


class _Fitting:
    """The simulation as a function of constants, and the search on it."""

    def __init__(self, scenario: Scenario, log: EngineLog, kind: str, tell: Callable[[str], None]) -> None:
        self.log, self.kind, self.tell = log, kind, tell
        self.run = Run(scenario)
        base = self.run.clock.model
        assert isinstance(base, (Roofline, ProfileLatency, DraftingLatency))
        self.base = base
        given = self.given = scenario.latency.parameters()
        self.fixed = {name: value for name, value in given.items() if name == "name"}
        self.replay = LogReplay(self.run.system, log)
        self.client = self._client({})
        self.flight = in_flight(log.rows)
        self.constants = CONSTANTS[kind]
        if base.launching.eager:
            self.constants = (*self.constants, LAUNCH)
        if self.replay.closed and not self.client.spread:
            self.constants = (*self.constants, SPREAD)
        names = [item.name for item in self.constants]
        self.reasons, self.notes = limits_of(log.rows, self.flight, names)
        self.own = {c.name: float(given.get(c.name, self._default(c))) for c in self.constants}
        self.start = {c.name: min(max(self.own[c.name] or c.start, c.low), c.high) for c in self.constants}
        self._played: dict[tuple[object, ...], list[Measured | None]] = {}
        self.variation: dict[str, float] = {}

    def _client(self, found: Mapping[str, float]) -> ClientOverhead:
        """What the scenario says of it, and what was found."""
        given = {name: value for name, value in self.given.items() if name in LIMITS}
        client, _ = client_overhead({**given, **found})
        return replace(client, seed=str(self.run.scenario.seed))

    def _default(self, constant: Constant) -> float:
        if constant in (SERVER, TOKEN, SPREAD):
            return 0.0  # off unless somebody says otherwise
        found = {item.name: item.value for item in self.run.clock.assumptions}
        value = found.get(f"latency.{constant.name}", constant.start)
        return float(value) if isinstance(value, (int, float)) else constant.start

    def fit(self) -> EngineFit:
        reasons = self.reasons
        queued = CLIENT.name in reasons
        halves = [list(range(first, len(self.log.rows), 2)) for first in (0, 1)]
        free = [
            replace(c, spread=LOOP_SPREAD) if c == CLIENT and self.replay.closed else c
            for c in self.constants
            if c.name not in reasons or c.name == "request_s"
        ]
        before = self._errors(self.own, halves[1])
        end = self._search(free, halves[0], self.start)
        values = end.values
        prompts = [row.prompt_tokens for row in self.log.rows]
        for name in self._unsure(free, end):
            reasons.setdefault(name, unsure_why(name, end.deviations[name], prompts))
        # In a closed loop it decides what the engine does, and was fitted with the constants.
        if not queued and not self.replay.closed and not self.client.spread:
            self._vary(values)
        after = self._errors(values, halves[1])
        return EngineFit(
            self.kind,
            {name: float(f"{value:.6g}") for name, value in values.items()},
            {name: _share(size) for name, size in end.deviations.items() if name not in reasons},
            {name: _share(size) for name, size in end.alone.items()},
            reasons,
            tuple(
                name for name in reasons
                if name not in self.given and values[name] == self.start.get(name) == self.own[name]
            ),
            (tuple(end.deviations), end.factor),
            _between(values[CLIENT.name], end.deviations.get(CLIENT.name)),
            before,
            after,
            self.variation,
            0.0 if queued else self._tail(values, halves[1]),
            len(self.log.rows),
            (*self.log.notes, *self.replay.notes(), *self.notes, *poor(after)),
        )  # fmt: skip

    def _unsure(self, free: Sequence[Constant], end: _End) -> list[str]:
        """Constants that the run alone does not determine.

        One that ran to the end of its range would go on if it could: where it belongs is not known.
        """
        return [
            constant.name
            for constant in free
            if end.alone[constant.name] > UNSURE
            or end.deviations[constant.name] > SETTLED * constant.spread
            or _at_bounds(end, (constant,))
        ]

    # -- the simulation ---------------------------------------------------------------------------------

    def _outside(self, values: Mapping[str, float]) -> ClientOverhead:
        """What clients wait for beside the engine."""
        return replace(
            self.client,
            seconds=values[CLIENT.name],
            server_s=values[SERVER.name],
            token_s=values[TOKEN.name],
            spread=values.get(SPREAD.name, self.client.spread),
        )

    def _inside(self, values: Mapping[str, float]) -> list[Measured | None]:
        """What the engine's part of each request of the log takes in the simulation; None if rejected."""
        client = self._outside(values)
        engine_values = {name: value for name, value in values.items() if name not in OUTSIDE}
        # The engine sees the client's own part only if the client waits for answers.
        key = (
            *engine_values.values(),
            client.server_s,
            client.token_s,
            client if self.replay.closed else None,
        )
        if key not in self._played:
            if len(self._played) > 16:
                self._played.clear()
            self._played[key] = self.replay.inside(self.base.with_constants(engine_values), client)
        return self._played[key]

    def _play(self, values: Mapping[str, float]) -> list[Measured | None]:
        """What each request of the log sees in the simulation; None if it was rejected."""
        return seen_by(self._outside(values), self._inside(values))

    def _vary(self, values: Mapping[str, float]) -> None:
        """Let the client's overhead differ from request to request from now on, as far as the run tells."""
        pairs = zip(self._inside(values), self.log.rows, strict=True)
        client = self._outside(values)
        spread = client_spread([(row, real) for row, real in pairs if row is not None], client)
        self.variation = {} if spread is None else {SPREAD.name: spread}
        self.client = self._client(self.variation)

    def _pairs(self, values: Mapping[str, float], half: Iterable[int]) -> tuple[list[int], list[Measured]]:
        seen = self._play(values)
        kept = [(index, row) for index in half if (row := seen[index]) is not None]
        return [index for index, _ in kept], [row for _, row in kept]

    def _residual(self, values: Mapping[str, float], half: Sequence[int]) -> Array:
        import numpy as np

        indexes, seen = self._pairs(values, half)
        real = [self.log.rows[index] for index in indexes]
        flight = [self.flight[index] for index in indexes]
        ours, theirs = features(seen, real, flight), features(real, real, flight)
        return np.array([a - b for a, b in zip(ours, theirs, strict=True)])

    def _errors(self, values: Mapping[str, float], half: Sequence[int]) -> dict[str, dict[str, float]]:
        indexes, seen = self._pairs(values, half)
        real = [self.log.rows[index] for index in indexes]
        ours, theirs = statistics_of(seen), statistics_of(real)
        return {
            metric: {
                name: float(f"{ours[metric][name] / theirs[metric][name] - 1:.4g}") for name in theirs[metric]
            }
            for metric in theirs
            if theirs[metric]
        }

    def _tail(self, values: Mapping[str, float], half: Sequence[int]) -> float:
        """Stalls: by how much TTFT is longer than simulated, of all requests and request by request.

        The latter beyond what it is shorter by: to be early or late at the end of a step, or ahead of or
        behind another prompt, is as likely either way.
        """
        indexes, seen = self._pairs(values, half)
        real = [self.log.rows[index].ttft_s for index in indexes]
        whole = quantile(sorted(real), TAIL) - quantile(sorted(row.ttft_s for row in seen), TAIL)
        late = sorted(ours - row.ttft_s for ours, row in zip(real, seen, strict=True))
        single = quantile(late, TAIL) + quantile(late, 1.0 - TAIL) - 2.0 * quantile(late, 0.5)
        return float(f"{max(whole, single, 0.0):.4g}")

    # -- the descent ------------------------------------------------------------------------------------

    def _search(
        self,
        free: Sequence[Constant],
        half: Sequence[int],
        start: Mapping[str, float],
    ) -> _End:
        """Move the constants in ``free`` from ``start``; the others stay."""
        import numpy as np

        if not free:
            return _End(dict(start), {}, {})
        begin = np.log([start[c.name] for c in free])
        low, high = np.log([c.low for c in free]), np.log([c.high for c in free])

        def values_at(x: Array) -> dict[str, float]:
            return {**start, **{c.name: float(math.exp(v)) for c, v in zip(free, x, strict=True)}}

        def tell(round_: int, misfit: float) -> None:
            self.tell(f"round {round_} of {len(SPREADS)}: percentiles are {misfit:.1%} off")

        prior = np.array([c.spread for c in free])

        def searched(noise: float) -> Found:
            return search(
                lambda x: self._residual(values_at(x), half), begin, np.array([c.width for c in free]), low,
                high, scale=LOSS_SCALE, pull=(noise * CORRELATED / prior) ** 2, tell=tell,
            )  # fmt: skip

        found = searched(LEAST_NOISE)
        if found.noise > FAR:
            self.tell("percentiles stay far off: once more, nearer to what is usual")
            found = searched(found.noise)
        covariance = found.covariance * (max(found.noise, LEAST_NOISE) * CORRELATED) ** 2
        posterior = np.linalg.inv(np.linalg.inv(covariance) + np.diag(prior**-2.0))
        alone, known = (np.sqrt(np.diag(matrix)) for matrix in (covariance, posterior))
        return _End(
            values_at(found.point),
            {c.name: float(size) for c, size in zip(free, known, strict=True)},
            {c.name: float(size) for c, size in zip(free, alone, strict=True)},
            found.noise,
            tuple(tuple(float(f"{x:.4g}") for x in row) for row in np.linalg.cholesky(posterior)),
        )


def _between(value: float, deviation: float | None) -> tuple[float, float] | None:
    """The 90 % interval of something whose logarithm has this deviation."""
    if deviation is None:
        return None
    factor = math.exp(Z90 * deviation)
    return float(f"{value / factor:.6g}"), float(f"{value * factor:.6g}")


def _share(deviation: float) -> float:
    """Half width of a 90 % interval, as a share, of something whose logarithm has this deviation."""
    return float(f"{math.expm1(Z90 * min(deviation, 4.0)):.3g}")
