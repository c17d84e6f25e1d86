"""Whether a run was long enough: of planted queues, and of a toy whose capacity is known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.engine.recorder import RequestRow
from kvplan.scenario import outcomes
from kvplan.scenario.bracket import PRECISION, Bounds, Bracket
from kvplan.scenario.highest import Search, parse_bounds
from kvplan.scenario.settling import FILLED, LIFETIMES, Stays, settled

STAY_S, LIMIT_S = 0.1, 5.0


def stays(times: list[tuple[float, float]]) -> Stays:
    found = Stays()
    for arrived, left in times:
        found.add(RequestRow("r", arrived, arrived, arrived, left, 1, 1, 0, 0))
    return found


def queue(requests: int, rate: float, capacity: float) -> list[tuple[float, float]]:
    """One server, one request at a time, evenly spaced."""
    times, free = [], 0.0
    for number in range(requests):
        arrived = number / rate
        free = max(free, arrived) + 1 / capacity
        times.append((arrived, free))
    return times


@given(st.integers(50, 500), st.floats(1.1, 4.0))
def test_an_overloaded_queue_is_never_settled(requests: int, over: float) -> None:
    found = stays(queue(requests, 10.0 * over, 10.0))
    assert found.growth is not None
    assert 2.0 < found.growth < 4.0  # three for a line that grows steadily


@given(st.integers(100, 500), st.floats(0.1, 0.95))
def test_a_queue_below_capacity_is(requests: int, under: float) -> None:
    found = stays(queue(requests, 10.0 * under, 10.0))
    assert found.growth == pytest.approx(1.0, abs=0.1)
    assert settled({"arrivals_s": found.arrivals_s, "e2e_p99_s": 0.1, "growth": found.growth})


@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0), st.floats(0.5, 4.0), st.floats(1.0, 10.0))
def test_a_shorter_run_is_never_less_doubtful(
    arrivals: float, stay: float, growth: float, times: float
) -> None:
    longer = {"arrivals_s": times * arrivals, "e2e_p99_s": stay, "growth": growth}
    if not settled(longer):
        assert not settled({**longer, "arrivals_s": arrivals})
    assert settled(longer) == (times * arrivals >= LIFETIMES * stay and growth <= FILLED)


def test_nothing_is_known_without_figures() -> None:
    assert settled({}) is None
    assert stays([]).growth is None
    assert stays([(0.0, 1.0)] * 3).growth is None  # all at once: no halves
    assert settled({"arrivals_s": 0.0, "e2e_p99_s": 1.0, "growth": None}) is False


def toy(capacity: float) -> Any:
    """A fluid queue: whoever arrives last at ``rate`` waits for what did not get through."""

    def simulate(document: dict[str, Any], slower: float) -> dict[str, Any]:
        rate, requests = document["workload"]["rate"], document["workload"]["requests"]
        over = rate * slower / capacity
        wait_s = max(0.0, 0.99 * requests * (slower / capacity - 1 / rate))
        objective = {
            "name": "ttft_p99_s", "limit_s": LIMIT_S, "value_s": wait_s, "passed": wait_s <= LIMIT_S,
            "interval_s": None, "band": [-0.2, 0.25],
        }  # fmt: skip
        figures = {
            "rejected": 0, "timed_out": 0, "unfinished": 0, "finished": requests, "slo_met": wait_s <= LIMIT_S,
            "arrivals_s": requests / rate, "e2e_p99_s": wait_s + STAY_S, "growth": 3.0 if over > 1 else 1.0,
            "objectives": [objective],
        }  # fmt: skip
        return {**outcomes.NOT_RUN, "figures": figures}

    return simulate


def search(capacity: float, requests: int, longest: int | None = None, simulate: Any = None) -> Search:
    flags = {
        "latency.model": "linear", "latency.a": 1.0, "cache.blocks": 100, "workload.synthesize": "fixed",
        "engine.max_model_len": 1600, "slo.ttft_p99_s": LIMIT_S, "workload.requests": requests,
    }  # fmt: skip
    found = Search(None, parse_bounds("workload.rate=0.5..256"), flags=flags, longest=longest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcomes, "simulate_point", simulate or toy(capacity))
        found.execute()
    return found


@settings(max_examples=30)
@given(st.floats(1.0, 100.0), st.sampled_from([50, 200, 1000, 5000]))
def test_the_capacity_is_found_however_short_the_run_began(capacity: float, requests: int) -> None:
    found = search(capacity, requests, 10_000_000)
    assert found.settled
    assert found.passed == pytest.approx(capacity, rel=1.5 * PRECISION)
    first = found.lengths[0][1].passed
    assert first is not None
    assert found.passed is not None
    assert first >= found.passed * (1 - PRECISION)  # short runs flatter
    assert all(length and length <= 10_000_000 for length, _ in found.lengths)


@settings(max_examples=30)
@given(st.floats(1.0, 100.0), st.sampled_from([50, 200, 1000]), st.integers(50, 5000))
def test_an_answer_that_overstates_is_doubted(capacity: float, requests: int, longest: int) -> None:
    found = search(capacity, requests, longest)
    assert found.passed is not None
    assert all(length and length <= max(requests, longest) for length, _ in found.lengths)
    if found.passed > capacity * (1 + PRECISION):
        assert found.settled is False
        assert found.range is None


def test_the_interval_is_that_of_slower_and_faster_steps() -> None:
    found = search(12.5, 400)
    assert found.range is not None
    assert found.passed is not None
    assert found.range["slower"] == 1.25
    low, high = found.range["low"], found.range["high"]
    assert low is not None
    assert high is not None
    assert low <= found.passed <= high
    assert low == pytest.approx(12.5 / 1.25, rel=0.15)
    assert high == pytest.approx(12.5 / 0.8, rel=0.15)


def test_a_point_out_of_line_does_not_end_the_lengthening() -> None:
    def simulate(document: dict[str, Any], slower: float) -> dict[str, Any]:
        rate, requests = document["workload"]["rate"], document["workload"]["requests"]
        edge = {400: 20.0, 800: 12.0}.get(requests, 10.0)
        outcome: dict[str, Any] = toy(1e6)(document, slower)
        outcome["figures"]["slo_met"] = rate <= edge or (requests == 800 and 20.0 < rate < 21.0)
        return outcome

    found = search(1.0, 400, simulate=simulate)
    assert found.lengths[1][1].met_above is not None
    assert found.settled
    assert found.passed == pytest.approx(10.0, rel=1.5 * PRECISION)


@given(st.floats(1.0, 1000.0), st.floats(1.0, 1000.0), st.integers(1, 4), st.booleans())
def test_any_edge_is_found_from_anywhere(edge: float, start: float, jobs: int, whole: bool) -> None:
    bounds = Bounds("k", 1.0, 1000.0, whole)

    def simulate(values: Any) -> Any:
        assert all(bounds.low <= value <= bounds.high for value in values)
        figures = {"rejected": 0, "timed_out": 0, "unfinished": 0}
        return {v: {"figures": {**figures, "slo_met": v <= edge}, "error": None} for v in values}

    found = Bracket(bounds, simulate)
    assert found.close_in([bounds.within(start)], jobs)
    assert found.closed
    assert found.passed is not None  # 1 always passes
    assert found.passed <= edge
    assert found.missed is None or found.missed > edge
    if found.missed is None:
        assert found.passed == bounds.high
    else:
        assert found.missed <= found.passed * (1 + PRECISION) + (1 if whole else 0.02 * found.passed)
