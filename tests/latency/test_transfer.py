"""Channels: laws of time, where their curves come from, what quantizing costs, what they state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import SpecError, UnknownName, UsageError
from kvplan.latency.curve import ISSUE_S
from kvplan.latency.fit.profile_file import read_profile
from kvplan.latency.transfer import (
    CONVERT_LAUNCH_S,
    GRADE_BANDS,
    MEASURED_BAND,
    PCIE_LATENCY_S,
    Channel,
    device_to_host,
    disk,
    host_to_device,
    network,
    quantized,
)
from kvplan.specs.catalog import load_gpu

MIB = 1 << 20
H100 = load_gpu("h100-sxm")
CHANNELS = [
    host_to_device(H100),
    device_to_host(H100, lanes=4),
    disk("nvme-gen5", lanes=2),
    network("roce-8x200"),
    quantized(network("ib-ndr"), H100, ratio=0.5),
]
sizes = st.integers(1, 1 << 42)
counts = st.integers(1, 100_000)


@given(channel=st.sampled_from(CHANNELS), first=sizes, second=sizes, one=counts, two=counts)
def test_time_is_positive_and_rises_with_bytes_and_operations(
    channel: Channel, first: int, second: int, one: int, two: int
) -> None:
    small, large = sorted((first, second))
    few, many = sorted((one, two))
    assert channel.seconds(0) == 0.0
    assert 0 < channel.seconds(small, few) <= channel.seconds(large, few) * (1 + 1e-12)
    assert channel.seconds(small, few) <= channel.seconds(small, many)


@given(channel=st.sampled_from(CHANNELS), size=sizes, normal=st.floats(-3, 3))
def test_members_of_an_ensemble_stay_in_the_band_nine_times_in_ten(
    channel: Channel, size: int, normal: float
) -> None:
    ratio = channel.perturbed(normal).seconds(size) / channel.seconds(size)
    low, high = channel.band
    if abs(normal) <= 1.645:
        assert 1 + low - 1e-9 <= ratio <= 1 + high + 1e-9
    assert (ratio - 1.0) * normal >= -1e-9


def test_a_lane_more_moves_large_transfers_faster_and_small_ones_no_slower() -> None:
    one, four = host_to_device(H100), host_to_device(H100, lanes=4)
    assert one.seconds(1 << 36) / four.seconds(1 << 36) == pytest.approx(4.0, rel=1e-3)
    assert four.seconds(4096) <= one.seconds(4096)
    assert four.bandwidth_bytes_per_s == 4 * one.bandwidth_bytes_per_s
    with pytest.raises(UsageError, match="at least one lane"):
        host_to_device(H100, lanes=0)


def test_without_a_profile_the_pcie_of_the_gpu_counts() -> None:
    up, down = host_to_device(H100), device_to_host(H100)
    assert up.bandwidth_bytes_per_s == pytest.approx(55e9)
    assert up.seconds(1 << 30) == down.seconds(1 << 30) == pytest.approx(PCIE_LATENCY_S + (1 << 30) / 55e9)
    assert up.seconds(64, 1000) == pytest.approx(PCIE_LATENCY_S + 999 * ISSUE_S)
    assert "PCIe of h100-sxm" in up.assumptions()[0].source


def test_a_link_replaces_the_pcie() -> None:
    coherent = host_to_device(load_gpu("gh200"), link="nvlink-c2c")
    assert coherent.bandwidth_bytes_per_s == pytest.approx(450e9)
    assert coherent.band == GRADE_BANDS["datasheet"]
    with pytest.raises(UnknownName):
        network("carrier-pigeon")


def test_a_gpu_that_does_not_say_how_it_reaches_its_host_needs_a_link() -> None:
    bare = H100.model_copy(
        update={"interconnect": H100.interconnect.model_copy(update={"pcie_bytes_per_s": None})}
    )
    with pytest.raises(SpecError, match="does not say how it reaches its host"):
        host_to_device(bare)
    assert host_to_device(bare, link="pcie5-x16").bandwidth_bytes_per_s == pytest.approx(55e9)


def test_timed_copies_of_a_profile_come_first_in_each_direction(own_profile: Path) -> None:
    profile = read_profile(own_profile)
    assert profile.measured is not None
    for copy in [copy for copy in profile.measured.ceilings.host if copy.pinned]:
        make = host_to_device if copy.direction == "to_device" else device_to_host
        channel = make(H100, profile=profile, link="pcie3-x16")
        assert len(copy.points) == 3
        for size, seconds in copy.points:
            assert channel.seconds(size) == pytest.approx(seconds)
        assert channel.band == MEASURED_BAND
        assert "timed for the profile" in channel.source


def test_a_profile_that_keeps_no_points_gives_its_line(own_profile: Path, tmp_path: Path) -> None:
    document = json.loads(own_profile.read_text())
    for copy in document["measured"]["ceilings"]["host"]:
        del copy["points"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))
    channel = host_to_device(H100, profile=str(path))
    timed = host_to_device(H100, profile=str(own_profile))
    assert channel.seconds(64 * MIB) == pytest.approx(timed.seconds(64 * MIB), rel=0.1)


def test_a_profile_without_timed_copies_is_passed_over_and_says_so() -> None:
    channel = host_to_device(H100, profile="h100-sxm")
    assert channel.seconds(MIB) == host_to_device(H100).seconds(MIB)
    assert "the profile h100-sxm has no timed pinned copies" in channel.assumptions()[0].source


def test_a_profile_of_another_gpu_is_refused() -> None:
    with pytest.raises(SpecError, match="measured on h100-sxm, not on a100-80g"):
        host_to_device(load_gpu("a100-80g"), profile="h100-sxm")


def test_quantizing_halves_the_wire_and_pays_at_memory_speed() -> None:
    plain = device_to_host(H100)
    half = quantized(plain, H100, ratio=0.5)
    size = 1 << 30
    assert half.wire_bytes(size) == size // 2
    assert half.convert_seconds(size) == pytest.approx(CONVERT_LAUNCH_S + 1.5 * size / (0.8 * 3.35e12))
    assert half.seconds(size, 10) == half.convert_seconds(size) + plain.seconds(size // 2, 10)
    assert half.seconds(size) < plain.seconds(size)
    assert half.convert_seconds(0) == half.seconds(0) == 0.0
    assert [item.name for item in half.assumptions()][-1] == "transfer.device to host.convert"


@given(st.integers(0, 1 << 36), st.sampled_from([2, 4, 8]))
def test_every_gpu_converts_what_goes_over_its_own_lane(size: int, lanes: int) -> None:
    alone = quantized(device_to_host(H100), H100, ratio=0.5)
    together = quantized(device_to_host(H100, lanes=lanes), H100, ratio=0.5)
    assert together.convert_seconds(lanes * 2 * size) == pytest.approx(alone.convert_seconds(2 * size))


@pytest.mark.parametrize("changes", [{"ratio": 0.0}, {"ratio": float("nan")}])
def test_no_such_quantizing(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        quantized(network("ib-ndr"), H100, **changes)  # type: ignore[arg-type]
