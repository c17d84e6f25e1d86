"""Members of an ensemble: reproducible draws, and a design whose spread is what it should be."""

import math

import pytest

from kvplan.latency.normals import DIMENSIONS, design, normals


@pytest.mark.parametrize("members", [2, 4, 8, 32])
def test_every_dimension_has_mean_zero_and_mean_square_one(members):
    for column in zip(*design(members, 5, "7/ensemble"), strict=True):
        assert math.fsum(column) == pytest.approx(0.0, abs=1e-9)
        assert math.fsum(z * z for z in column) / members == pytest.approx(1.0)


def test_dimensions_are_hardly_correlated():
    columns = list(zip(*design(8, 5, "0/ensemble"), strict=True))
    for first in range(5):
        for second in range(first):
            dot = sum(a * b for a, b in zip(columns[first], columns[second], strict=True)) / 8
            assert abs(dot) < 0.25


def test_a_design_repeats_by_its_seed_and_differs_by_it():
    assert design(8, 5, "1/ensemble") == design(8, 5, "1/ensemble") != design(8, 5, "2/ensemble")


def test_numbers_come_from_a_seed_or_as_given():
    drawn = normals(3, "stream")
    again = normals(3, "stream")
    assert [drawn() for _ in range(4)] == [again() for _ in range(4)]
    assert normals(3, "other")() != normals(3, "stream")()
    given = normals((0.5, -1.0), "stream")
    assert (given(), given()) == (0.5, -1.0)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_the_middle_of_the_design_is_the_clock_itself(clock_of, kind):
    from kvplan.engine.protocols import StepBatch

    clock = clock_of(kind)
    batch = StepBatch(576, 64_000, 64, 64_000, [(0, 512)], 65)
    middle = clock.perturbed((0.0,) * DIMENSIONS).step_seconds(batch)
    assert middle == pytest.approx(clock.model.step_seconds(batch), rel=1e-12)
    slow = clock.perturbed((1.0,) * DIMENSIONS).step_seconds(batch)
    assert slow > middle > clock.perturbed((-1.0,) * DIMENSIONS).step_seconds(batch)
