"""A front end that keeps up is told from the network by those who are sent close behind others, or left open."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvplan.latency.client import ClientOverhead
from kvplan.latency.roofline import Roofline
from kvplan.scenario.engine_fit import EngineFit, _Fitting, fit_engine
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_constants import CLIENT, SERVER
from kvplan.scenario.fit_front_end import STRIDE, _gain, front_end
from kvplan.scenario.fit_run import FittedRun
from kvplan.scenario.load import load_scenario
from kvplan.scenario.log_features import LEVELS, PROMPT_BINS, features, in_flight, quantile
from kvplan.scenario.run import Run
from tests.scenario.test_engine_fit import BASE, TRUTH, measured

FLAGS: dict[str, Any] = {
    "workload.synthesize": "fixed", "workload.requests": 200, "workload.rate": 8.0,
    "workload.prompt_tokens": "uniform:50-400", "workload.output_tokens": "uniform:20-60",
}  # fmt: skip
WHOLE_S = 0.045
"""What a client waits for beside the engine."""


def log_of(server_s: float, jitter: float = 0.2, **flags: Any) -> EngineLog:
    """A run with so much of the overhead in the front end, which is far from full."""
    truth = {**TRUTH, "api_server_s": server_s, "client_overhead_s": WHOLE_S - server_s}
    rng, log = random.Random(f"front end/{server_s}"), measured(truth, noise=0.0, **{**FLAGS, **flags})
    rows = (row.later((WHOLE_S - server_s) * (rng.lognormvariate(0.0, jitter) - 1.0)) for row in log.rows)
    return replace(log, rows=tuple(rows))


def fitted_run(log: EngineLog) -> FittedRun:
    run = Run(load_scenario(None, {**BASE, **FLAGS}))
    base = run.clock.model
    assert isinstance(base, Roofline)
    return FittedRun(run.system, log, base, ClientOverhead())


SLOW_S = 0.03
LUMPED = {**TRUTH, "api_server_s": 1.5e-3, "client_overhead_s": WHOLE_S - 1.5e-3}
"""As percentiles have it: all of it is the client's."""


def test_who_is_sent_close_behind_others_tells_a_slow_front_end() -> None:
    told = front_end([fitted_run(log_of(SLOW_S))], LUMPED, SERVER, CLIENT)
    assert told.seconds == pytest.approx(SLOW_S, rel=0.3)
    assert told.deviation < 0.35
    assert abs(math.log(told.seconds / SLOW_S)) < 1.65 * told.deviation


def test_a_front_end_that_holds_up_nobody_is_left_to_what_is_usual() -> None:
    told = front_end([fitted_run(log_of(1.5e-3))], LUMPED, SERVER, CLIENT)
    assert told.seconds < 4e-3
    slow = front_end([fitted_run(log_of(SLOW_S))], LUMPED, SERVER, CLIENT)
    assert told.deviation > slow.deviation


SELDOM: dict[str, Any] = {"workload.rate": 5.0, "workload.requests": 150}
"""A run in which few requests are sent close behind others."""


def test_a_servers_times_let_few_requests_decide() -> None:
    log = log_of(SLOW_S, served=True, **SELDOM)
    known, unknown = (
        front_end([fitted_run(each)], LUMPED, SERVER, CLIENT) for each in (log, log.without_server_times())
    )
    assert known.deviation < 0.35
    assert unknown.deviation > 1.0
    assert abs(math.log(known.seconds / SLOW_S)) < 1.65 * known.deviation
    quick = front_end([fitted_run(log_of(1.5e-3, served=True, **SELDOM))], LUMPED, SERVER, CLIENT)
    assert quick.seconds < 4e-3


def test_what_the_servers_steps_take_is_left_out_of_both_sides() -> None:
    log = log_of(SLOW_S, served=True)
    run = fitted_run(log)
    assert run.timed
    for (row, real), (whole, seen) in zip(run.ways(LUMPED), run.pairs(LUMPED), strict=True):
        assert real.ttft_s == seen.before_s
        assert row.ttft_s == whole.before_s
        assert real.tpot_s == pytest.approx(seen.tpot_s)
        # What the front end does not take is waiting for a step that runs: none is as long as this.
        assert -1e-9 <= row.ttft_s < 1.0
    bare = fitted_run(log.without_server_times())
    assert not bare.timed
    assert bare.ways(LUMPED) == bare.pairs(LUMPED)


def test_what_the_servers_steps_take_says_nothing_of_the_front_end() -> None:
    log, rng = log_of(SLOW_S, served=True, **SELDOM), random.Random("steps")
    rows = []
    for row in log.rows:
        longer_s = 0.05 * rng.random()
        assert row.prefill_s is not None
        rows.append(replace(row.later(longer_s), prefill_s=row.prefill_s + longer_s))
    told, slower = (
        front_end([fitted_run(each)], LUMPED, SERVER, CLIENT)
        for each in (log, replace(log, rows=tuple(rows)))
    )
    assert slower.seconds == pytest.approx(told.seconds, rel=1e-6)
    assert slower.deviation == pytest.approx(told.deviation, rel=1e-6)


def test_both_parts_of_ttft_are_compared_where_the_server_said_one() -> None:
    log = log_of(SLOW_S, served=True, **SELDOM)
    bare, flight = log.without_server_times().rows, in_flight(log.rows)
    without = features(bare, bare, flight)
    both = features(log.rows, log.rows, flight)
    # The simulation always says it; the measured run decides.
    assert features(log.rows, bare, flight) == without
    added = list(both)
    for value in without:
        added.remove(value)
    for part in ("prefill_s", "before_s"):
        values = sorted(getattr(row, part) for row in log.rows)
        assert math.log(quantile(values, 0.5)) in added
        assert math.log(quantile(values, 0.9)) in added
    assert len(added) == 2 * (1 + len(LEVELS) + len(PROMPT_BINS) + 1)


def test_a_servers_times_tell_the_engine_from_the_client() -> None:
    """A fit knows more of the constants on both sides of them, and is right about it."""
    log = log_of(SLOW_S, served=True, **SELDOM)
    scenario = load_scenario(None, {**BASE, **FLAGS})
    apart, whole = (fit_engine(scenario, each) for each in (log, log.without_server_times()))
    for name in ("api_server_s", "compute_efficiency"):
        assert apart.alone[name] < 0.75 * whole.alone[name], name
    assert "api_server_s" in apart.uncertainty
    assert "api_server_s" in whole.unidentified
    assert apart.constants["api_server_s"] == pytest.approx(SLOW_S, rel=0.35)
    assert any("compared by itself" in note for note in apart.notes)
    assert not any("compared by itself" in note for note in whole.notes)
    # Who was not asked for them is told how: here they are what was missing.
    assert any("--enable-per-request-metrics" in note for note in whole.notes)
    assert not any("--enable-per-request-metrics" in note for note in apart.notes)


def test_a_decode_servers_times_say_nothing_of_a_prefill_servers() -> None:
    log = log_of(SLOW_S, served=True, **SELDOM)
    split = {"disaggregation": {"prefill": {"instances": 1}, "decode": {"instances": 1}}}
    for parts, used in (({}, True), (split, False)):
        scenario = load_scenario(None, {**BASE, **FLAGS, **parts})
        (run,) = _Fitting(scenario, [log], "roofline", lambda text: None).runs
        assert run.timed is used


def test_it_is_no_longer_than_the_whole_overhead() -> None:
    small = {**LUMPED, "api_server_s": 1e-4, "client_overhead_s": 1e-3}
    told = front_end([fitted_run(log_of(1.5e-3))], small, SERVER, CLIENT)
    assert told.seconds <= 1.1e-3
    assert told.deviation >= STRIDE / 2


def test_a_difference_made_of_chance_counts_for_nothing() -> None:
    rng = np.random.default_rng(3)
    before = np.abs(rng.normal(0.0, 2.0, 400))
    assert abs(_gain(before, rng.permutation(before))) < 0.5
    assert _gain(before, before) == 0.0
    assert _gain(before, before / 2.0) > 10.0
    assert _gain(before / 2.0, before) == pytest.approx(-_gain(before, before / 2.0))
    # A few that come a step earlier say less than many that come a little so.
    few = np.concatenate([before[:-5], np.zeros(5)])
    assert _gain(before, few) < 1.0
    # But where it is not steps that move them, they count.
    assert _gain(before, few, by_steps=False) > _gain(before, few)
    assert _gain(before, before, by_steps=False) == 0.0


@pytest.fixture(scope="module")
def slow() -> EngineFit:
    return fit_engine(load_scenario(None, {**BASE, **FLAGS}), log_of(SLOW_S))


def test_a_fit_takes_from_the_client_what_is_the_front_ends(slow: EngineFit) -> None:
    assert slow.constants["api_server_s"] == pytest.approx(SLOW_S, rel=0.35)
    assert slow.constants["client_overhead_s"] == pytest.approx(WHOLE_S - SLOW_S, rel=0.7)
    assert "api_server_s" in slow.uncertainty
    reach = 1.25 * math.log1p(slow.uncertainty["api_server_s"])
    assert abs(math.log(slow.constants["api_server_s"] / SLOW_S)) <= reach
