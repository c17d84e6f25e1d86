"""Stalls: found where a run's slowest first tokens are, and nowhere else; drawn by request and seed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kvplan.errors import SpecError
from kvplan.latency.client import ClientOverhead, client_overhead
from kvplan.scenario.fit_client import Pair
from kvplan.scenario.fit_stalls import client_stalls
from kvplan.scenario.measured import Measured

CLIENT = ClientOverhead(0.02)


def pairs(share: float, stall_s: float, *, count: int = 400, spread: float = 0.03) -> list[Pair]:
    """Requests with 60 to 120 ms in the engine, of which some waited for what was left of a stall."""
    rng, found = random.Random(7), []
    for index in range(count):
        inside = Measured(float(index), 500, 50, rng.uniform(0.06, 0.12), 1.0)
        waited = rng.random() * stall_s if rng.random() < share else 0.0
        found.append((inside, inside.later(CLIENT.seconds * rng.lognormvariate(0.0, spread) + waited)))
    return found


def test_stalls_come_back_and_no_others() -> None:
    assert client_stalls(pairs(0.0, 0.0), CLIENT) is None
    found = client_stalls(pairs(0.04, 0.8), CLIENT)
    assert found is not None
    assert found[0] == pytest.approx(0.8, rel=0.6)
    assert 0.015 <= found[1] <= 0.06


def test_what_may_be_a_queue_is_no_stall() -> None:
    """Delays no longer than what the engine itself makes of different requests."""
    assert client_stalls(pairs(0.05, 0.03), CLIENT) is None


def test_one_late_request_is_no_stall() -> None:
    late = [
        (ours, real.later(5.0) if index == 50 else real) for index, (ours, real) in enumerate(pairs(0.0, 0.0))
    ]
    assert client_stalls(late, CLIENT) is None


def test_first_tokens_that_are_sooner_than_simulated_are_no_stalls() -> None:
    fast = [(ours, replace(real, ttft_s=0.5 * real.ttft_s)) for ours, real in pairs(0.0, 0.0)]
    assert client_stalls(fast, CLIENT) is None


def test_a_stall_holds_up_its_share_of_the_requests_for_what_is_left_of_it() -> None:
    client, rest = client_overhead(
        {"client_overhead_s": 0.01, "client_stall_s": 0.5, "client_stall_share": 0.1}
    )
    assert rest == {}
    assert client.varies
    seconds = [client.of(f"r{index}") for index in range(4000)]
    held = [value for value in seconds if value > 0.01]
    assert len(held) / len(seconds) == pytest.approx(0.1, abs=0.02)
    assert max(held) == pytest.approx(0.51, abs=0.01)
    assert sum(held) / len(held) == pytest.approx(0.26, abs=0.03)
    assert seconds == [client.of(f"r{index}") for index in range(4000)]
    assert seconds != [client.member(0.5, 1).of(f"r{index}") for index in range(4000)]
    named = {item.name: item.value for item in client.assumptions()}
    assert named["latency.client_stall_s"] == 0.5
    assert named["latency.client_stall_share"] == 0.1
    plain, _ = client_overhead({"client_overhead_s": 0.01, "client_stall_share": 0.1})
    assert not plain.varies


@pytest.mark.parametrize(("name", "value"), [("client_stall_s", 61.0), ("client_stall_share", 1.5)])
def test_what_is_no_stall_is_refused(name: str, value: float) -> None:
    with pytest.raises(SpecError, match=f"{name} must be"):
        client_overhead({name: value})
