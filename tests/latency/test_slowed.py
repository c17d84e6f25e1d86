"""A clock that is off by a factor: every step, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.latency.linear import LinearLatency
from kvplan.latency.slowed import Slowed
from kvplan.scenario.load import load_scenario
from kvplan.scenario.outcomes import simulate_point

MODEL = LinearLatency(0.005, 2e-5, 1e-8)


class Drafting:
    """Steps of 3 s, of which drafts take 1 s."""

    def step_seconds(self, batch: StepBatch) -> float:
        batch.drafting_s = 1.0
        return 3.0


@given(st.floats(0.1, 10.0), st.integers(0, 10_000))
def test_every_step_takes_so_many_times_as_long(factor: float, tokens: int) -> None:
    batch = StepBatch(scheduled_tokens=tokens)
    assert Slowed(MODEL, factor).step_seconds(batch) == pytest.approx(factor * MODEL.step_seconds(batch))


def test_drafts_take_so_many_times_as_long() -> None:
    batch = StepBatch(4)
    assert (Slowed(Drafting(), 1.5).step_seconds(batch), batch.drafting_s) == (4.5, 1.5)


def test_a_run_on_a_slower_clock_at_a_slower_rate_is_the_same_run() -> None:
    flags = {
        "latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8, "cache.blocks": 3000,
        "engine.max_num_batched_tokens": 2048,
        "engine.max_model_len": 16384, "workload.synthesize": "fixed", "workload.requests": 100,
    }  # fmt: skip
    fast, slow = (
        simulate_point(load_scenario(None, {**flags, "workload.rate": 20.0 / factor}).to_dict(), factor)[
            "figures"
        ]
        for factor in (1.0, 2.0)
    )
    for name in ("ttft_p99_s", "tpot_p99_s", "makespan_s", "arrivals_s"):
        assert slow[name] == pytest.approx(2.0 * fast[name])
    assert slow["growth"] == pytest.approx(fast["growth"])


class Drafts:
    """A step of 3 s, in one of which drafts are made."""

    def step_seconds(self, batch: StepBatch) -> float:
        batch.drafting_s = 1.0
        return 3.0


def test_drafts_take_longer_by_as_much() -> None:
    batch = StepBatch()
    assert (Slowed(Drafts(), 1.5).step_seconds(batch), batch.drafting_s) == (4.5, 1.5)
