"""Laws of disaggregation under any pressure: conservation, causality, progress, and the first token's parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audited import Audited
from fuzzing import examples, fuzz
from hypothesis import example, given
from hypothesis import strategies as st
from pools import Line, disaggregations
from workloads import cases, stride_of

import kvplan.engine.disaggregation.engine as engines
import kvplan.engine.disaggregation.strategy as strategies_of_engines
from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.breakdown import PARTS
from kvplan.engine.disaggregation.cargo import Cargo
from kvplan.engine.disaggregation.decode import DecodeReplica
from kvplan.engine.disaggregation.engine import DisaggregatedEngine
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.journey import FirstToken, Journey
from kvplan.engine.disaggregation.prefill import PrefillReplica
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.errors import EngineStuck
from kvplan.engine.live import LiveRequest
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
MOST_CALLS = 20_000
"""Far more than any of these workloads needs: an engine that gets there makes no progress."""


class AuditedPrefill(Audited, PrefillReplica):
    """Checks its books before and after every delivery and release."""

    calls = 0

    def advance(self, until: float) -> None:
        self.calls += 1
        assert self.calls < MOST_CALLS
        super().advance(until)

    def _holders(self) -> list[LiveRequest]:
        return [*self.scheduler.running, *self.scheduler.held]

    def release(self, request: LiveRequest) -> None:
        self.audit()
        super().release(request)
        self.audit()


class AuditedDecode(Audited, DecodeReplica):
    """Checks its books before and after every delivery and whatever reaches it."""

    calls = 0

    def advance(self, until: float) -> None:
        self.calls += 1
        assert self.calls < MOST_CALLS
        super().advance(until)

    def _holders(self) -> list[LiveRequest]:
        return [*self.scheduler.running, *self.scheduler.queue.holders]

    def arrived(self, request: LiveRequest, now: float) -> None:
        self.audit()
        super().arrived(request, now)
        self.audit()

    def withdraw(self, request: LiveRequest) -> None:
        self.audit()
        super().withdraw(request)
        self.audit()


@pytest.fixture(scope="module", autouse=True)
def _audited():  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "PrefillReplica", AuditedPrefill)
        patch.setattr(engines, "DecodeReplica", AuditedDecode)
        yield


@st.composite
def deployments(draw: st.DrawFn) -> tuple[EngineConfig, Disaggregation, list[Request]]:
    config, requests = draw(cases())
    return config, draw(disaggregations(config)), requests


def play(
    config: EngineConfig, strategy: Disaggregation, requests: list[Request], *, log: bool = False
) -> tuple[list[RequestRow], Recorder, DisaggregatedEngine]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride_of(requests)
    engine = strategy.engine(config, CLOCK, recorder)
    engine.run(requests)
    engine.close()
    return rows, recorder, engine


@examples(200)
@given(deployments())
def test_every_request_gets_through(case: tuple[EngineConfig, Disaggregation, list[Request]]) -> None:
    """Watchdog, conservation in both pools, causality, and that the parts of a first token are all of it."""
    config, strategy, requests = case
    rows, recorder, engine = play(config, strategy, requests)
    totals = recorder.totals
    assert totals.requests == len(requests) == totals.finished + totals.rejected
    assert totals.unfinished == 0
    assert sorted(row.id for row in rows) == sorted({row.id for row in rows})
    for row in rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
    for replica in (*engine.prefills, *engine.decodes):
        assert isinstance(replica, (AuditedPrefill, AuditedDecode))
        replica.audit()
        assert replica.scheduler.free_blocks == replica.config.usable_blocks, "nobody holds anything any more"
    parts = engine.breakdown.parts
    assert all(seconds >= 0 for part in parts.values() for seconds in part)
    handed = sum(len(part) for part in parts.values()) // len(PARTS)
    assert handed + engine.breakdown.alone == totals.finished
    if strategy.first_token is FirstToken.DECODE:
        ttft = sorted(map(sum, zip(*parts.values(), strict=True)))
        assert ttft == pytest.approx(sorted(recorder.ttft_s), abs=1e-9)


@examples(60)
@given(deployments())
def test_runs_repeat_exactly(case: tuple[EngineConfig, Disaggregation, list[Request]]) -> None:
    config, strategy, requests = case
    first, second = play(config, strategy, requests), play(config, strategy, requests)
    assert first[0] == second[0]
    assert first[1].totals.to_dict() == second[1].totals.to_dict()
    assert first[1].sections == second[1].sections


@examples(60)
@given(cases(), st.integers(1, 40))
def test_a_lone_request_takes_what_the_engine_takes_and_a_step(
    case: tuple[EngineConfig, list[Request]], apart: int
) -> None:
    """An infinitely fast link, requests far apart: the prompt as in a plain engine, then one step a token."""
    config, requests = case
    config = replace(config, async_scheduling=False, enable_prefix_caching=False, max_num_seqs=1)
    alone = [item._replace(arrival_s=100.0 * number * apart) for number, item in enumerate(requests)]
    free = Stage("link", Line(float("inf"), 0.0), prefill=True, decode=True, link=True)
    split, _, _ = play(config, Disaggregation((free,), 100), alone)
    rows: list[RequestRow] = []
    plain = Replica(config, CLOCK, Recorder(on_request=rows.append))
    plain.run(alone)
    for ours, theirs in zip(split, rows, strict=True):
        assert ours.scheduled_s == theirs.scheduled_s
        # The last prompt token is computed again, with the whole prompt as context.
        again = 5e-3 + 2e-5 * 1
        assert ours.first_token_s - theirs.first_token_s == pytest.approx(again, abs=1e-9)
        assert ours.finish_s - ours.first_token_s == pytest.approx(
            theirs.finish_s - theirs.first_token_s, abs=1e-9
        )


@examples(150)
@given(cases(), st.sampled_from([0, 4]))
def test_prompts_are_computed_as_by_an_engine_that_is_asked_for_one_token(
    case: tuple[EngineConfig, list[Request]], layers: int
) -> None:
    """Without pressure nothing that happens behind the prefill instance is seen in it."""
    config, requests = case
    config = replace(config, num_blocks=5000)
    slow = Stage("link", Line(1e5, 0.01), prefill=True, decode=True, link=True)
    strategy = Disaggregation((slow,), 100, layers=layers, first_token=FirstToken.PREFILL)
    served = [item for item in requests if item.prompt_tokens + item.output_tokens <= config.max_model_len]
    split, _, _ = play(config, strategy, served)
    rows: list[RequestRow] = []
    plain = Replica(config, CLOCK, Recorder(on_request=rows.append))
    plain.run([item._replace(output=((item.output[0][0], 1),), output_tokens=1) for item in served])
    expected = {row.id: (row.scheduled_s, row.finish_s, row.cached_tokens) for row in rows}
    assert {row.id: (row.scheduled_s, row.first_token_s, row.cached_tokens) for row in split} == expected


class OneByOne(DisaggregatedEngine):
    """Whatever an instance brings about is an event, and everybody waits for it."""

    def scheduled(self, journey: Journey, now: float) -> None:
        self._post(now, super().scheduled, journey)

    def preempted(self, journey: Journey, now: float) -> None:
        self._post(now, super().preempted, journey)

    def computed(self, journey: Journey, attempt: int, begun: float, ended: float) -> None:
        super().computed(journey, attempt, begun, ended)
        self._post(ended, lambda journey, now: None, journey)

    def reserved(self, journey: Journey, cargo: Cargo, refused: bool, now: float) -> None:
        journey.refused, journey.reserved_s = refused, now
        journey.cargo = cargo
        self._post(now, lambda journey, now: self._send(journey), journey)


def told(
    case: tuple[EngineConfig, Disaggregation, list[Request]], *, log: bool = False
) -> tuple[object, ...]:
    """Rows, totals, series and section of a run, or why it is stuck (rules of vLLM's own allow it)."""
    try:
        rows, recorder, _ = play(*case, log=log)
    except EngineStuck as exc:
        return (exc.message,)
    return rows, recorder.totals.to_dict(), recorder.series, recorder.sections["disaggregation"]


OFTEN = fuzz(150)


NARROW = EngineConfig(
    4, 4, 12, 1, 12, enable_chunked_prefill=False, long_prefill_token_threshold=3, long_prefill_adaptive=False,
    scheduler_reserve_full_isl=False, async_scheduling=False,
)  # fmt: skip
SET_BACK = [
    Request(f"r{number}", 0.0, ((1000 + 50 * max(number - 1, 0), tokens),), tokens, ((500, 1),), 1)
    for number, tokens in enumerate((1, 1, 5, 1, 1, 1, 1, 1, 1))
]
BY_LAYER = Disaggregation(
    (Stage("link", Line(1000.0, 0.0), prefill=True, decode=True, link=True),), 100, PoolPlan(config=NARROW),
    PoolPlan(config=NARROW), layers=1,
)  # fmt: skip


# A prompt that is set back takes what was sent of it with it, before the next step is planned.
@example((NARROW, BY_LAYER, SET_BACK))
@OFTEN
@given(deployments())
def test_what_is_done_at_once_is_what_events_would_do_one_by_one(
    case: tuple[EngineConfig, Disaggregation, list[Request]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies_of_engines, "DisaggregatedEngine", OneByOne)
        single = told(case)
    assert told(case) == single


class Unobserved(DisaggregatedEngine):
    """Its series goes from the last arrival to the end at once."""

    def _expect_point(self, journey: Journey) -> None:
        pass


@OFTEN
@given(deployments())
def test_points_of_the_series_after_the_last_arrival_change_nothing_else(
    case: tuple[EngineConfig, Disaggregation, list[Request]],
) -> None:
    observed = told(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies_of_engines, "DisaggregatedEngine", Unobserved)
        unobserved = told(case)
    if len(observed) == 1:
        assert observed == unobserved
        return
    rows, totals, series, section = observed
    others, shorter = unobserved[0], unobserved[2]
    assert isinstance(rows, list)
    assert isinstance(others, list)
    assert isinstance(series, list)
    assert isinstance(shorter, list)
    # Who finished first is written first, as far as somebody looks.
    assert sorted(rows) == sorted(others)
    assert (totals, section) == (unobserved[1], unobserved[3])
    until = case[2][-1].arrival_s
    assert {point for point in series if point.t_s < until} <= set(shorter)
    times = [point.t_s for point in series]
    assert times == sorted(times)
    last = series[-1]
    assert (last.used_blocks, last.running, last.waiting) == (0, 0, 0)


@OFTEN
@given(deployments())
def test_steps_taken_in_bulk_are_steps_taken_one_by_one(
    case: tuple[EngineConfig, Disaggregation, list[Request]],
) -> None:
    """With a decision log every step is planned."""
    assert told(case) == told(case, log=True)
