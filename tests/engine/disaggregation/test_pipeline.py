"""Stages in a line, in closed form against piece by piece."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.engine.disaggregation.pipeline import through

SECONDS = st.floats(0, 10, allow_nan=False)


def piece_by_piece(ready: list[float], free: float, seconds: float) -> list[float]:
    done = free
    left = []
    for moment in ready:
        done = max(moment, done) + seconds
        left.append(done)
    return left


@settings(max_examples=200)
@given(
    pieces=st.integers(1, 80),
    begin=SECONDS,
    compute=SECONDS,
    held_up=SECONDS,
    stages=st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=4),
)
def test_first_and_last_piece_say_it_all(
    pieces: int, begin: float, compute: float, held_up: float, stages: list[tuple[float, float]]
) -> None:
    """Layers that are computed evenly, wait for the receiver, and pass several stages."""
    ready = [max(begin + (number + 1) * compute, held_up) for number in range(pieces)]
    first, last = ready[0], ready[-1]
    for free, seconds in stages:
        ready = piece_by_piece(ready, free, seconds)
        first, last, _ = through(first, last, pieces, free, seconds)
        assert first == pytest.approx(ready[0], rel=1e-12, abs=1e-12)
        assert last == pytest.approx(ready[-1], rel=1e-9, abs=1e-9)


@settings(max_examples=200)
@given(layers=st.integers(1, 128), prefill=st.floats(1e-6, 100), transfer=st.floats(1e-6, 100))
def test_streaming_by_layer_takes_the_longer_of_both_and_one_layer(
    layers: int, prefill: float, transfer: float
) -> None:
    layer_prefill, layer_transfer = prefill / layers, transfer / layers
    _, last, _ = through(layer_prefill, prefill, layers, 0.0, layer_transfer)
    expected = max(prefill, transfer) + min(layer_prefill, layer_transfer)
    assert last == pytest.approx(expected, rel=1e-9)


@given(layers=st.integers(1, 64), seconds=SECONDS, free=SECONDS)
def test_a_stage_is_taken_as_long_as_it_works(layers: int, seconds: float, free: float) -> None:
    _, _, taken = through(1.0, 9.0, layers, free, seconds)
    assert taken == max(1.0, free) + layers * seconds


def test_one_piece_is_a_plain_queue() -> None:
    assert through(3.0, 3.0, 1, 5.0, 2.0) == (7.0, 7.0, 7.0)
    assert through(6.0, 6.0, 1, 5.0, 2.0) == (8.0, 8.0, 8.0)
