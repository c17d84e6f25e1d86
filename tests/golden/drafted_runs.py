"""Playing recorded runs with drafts: how many stood is written down with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from recorded_runs import digest, digest_of_rows, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.engine.protocols import StepBatch, Together
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.sglang import ReferenceSglangScheduler
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.strategy import Engine
from kvplan.latency.linear import LinearLatency


@dataclass(frozen=True, slots=True)
class Recorded(Acceptance):
    """What stood, by request and verification."""

    names: tuple[str, ...] = ()
    stood: tuple[tuple[int, ...], ...] = ()

    def key(self, name: str) -> int:
        return self.names.index(name) if name in self.names else -1

    def accepted(self, key: int, verification: int, drafts: int) -> int:
        return self.stood[key][verification]


class Heard:
    """Notes how many drafts are made after each step."""

    def __init__(self, a: float, b: float, c: float) -> None:
        self.linear = LinearLatency(a, b, c)
        self.drafting: list[int] = []

    def step_seconds(self, batch: StepBatch) -> float:
        self.drafting.append(batch.drafting)
        return self.linear.step_seconds(batch)


class Passes:
    """Of ranks in step: each takes ``a + b * tokens + c * context`` and ``d`` a draft, all together ``e`` a token
    and ``f`` a draft of each request that samples. Notes how many drafts are made after each step."""

    def __init__(self, a: float, b: float, c: float, d: float, e: float, f: float) -> None:
        self.linear = LinearLatency(a, b, c)
        self.draft_s, self.token_s, self.request_s = d, e, f
        self.drafting: list[int] = []
        self.heard: Together | None = None

    def step_seconds(self, batch: StepBatch) -> float:
        whole = batch.together
        own = batch.drafting_s = self.draft_s * batch.drafting
        seconds = self.linear.step_seconds(batch) + own
        if whole is None:  # an instance without ranks
            return seconds
        if whole is not self.heard:
            self.drafting.append(whole.drafting)
            self.heard = whole
        joint = self.request_s * whole.drafting * whole.sampled
        batch.drafting_s = own + joint
        return seconds + (self.token_s * whole.tokens + joint)


def recorded(drafts: int, accepted: dict[str, list[int]]) -> Recorded:
    return Recorded((1.0,) * drafts, 0, tuple(accepted), tuple(map(tuple, accepted.values())))


@dataclass(slots=True)
class Played:
    """What a run left behind; ``rows`` of those who were served, in the order of the recording; ``away``: who was
    turned away, why and when."""

    rows: list[RequestRow] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    aborted: list[list[str | float]] = field(default_factory=list)
    away: list[list[str | float | None]] = field(default_factory=list)


def play(run: dict[str, Any], make: Callable[[Recorder], Engine], *, log: bool) -> Played:
    played, rows = Played(), dict[str, RequestRow]()
    engine = make(
        Recorder(
            on_request=lambda row: rows.__setitem__(row.id, row),
            on_timed_out=lambda name, time_s: played.aborted.append([name, time_s]),
            on_rejected=lambda name, reason, time_s: played.away.append([name, reason, time_s]),
            on_decision=played.lines.append if log else None,
            series=log,
        )
    )
    arrivals = Arrivals(request(*asked) for asked in run["requests"])
    if run["patience"] is not None:
        arrivals = Impatient(arrivals, Patience(*(inf if s is None else s for s in run["patience"])))
    engine.run(arrivals)
    engine.close()
    played.rows = [rows[asked[0]] for asked in run["requests"] if asked[0] in rows]
    return played


def check_oracle(
    run: dict[str, Any], config: SglangConfig, scheduler: ReferenceSglangScheduler, beside: Callable[[], str]
) -> None:
    """SGLang's oracle decides as recorded; ``beside``: what a recorded line says of the second pool."""
    told: list[str] = []

    def make(recorder: Recorder) -> ReferenceSglangEngine:
        def tell(line: str) -> None:
            # The recording does not count who holds memory.
            told.append("|".join([*(line.split("|")[part] for part in (0, 1, 3, 4)), beside()]))

        recorder.on_decision = tell
        clock = LinearLatency(*run["clock"])
        return ReferenceSglangEngine(config, clock, recorder, check=True, scheduler=scheduler)

    played = play(run, make, log=True)
    assert digest(told) == run["decisions"]
    assert played.aborted == run["aborted"]
    assert digest_of_rows(played.rows) == run["rows"]
