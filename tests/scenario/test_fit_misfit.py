"""What cancels over all requests of a run is told, and widens bands; a beginning that is slow is left out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from kvplan.errors import SpecError
from kvplan.latency.client import ClientOverhead
from kvplan.latency.fitted import held_out_errors
from kvplan.scenario.fit_client import Pair
from kvplan.scenario.fit_misfit import misfit
from kvplan.scenario.fit_warmup import warming_up
from kvplan.scenario.measured import Measured


def pairs(
    slower: Callable[[int, int], float], count: int = 200, noise: float = 0.03, tokens: int = 50
) -> list[Pair]:
    """Requests whose measured times are a multiple of the simulated ones, by place and prompt."""
    rng, found = random.Random("pairs"), []
    for index in range(count):
        prompt, factor = rng.randint(100, 2000), math.exp(rng.gauss(0.0, noise))
        factor *= slower(index, prompt)
        ours = Measured(
            0.1 * index, prompt, tokens, 0.05 + 1e-4 * prompt, 0.05 + 1e-4 * prompt + 0.01 * tokens
        )
        real = Measured(0.1 * index, prompt, tokens, ours.ttft_s * factor, ours.e2e_s * factor)
        found.append((ours, real))
    return found


def flight(count: int) -> list[float]:
    return [float(index % 7) for index in range(count)]


def test_a_clock_that_is_right_everywhere_is_hardly_off_anywhere() -> None:
    found = misfit(pairs(lambda index, prompt: 1.0), flight(200))
    assert set(found) == {"ttft", "tpot", "e2e"}
    assert max(found.values()) < 0.02


@pytest.mark.parametrize(
    "slower", [lambda index, prompt: 0.8 if prompt < 1050 else 1.25, lambda index, prompt: 0.8 + index / 500]
)
def test_what_cancels_is_told(slower: Callable[[int, int], float]) -> None:
    assert misfit(pairs(slower), flight(200))["e2e"] > 0.1


def test_few_requests_say_nothing() -> None:
    assert misfit(pairs(lambda index, prompt: 2.0, 40), flight(40)) == {"ttft": 0.0, "tpot": 0.0, "e2e": 0.0}


def test_parts_widen_bands() -> None:
    after = {metric: {"mean": 0.02} for metric in ("ttft", "tpot", "e2e")}
    document = {"held_out": {"after": after, "parts": {"ttft": 0.4, "tpot": 0.01, "e2e": 0.0}}}
    assert held_out_errors(document, "fit") == {"ttft": 0.4, "tpot": 0.02, "e2e": 0.02}
    document["held_out"]["parts"]["ttft"] = math.nan
    with pytest.raises(SpecError):
        held_out_errors(document, "fit")


def test_a_slow_beginning_is_a_warm_up() -> None:
    assert warming_up(pairs(lambda index, prompt: 1.5 if index < 30 else 1.0)) == pytest.approx(30, abs=5)
    assert warming_up(pairs(lambda index, prompt: 1.0)) == 0


@pytest.mark.parametrize(
    "slower",
    [
        lambda index, prompt: 1.5 if index < 120 else 1.0,  # another engine for most of the run
        lambda index, prompt: 1.1 - index / 1000,  # drift
        lambda index, prompt: 1.5 if 40 <= index < 60 else 1.0,  # somebody else for a while
        lambda index, prompt: 1.5 if index > 150 else 1.0,
    ],
)
def test_nothing_else_is(slower: Callable[[int, int], float]) -> None:
    assert warming_up(pairs(slower)) == 0


def test_a_warm_up_is_not_looked_for_in_short_runs_or_answers() -> None:
    slower = lambda index, prompt: 1.5 if index < 10 else 1.0  # noqa: E731
    assert warming_up(pairs(slower, count=50)) == 0
    assert warming_up(pairs(slower, tokens=4)) == 0


def test_other_runs_have_other_stalls() -> None:
    client = ClientOverhead(0.01, 0.008, 0.012, stall_s=2.0, stall_share=0.05)
    assert client.member(0.0, 1).stall_s == 0.0
    assert client.member(1.0, 1).stall_s == 4.0
    assert client.member(0.5, 1).stall_s == client.stall_s
