"""Curves of one way: laws of every link, figures that were measured elsewhere, refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import DataError, UsageError
from kvplan.latency.curve import (
    ISSUE_S,
    MeasuredLink,
    SpecLink,
    spec_link,
    transfer_seconds,
)
from kvplan.specs.catalog import load_link

MIB = 1 << 20
POINTS = [(MIB, 40e-6), (16 * MIB, 330e-6), (256 * MIB, 5.0e-3)]
sizes = st.integers(1, 1 << 40)
spec_links = st.builds(SpecLink, st.just("any"), st.floats(0, 1e-2), st.floats(1e6, 1e13))
measured_links = st.builds(
    MeasuredLink,
    st.just("measured"),
    st.lists(
        st.tuples(st.integers(1, 1 << 34), st.floats(1e-7, 10.0)),
        min_size=2,
        max_size=8,
        unique_by=lambda p: p[0],
    ),
)


@given(link=spec_links | measured_links, first=sizes, second=sizes, pieces=st.integers(1, 10_000))
def test_time_is_positive_and_never_falls(link, first, second, pieces):
    small, large = sorted((first, second))
    assert link.seconds(0) == transfer_seconds(link, 0) == 0.0
    assert 0 < link.seconds(small) <= link.seconds(large) * (1 + 1e-9)
    one, many = transfer_seconds(link, small), transfer_seconds(link, small, pieces=pieces)
    assert one <= many
    assert many <= transfer_seconds(link, large, pieces=pieces) * (1 + 1e-9)
    assert transfer_seconds(link, large, lanes=4) <= transfer_seconds(link, large) * (1 + 1e-9)


@given(latency=st.floats(0, 1e-3), rate=st.floats(1e9, 1e12))
def test_twice_the_bandwidth_halves_large_transfers_and_leaves_the_latency(latency, rate):
    one, two = SpecLink("one", latency, rate), SpecLink("two", latency, 2 * rate)
    size = 1 << 50
    assert (one.seconds(size) - latency) / (two.seconds(size) - latency) == pytest.approx(2.0)
    assert two.seconds(1) >= latency


def test_half_of_the_bandwidth_is_reached_at_the_knee():
    link = SpecLink("pcie", 10e-6, 55e9)
    size = round(link.latency_s * link.bandwidth_bytes_per_s)
    assert size / link.seconds(size) == pytest.approx(55e9 / 2, rel=1e-4)
    assert size / 10 / link.seconds(size // 10) < 55e9 / 10


def test_rdma_between_nodes_is_as_measured():
    link = spec_link(load_link("roce-8x200"))
    assert 20e6 / link.seconds(20_000_000) == pytest.approx(36.5e9, rel=0.02)
    assert 4.5e9 / link.seconds(4_500_000_000) == pytest.approx(142e9, rel=0.02)


def test_pcie_generation_5_moves_twice_what_4_does():
    size = 4 << 30
    ratio = spec_link(load_link("pcie4")).seconds(size) / spec_link(load_link("pcie5")).seconds(size)
    assert 1.8 < ratio < 2.3


def test_a_measured_curve_passes_through_its_points_and_goes_on():
    link = MeasuredLink("host", POINTS)
    for size, seconds in POINTS:
        assert link.seconds(size) == pytest.approx(seconds)
    assert 330e-6 < link.seconds(64 * MIB) < 5.0e-3
    assert link.seconds(512 * MIB) == pytest.approx(10.0e-3)
    assert link.latency_s < link.seconds(4096) < 40e-6
    assert link.bandwidth_bytes_per_s == pytest.approx(256 * MIB / 5.0e-3)


def test_a_noisy_point_never_makes_more_bytes_faster():
    link = MeasuredLink("host", [(100, 3e-6), (200, 1e-6), (400, 4e-6)])
    assert link.seconds(200) == pytest.approx(3e-6)
    assert link.seconds(150) <= link.seconds(200) <= link.seconds(300)


@pytest.mark.parametrize(
    "points", [[], [(MIB, 1e-3)], [(MIB, 1e-3), (MIB, 2e-3)], [(MIB, -1.0), (2 * MIB, 1.0)], [(0, 1.0), (1, 1.0)],
               [(MIB, float("nan")), (2 * MIB, 1.0)], [(MIB, float("inf")), (2 * MIB, 1.0)]],
)  # fmt: skip
def test_what_is_no_curve_is_refused(points):
    with pytest.raises(DataError):
        MeasuredLink("host", points)


@given(sizes, st.integers(1, 10_000), st.sampled_from([2, 4, 8]))
def test_every_lane_issues_its_own_pieces(size, pieces, lanes):
    link = SpecLink("pcie", 1e-5, 5e10)
    alone = transfer_seconds(link, size, pieces=pieces)
    assert transfer_seconds(link, lanes * size, pieces=lanes * pieces, lanes=lanes) == alone


def test_many_small_pieces_are_bound_by_issuing_them():
    link = SpecLink("pcie", 10e-6, 55e9)
    assert transfer_seconds(link, 10_000 * 4096, pieces=10_000) == pytest.approx(10e-6 + 9_999 * ISSUE_S)
    assert transfer_seconds(link, 10_000 * MIB, pieces=10_000) == link.seconds(10_000 * MIB)


@pytest.mark.parametrize(("size", "options"), [(-1, {}), (1, {"pieces": 0}), (1, {"lanes": 0})])
def test_no_such_transfer(size, options):
    with pytest.raises(UsageError):
        transfer_seconds(SpecLink("pcie", 1e-5, 5e10), size, **options)


@pytest.mark.parametrize(
    ("latency", "rate"), [(-1.0, 1e9), (0.0, 0.0), (float("nan"), 1e9), (0.0, float("inf"))]
)
def test_no_such_link(latency, rate):
    with pytest.raises(UsageError):
        SpecLink("bad", latency, rate)
