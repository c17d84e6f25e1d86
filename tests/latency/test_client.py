"""What a client waits for beside the engine: named, bounded, switchable, and never in the clock."""

import pytest

from kvplan.errors import SpecError, UnknownName
from kvplan.latency.client import DEFAULT_S, HIGH_S, LOW_S, client_overhead


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_it_is_assumed_and_printed_and_the_engine_clock_does_not_know_it(clock_of, kind):
    from kvplan.engine.protocols import StepBatch

    assumed, without = clock_of(kind), clock_of(kind, client_overhead_s=0)
    batch = StepBatch(64, 64_000, 64, 64_000, [], 64)
    assert assumed.model.step_seconds(batch) == without.model.step_seconds(batch)
    assert (assumed.client.seconds, without.client.seconds) == (DEFAULT_S, 0.0)
    named = {item.name: item for item in assumed.assumptions}
    assert named["latency.client_overhead_s"].value == DEFAULT_S
    assert "7 to 35 ms" in named["latency.client_overhead_s"].source
    given = {item.name: item for item in without.assumptions}
    assert "given in the scenario" in given["latency.client_overhead_s"].source


def test_the_range_holds_the_default_and_a_given_value_has_none():
    overhead, rest = client_overhead({"step_s": 1e-3})
    assert rest == {"step_s": 1e-3}
    assert overhead.at(0.0) == LOW_S < overhead.seconds < overhead.at(1.0)
    assert overhead.at(1.0) == pytest.approx(HIGH_S)
    fixed, rest = client_overhead({"client_overhead_s": 0.02, "step_s": 1e-3})
    assert rest == {"step_s": 1e-3}
    assert fixed.at(0.0) == fixed.at(1.0) == fixed.seconds == 0.02


@pytest.mark.parametrize("bad", [-1e-3, float("nan"), float("inf"), "7ms", True, None, 61])
def test_what_is_no_time_is_refused(bad):
    with pytest.raises(SpecError, match="client_overhead_s must be"):
        client_overhead({"client_overhead_s": bad})


def test_the_linear_clock_has_none(clock_of):
    assert clock_of("linear", a=1e-3, b=1e-5, c=1e-9).client.seconds == 0.0
    with pytest.raises(UnknownName, match="client_overhead_s"):
        clock_of("linear", a=1e-3, b=1e-5, c=1e-9, client_overhead_s=0.01)
