"""A log of two engines is noticed by its times per token, and one of a single engine is not."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kvplan.scenario.fit_advice import mixed
from kvplan.scenario.fit_client import Pair
from kvplan.scenario.fit_mixture import TwoKinds, two_kinds
from kvplan.scenario.measured import Measured

COUNT = 200


def pairs(ratio: Callable[[int, random.Random], float], tokens: int = 50, count: int = COUNT) -> list[Pair]:
    rng, found = random.Random(7), []
    for index in range(count):
        step_s = rng.uniform(0.01, 0.03)
        ours = Measured(0.1 * index, 100, tokens, 0.05, 0.05 + step_s * (tokens - 1))
        whole = 0.05 + step_s * ratio(index, rng) * (tokens - 1)
        found.append((ours, Measured(0.1 * index, 100, tokens, 0.05, whole)))
    return found


@pytest.mark.parametrize(
    "ratio",
    [
        lambda index, rng: 1.0,
        lambda index, rng: rng.lognormvariate(0.3, 0.2),
        lambda index, rng: rng.uniform(0.8, 1.6),
        lambda index, rng: rng.lognormvariate(0.0, 0.03) + (1.0 if rng.random() < 0.05 else 0.0),
        lambda index, rng: 1.0 + index / COUNT,
        lambda index, rng: rng.lognormvariate(0.0, 0.02) * (1.1 if rng.random() < 0.5 else 1.0),
        lambda index, rng: 1.0 + rng.expovariate(5.0),
    ],
)  # fmt: skip
def test_one_engine_is_one_kind(ratio: Callable[[int, random.Random], float]) -> None:
    assert two_kinds(pairs(ratio)) is None


def test_two_engines_are_two_kinds_and_when_is_said() -> None:
    def dealt(index: int, rng: random.Random) -> float:
        return rng.lognormvariate(0.0, 0.04) * (1.4 if index % 3 == 0 else 1.0)

    found = two_kinds(pairs(dealt))
    assert found is not None
    assert found.ratio == pytest.approx(1.4, rel=0.02)
    assert found.share == pytest.approx(1 / 3, abs=0.01)
    said = mixed(found, "run.json")
    assert "34% of the requests of run.json take 1.4 times as long" in said
    assert "most of them" not in said
    assert two_kinds(pairs(dealt, tokens=8)) is None
    assert two_kinds(pairs(dealt, count=30)) is None
    changed = two_kinds(
        pairs(lambda index, rng: rng.lognormvariate(0.1, 0.04) * (1.0 if index < 130 else 1.5))
    )
    assert changed is not None
    assert "late in the run" in mixed(changed, "run.json")
    assert "early in the run" in mixed(TwoKinds(1.5, 0.4, 0.8), "run.json")
