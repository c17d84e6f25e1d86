"""One logged run on the simulated engine, as a function of the constants that are fitted.

Every other request is fitted on, the others are what errors are told of. Simulations are remembered: the
client's own part is added to them afterwards, and does not decide them unless the client waits for answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kvplan.engine.config import EngineConfig
from kvplan.latency.client import OUTPUT_SHARE, ClientOverhead
from kvplan.latency.drafting import DraftingLatency
from kvplan.latency.profile import ProfileLatency
from kvplan.latency.roofline import Roofline
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_advice import mixed
from kvplan.scenario.fit_client import Pair
from kvplan.scenario.fit_constants import CHUNK, CLIENT, OUTSIDE, SERVER, SPREAD, TOKEN
from kvplan.scenario.fit_misfit import misfit
from kvplan.scenario.fit_mixture import two_kinds
from kvplan.scenario.fit_prefix import prefix_left, untold_prefix
from kvplan.scenario.fit_steps import AlikeSteps, grouping, read_together, seen_steps
from kvplan.scenario.fit_warmup import warming_up
from kvplan.scenario.log_features import feature_errors, features, in_flight, quantile, statistics_of
from kvplan.scenario.log_limits import saturated
from kvplan.scenario.log_replay import LogReplay, seen_by
from kvplan.scenario.measured import MAX_TOKENS, Measured
from kvplan.scenario.system import System

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

Base: TypeAlias = Roofline | ProfileLatency | DraftingLatency
Errors = dict[str, dict[str, float]]
"""Metric to statistic to ``simulated / measured - 1``."""
TAIL = 0.99
MISFIT = 0.03
"""How far off features are of a clock that is right, beside what so few requests leave open (assumed)."""
_REMEMBERED = 16


class FittedRun:
    """See the module.

    Args:
        system: the deployment that was measured.
        log: what was measured.
        base: its clock.
        client: what clients wait for beside the engine, but for the constants.

    Raises:
        DataError: the log cannot be replayed there.
    """

    def __init__(self, system: System, log: EngineLog, base: Base, client: ClientOverhead) -> None:
        self.log, self.client = log, client
        self.replay = LogReplay(system, log)
        self.flight = in_flight(log.rows)
        self.warming = 0
        self._base = base
        self._steps = self._seen()
        self._played: dict[tuple[object, ...], list[Measured | None]] = {}
        self._weights: list[float] = []

    @property
    def closed(self) -> bool:
        """Whether its client waited for answers."""
        return self.replay.closed

    @property
    def timed(self) -> bool:
        """Whether the server said of every request what it took from scheduling it to its first token."""
        return all(row.prefill_s is not None for row in self.log.rows)

    def notes(self) -> list[str]:
        """What to know about the log, and what was made of it."""
        found = [*self.log.notes, *self.replay.notes()]
        if self.warming:
            found.append(
                f"the first {self.warming} requests, of {self.rows[0].arrival_s:.3g} s, are replayed but not "
                "compared: their tokens took longer than later ones at the same load, as those of an engine "
                "that is warming up"
            )
        several = (grouping(self.log.rows), read_together(self.log.rows) if self._steppable else None)
        return [*found, *(each for each in several if each is not None)]

    def doubts(self, values: Mapping[str, float]) -> list[str]:
        """What in the run does not look like one engine that computed all prompts."""
        found = []
        if not saturated(self.rows) and (kinds := two_kinds(self.pairs(values))) is not None:
            found.append(mixed(kinds, Path(self.log.path).name))
        cached = self._untold_prefix(values)
        return [*found, prefix_left(cached)] if cached else found

    def _untold_prefix(self, values: Mapping[str, float]) -> int:
        """Tokens of each prompt that seem to have been cached; 0 where the log says what was."""
        if any(row.cached_tokens is not None for row in self.rows):
            return 0
        return untold_prefix(self._steps, self.clock(values))

    @property
    def rows(self) -> Sequence[Measured]:
        """The requests that are compared: all but those that came while the engine was warming up."""
        return self.log.rows[self.warming :]

    def warm_up(self, values: Mapping[str, float]) -> int:
        """Find out how many requests came while the engine was warming up; they are not compared from now on.

        Returns how many.
        """
        self.warming = warming_up(self.pairs(values))
        if self.warming:
            self._steps = self._seen()
        return self.warming

    @property
    def _steppable(self) -> bool:
        """Whether gaps between tokens may be steps."""
        return not self.log.drawn and self.replay.system.one_by_one

    def _seen(self) -> list[AlikeSteps]:
        """Steps that clients saw by themselves: of one engine, by moments of the log's own."""
        config = self.replay.system.config
        if not self._steppable:
            return []
        since_s = self.rows[0].arrival_s if self.rows else 0.0
        if isinstance(config, EngineConfig):
            return seen_steps(self.log.rows, config.max_num_batched_tokens, mixes=True, since_s=since_s)
        most = MAX_TOKENS if config.chunk_tokens is None else config.chunk_tokens
        return seen_steps(self.log.rows, most, mixes=config.enable_mixed_chunk, since_s=since_s)

    @property
    def _fitted(self) -> range:
        return range(self.warming, len(self.log.rows), 2)

    @property
    def _held(self) -> range:
        return range(self.warming + 1, len(self.log.rows), 2)

    def residual(self, values: Mapping[str, float]) -> Array:
        """Logarithms of simulated over measured features, of the requests that are fitted on.

        Each counts as much as the run was sure of it when it was weighed last. Behind them those of the steps
        that clients saw by themselves.
        """
        import numpy as np

        seen, real, flight = self._compared(values)
        ours, theirs = features(seen, real, flight), features(real, real, flight)
        requests = [w * (a - b) for w, a, b in zip(self._weights, ours, theirs, strict=True)]
        clock = self.clock(values)
        return np.array([*requests, *(step.off(clock) for step in self._steps)])

    def weigh(self, values: Mapping[str, float]) -> None:
        """Let each feature count as much as so few requests are sure of it under these constants."""
        self._weights = [
            MISFIT / math.hypot(MISFIT, error) for error in feature_errors(*self._compared(values))
        ]

    def _compared(
        self, values: Mapping[str, float]
    ) -> tuple[Sequence[Measured], Sequence[Measured], Sequence[float]]:
        """Of the requests that are fitted on: simulated, measured, and how many were in flight."""
        indexes, seen = self._pairs(values, self._fitted)
        return seen, [self.log.rows[index] for index in indexes], [self.flight[index] for index in indexes]

    def errors(self, values: Mapping[str, float]) -> Errors:
        """Those of the requests that were held out."""
        indexes, seen = self._pairs(values, self._held)
        ours, theirs = statistics_of(seen), statistics_of([self.log.rows[index] for index in indexes])
        return {
            metric: {
                name: float(f"{ours[metric][name] / theirs[metric][name] - 1:.4g}") for name in theirs[metric]
            }
            for metric in theirs
            if theirs[metric]
        }

    def misfit(self, values: Mapping[str, float]) -> dict[str, float]:
        """Of each metric how far it is off in parts of the run, in seen steps, or with other prompts."""
        indexes, seen = self._pairs(values, range(self.warming, len(self.log.rows)))
        pairs = [(row, self.log.rows[index]) for index, row in zip(indexes, seen, strict=True)]
        found = misfit(pairs, [self.flight[index] for index in indexes])
        # Of longer prompts a smaller share is cached: they wait longer than this fit says.
        prompts = sorted(float(row.prompt_tokens) for row in self.rows)
        cached = min(self._untold_prefix(values) / quantile(prompts, 0.5), 1.0)
        found["ttft"] = max(found["ttft"], cached)
        clock = self.clock(values)
        for each in self._steps:
            metric = "ttft" if each.prompts else "tpot"
            found[metric] = max(found[metric], math.expm1(abs(each.off(clock))))
        return {metric: float(f"{share:.4g}") for metric, share in found.items()}

    def held_out(self, values: Mapping[str, float]) -> Array:
        """Logarithms of simulated over measured features, of the requests that were held out."""
        import numpy as np

        indexes, seen = self._pairs(values, self._held)
        real, flight = [self.log.rows[index] for index in indexes], [self.flight[index] for index in indexes]
        ours, theirs = features(seen, real, flight), features(real, real, flight)
        return np.asarray(np.array(ours) - np.array(theirs))

    def tail_s(self, values: Mapping[str, float]) -> float:
        """Stalls: by how much TTFT is longer than simulated, of all requests and request by request.

        The latter beyond what it is shorter by: to be early or late at the end of a step, or ahead of or
        behind another prompt, is as likely either way. Of all requests: a run has few stalls, and what was
        fitted is not made of them.
        """
        indexes, seen = self._pairs(values, range(self.warming, len(self.log.rows)))
        real = [self.log.rows[index].ttft_s for index in indexes]
        whole = quantile(sorted(real), TAIL) - quantile(sorted(row.ttft_s for row in seen), TAIL)
        late = sorted(ours - row.ttft_s for ours, row in zip(real, seen, strict=True))
        single = quantile(late, TAIL) + quantile(late, 1.0 - TAIL) - 2.0 * quantile(late, 0.5)
        return float(f"{max(whole, single, 0.0):.4g}")

    def pairs(self, values: Mapping[str, float]) -> list[Pair]:
        """Of each request what the engine's part takes, simulated, and what its client saw."""
        both = zip(self._inside(values)[self.warming :], self.rows, strict=True)
        return [(row, real) for row, real in both if row is not None]

    def ways(self, values: Mapping[str, float]) -> list[Pair]:
        """The same without what the engine's steps take until the first token, where the server said that."""
        both = self.pairs(values)
        if not self.timed:
            return both
        return [(row.unscheduled(), real.unscheduled()) for row, real in both]

    def outside(self, values: Mapping[str, float]) -> ClientOverhead:
        """What clients wait for beside the engine."""
        chunk_s = values.get(CHUNK.name, self.client.chunk_s)
        return replace(
            self.client,
            seconds=values[CLIENT.name],
            server_s=values[SERVER.name],
            token_s=values[TOKEN.name],
            spread=values.get(SPREAD.name, self.client.spread),
            chunk_s=chunk_s,
            output_s=self.client.output_s if self.client.output_given else OUTPUT_SHARE * chunk_s,
        )

    def clock(self, values: Mapping[str, float]) -> Base:
        """The engine's, with these constants."""
        return self._base.with_constants({k: v for k, v in values.items() if k not in OUTSIDE})

    def _inside(self, values: Mapping[str, float]) -> list[Measured | None]:
        """What the engine's part of each request of the log takes in the simulation; None if rejected."""
        client = self.outside(values)
        engine_values = {name: value for name, value in values.items() if name not in OUTSIDE}
        # The engine sees the client's own part only if the client waits for answers.
        key = (
            *engine_values.values(),
            client.server_s,
            client.token_s,
            client.chunk_s,
            client.output_s,
            client if self.closed else None,
        )
        if key not in self._played:
            if len(self._played) > _REMEMBERED:
                self._played.clear()
            self._played[key] = self.replay.inside(self.clock(values), client)
        return self._played[key]

    def _pairs(
        self, values: Mapping[str, float], half: Iterable[int]
    ) -> tuple[list[int], Sequence[Measured]]:
        """Requests of a half that were served, and what the client of each sees in the simulation."""
        seen = seen_by(self.outside(values), self._inside(values))
        kept = [(index, row) for index in half if (row := seen[index]) is not None]
        return [index for index, _ in kept], [row for _, row in kept]


def farthest(errors: Sequence[Errors]) -> Errors:
    """Of several runs' errors those farthest from nothing."""
    found: Errors = {}
    for each in errors:
        for metric, statistics in each.items():
            known = found.setdefault(metric, {})
            for name, error in statistics.items():
                known[name] = max(error, known.get(name, 0.0), key=abs)
    return found
