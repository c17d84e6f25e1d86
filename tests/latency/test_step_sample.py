"""The sample stands for the run: its weights are time, whatever the steps are like."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.latency.step_sample import StepSample


class Told:
    """A clock that says what it is told to."""

    def __init__(self) -> None:
        self.next_s = 0.0

    def step_seconds(self, batch: StepBatch) -> float:
        return self.next_s


def sampled(lengths: list[float], most: int = 64) -> StepSample:
    clock = Told()
    sample = StepSample(clock, most)
    batch = StepBatch()
    for index, seconds in enumerate(lengths):
        clock.next_s = seconds
        batch.scheduled_tokens = index
        batch.prefill_chunks[:] = [(0, index)]
        assert sample.step_seconds(batch) == seconds
    return sample


@given(st.lists(st.floats(1e-4, 1.0), max_size=60))
def test_of_few_steps_all_are_kept_as_they_were(lengths: list[float]) -> None:
    kept = list(sampled(lengths))
    assert [seconds for _, seconds in kept] == pytest.approx(lengths)
    assert [batch.scheduled_tokens for batch, _ in kept] == list(range(len(lengths)))
    assert [batch.prefill_chunks for batch, _ in kept] == [[(0, index)] for index in range(len(lengths))]


@given(st.integers(0, 1000), st.integers(100, 3000), st.sampled_from((16, 64, 512)))
def test_weights_add_up_to_busy_time_within_one_of_them(seed: int, steps: int, most: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.lognormvariate(-4.0, 2.0) for _ in range(steps)]
    sample = sampled(lengths, most)
    kept = list(sample)
    assert len(kept) <= most
    assert sample.busy_s == pytest.approx(math.fsum(lengths))
    assert sum(weight for _, weight in kept) == pytest.approx(sample.busy_s, abs=sample.every_s + 1e-9)
    assert all(weight > 0 for _, weight in kept)


def test_time_is_shared_rightly_between_steps_that_alternate() -> None:
    """Short and long steps in turn, which counting every so many steps would get wrong."""
    lengths = [0.001 if index % 2 else 0.3 for index in range(20_000)]
    kept = list(sampled(lengths))
    long = sum(weight for batch, weight in kept if batch.scheduled_tokens % 2 == 0)
    assert long / sum(weight for _, weight in kept) == pytest.approx(0.3 / 0.301, abs=0.02)


def test_one_long_step_among_many_short_ones_has_its_weight() -> None:
    lengths = [0.001] * 5_000 + [5.0] + [0.001] * 5_000
    kept = list(sampled(lengths))
    whole = sum(weight for _, weight in kept)
    long = sum(weight for batch, weight in kept if batch.scheduled_tokens == 5_000)
    assert long / whole == pytest.approx(5.0 / 15.0, abs=0.03)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_time_is_left_to_the_engine(wrong: float) -> None:
    clock = Told()
    sample = StepSample(clock)
    clock.next_s = wrong
    answer = sample.step_seconds(StepBatch())
    assert answer == wrong or math.isnan(answer)
    assert not list(sample)


def test_steps_without_length_do_no_harm() -> None:
    sample = sampled([0.0] * 500, most=16)
    assert sample.busy_s == 0.0
    assert len(list(sample)) <= 16
