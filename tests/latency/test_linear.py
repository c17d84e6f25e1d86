"""The linear model is the formula and nothing else."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError
from kvplan.latency.linear import LinearLatency

CONSTANT = st.floats(0, 1, allow_nan=False)


@given(a=CONSTANT, b=CONSTANT, c=CONSTANT, tokens=st.integers(0, 10**7), context=st.integers(0, 10**10))
def test_it_is_the_formula_evaluated_left_to_right_in_doubles(a, b, c, tokens, context):
    assume(a or b)
    batch = StepBatch(scheduled_tokens=tokens, decode_context=context, sampled_requests=3)
    first = a + b * float(tokens)
    assert LinearLatency(a, b, c).step_seconds(batch) == first + c * float(context)


def test_golden_value_whose_last_bit_depends_on_the_order():
    model = LinearLatency(5e-3, 2e-5, 1e-8)
    assert model.step_seconds(StepBatch(1234, 567_890)) == 0.0353589
    # 0.1 + 0.2 + 0.3 is not 0.1 + (0.2 + 0.3) in doubles.
    ordered = LinearLatency(0.1, 0.2, 0.3).step_seconds(StepBatch(1, 1))
    assert ordered == (0.1 + 0.2) + 0.3
    assert ordered != 0.1 + (0.2 + 0.3)


@pytest.mark.parametrize("name", ["a", "b", "c"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-12, "5e-3", None, True])
def test_bad_constants_are_refused_by_name(name, value):
    constants = {"a": 0.0, "b": 0.0, "c": 0.0, name: value}
    with pytest.raises(SpecError) as caught:
        LinearLatency(**constants)
    assert caught.value.where == f"latency.{name}"
    assert caught.value.hint


def test_integers_from_yaml_become_doubles():
    model = LinearLatency(1, 0, 0)
    assert isinstance(model.step_seconds(StepBatch(1)), float)


@pytest.mark.parametrize("c", [0.0, 1e-8])
def test_a_step_that_could_take_no_time_is_refused(c):
    with pytest.raises(SpecError, match="take no time") as caught:
        LinearLatency(0.0, 0, c)
    assert caught.value.where == "latency.a"
    assert "calibrate" in caught.value.hint
    assert LinearLatency(0.0, 1e-6, 0.0).step_seconds(StepBatch(1)) > 0
