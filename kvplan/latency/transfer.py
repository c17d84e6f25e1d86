"""How long bytes take between memories: host and device, node to node, disk; plain or in a smaller format.

::

    t(n, k) = max(t(n), latency + (k - 1) * issue)      n bytes in k operations over one curve
    quantized: (n + wire) / rate + t(wire, k)    converted at memory speed, fewer bytes on the way

Operations are issued one by one while earlier ones move, so their number matters only where they are too
small to hide the issuing. Nothing here overlaps with computing: that is for the caller to decide.

A ``Channel`` comes from ``host_to_device``, ``device_to_host``, ``disk`` or ``network``, and ``quantized``
wraps one; both have ``seconds(size, operations=1)``, a ``band`` and ``assumptions()``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from kvplan.errors import SpecError, UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.curve import (
    ISSUE_S,
    Link,
    MeasuredLink,
    SpecLink,
    checked_size,
    spec_link,
    transfer_seconds,
)

if TYPE_CHECKING:
    from kvplan.latency.fit.measured_part import HostCopy
    from kvplan.latency.fit.profile_file import ProfileFile
    from kvplan.specs.schema import GpuSpec, LinkSpec

Band = tuple[float, float]
"""Relative error (low, high) that nine transfers in ten stay within."""

DISK_ISSUE_S = 1e-5
"""Issuing one read or write of a file (assumed: an asynchronous queue takes about 100,000/s)."""
NETWORK_ISSUE_S = 1e-6
"""Posting one RDMA operation (assumed)."""
CONVERT_EFFICIENCY = 0.8
"""Share of a GPU's memory bandwidth at which a cache is converted to another number format (assumed)."""
CONVERT_LAUNCH_S = 5e-6
"""Launching the kernel that converts (assumed)."""
USABLE_PCIE = 55.0 / 63.015
"""Share of a PCIe link's raw rate that pinned copies reach: 55 of 63 GB/s measured on Gen5 x16."""
PCIE_LATENCY_S = 1e-5
"""Seconds of the smallest copy over PCIe (assumed, as in the bundled link specs)."""

MEASURED_BAND: Band = (-0.10, 0.15)
"""Copies of a profile: the same machine on another day (assumed)."""
GRADE_BANDS: dict[str, Band] = {
    "measured": (-0.15, 0.25), "datasheet": (-0.05, 0.50), "estimated": (-0.25, 0.40),
}  # fmt: skip
"""By what a link's figures are (assumed): a datasheet's rate is never exceeded and seldom reached."""
_Z90 = 1.645


class Transfer(Protocol):
    """A way for bytes, as whoever moves them needs to know it."""

    @property
    def name(self) -> str:
        """Which way, for reports."""
        ...

    @property
    def band(self) -> Band:
        """Relative error that nine transfers in ten stay within."""
        ...

    def seconds(self, size: int, operations: int = 1) -> float:
        """Until ``size`` bytes in ``operations`` copies have arrived: 0 for none; rises with both."""
        ...

    def assumptions(self) -> tuple[Assumption, ...]:
        """What is not measured, for the result."""
        ...


@dataclass(frozen=True, slots=True)
class Channel:
    """One way for bytes.

    Args:
        name: what it connects.
        curve: one lane.
        source: where the curve comes from.
        band: relative error nine times in ten.
        issue_s: seconds from one operation to the next.
        lanes: equal links side by side, such as the PCIe links of a tensor-parallel group.
        factor: times everything (members of an ensemble).
    """

    name: str
    curve: Link
    source: str
    band: Band
    issue_s: float = ISSUE_S
    lanes: int = 1
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.lanes < 1:
            raise UsageError(f"a transfer has at least one lane, not {self.lanes}")

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """What large transfers reach, all lanes together."""
        return self.curve.bandwidth_bytes_per_s * self.lanes / self.factor

    def seconds(self, size: int, operations: int = 1) -> float:
        """See ``Transfer``; ``size`` and ``operations`` are those of all lanes together.

        Raises:
            UsageError: a negative size, or less than one operation.
        """
        return self.factor * transfer_seconds(
            self.curve, size, pieces=operations, lanes=self.lanes, issue_s=self.issue_s
        )

    def given(self, latency_s: float | None, bandwidth_bytes_per_s: float | None) -> Channel:
        """The channel with figures of the scenario's own for a lane; None leaves its own."""
        if latency_s is None and bandwidth_bytes_per_s is None:
            return self
        curve = SpecLink(
            self.name,
            self.curve.latency_s if latency_s is None else latency_s,
            self.curve.bandwidth_bytes_per_s if bandwidth_bytes_per_s is None else bandwidth_bytes_per_s,
        )
        return replace(self, curve=curve, source=f"{self.source}, with the scenario's own figures")

    def perturbed(self, normal: float) -> Channel:
        """The channel a standard normal number of deviations slower: for members of an ensemble."""
        reach = math.log1p(self.band[1]) if normal >= 0 else -math.log1p(self.band[0])
        return replace(self, factor=self.factor * math.exp(normal * reach / _Z90))

    def assumptions(self) -> tuple[Assumption, ...]:
        """Curve, band and the cost of an operation."""
        rate = (
            f"{self.curve.latency_s * 1e6:.3g} us + bytes / {self.curve.bandwidth_bytes_per_s / 1e9:.4g} GB/s"
        )
        lanes = f", {self.lanes} side by side" if self.lanes > 1 else ""
        low, high = self.band
        return (
            Assumption(
                f"transfer.{self.name}", rate + lanes,
                f"{self.source}; within {low:+.0%} to {high:+.0%} nine times in ten",
            ),
            Assumption(
                f"transfer.{self.name}.issue_s", self.issue_s, "from one operation to the next, assumed"
            ),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantized:
    """A channel that carries fewer bytes than are stored, converted on a GPU.

    Args:
        channel: what carries them.
        ratio: bytes on the wire per byte stored.
        rate: bytes/s, read and written together, at which they are converted.
    """

    channel: Channel
    ratio: float
    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio < math.inf or not 0 < self.rate < math.inf:
            raise UsageError(
                f"a quantized transfer needs a ratio and a rate > 0, not {self.ratio!r} and {self.rate!r}"
            )

    @property
    def name(self) -> str:
        """See ``Transfer``."""
        return f"{self.channel.name}, quantized"

    @property
    def band(self) -> Band:
        """The channel's: converting is the smaller part wherever quantizing pays."""
        return self.channel.band

    def wire_bytes(self, size: int) -> int:
        """Bytes that travel for ``size`` bytes stored."""
        return math.ceil(size * self.ratio)

    def convert_seconds(self, size: int) -> float:
        """Reading and writing once."""
        if not checked_size(size):
            return 0.0
        return CONVERT_LAUNCH_S + (size + self.wire_bytes(size)) / self.rate

    def seconds(self, size: int, operations: int = 1) -> float:
        """See ``Transfer``; ``size`` counts bytes as stored. Converting does not overlap with moving."""
        return self.convert_seconds(size) + self.channel.seconds(self.wire_bytes(size), operations)

    def perturbed(self, normal: float) -> Quantized:
        """As ``Channel.perturbed``."""
        return replace(self, channel=self.channel.perturbed(normal))

    def assumptions(self) -> tuple[Assumption, ...]:
        """The channel's, and the rate of converting."""
        return (
            *self.channel.assumptions(),
            Assumption(
                f"transfer.{self.channel.name}.convert", f"{self.rate / 1e9:.4g} GB/s",
                "bytes read and written when converting, not overlapped with moving; assumed",
            ),
        )  # fmt: skip


Way = TypeVar("Way")


def slower(way: Way, normal: float) -> Way:
    """``perturbed`` of a channel, plain or quantized; any other carrier as it is."""
    return cast("Way", way.perturbed(normal)) if isinstance(way, (Channel, Quantized)) else way


# -- where channels come from -----------------------------------------------------------------------------


def host_to_device(
    gpu: GpuSpec,
    *,
    link: LinkSpec | str | None = None,
    profile: ProfileFile | str | None = None,
    lanes: int = 1,
) -> Channel:
    """Copies from pinned host memory to a GPU: timed ones of the profile, else the link, else the GPU's PCIe.

    Args:
        link: how the GPU reaches its host where it is not the PCIe of its spec (``nvlink-c2c``).
        profile: of this GPU; one without timed host copies is passed over, and ``source`` says so.
        lanes: GPUs of a replica that copy at a time, each over its own link.

    Raises:
        SpecError: the profile is of another GPU; neither profile, link nor GPU spec says a rate.
        UnknownName: no such link or profile.
    """
    return _host("to_device", gpu, link, profile, lanes)


def device_to_host(
    gpu: GpuSpec,
    *,
    link: LinkSpec | str | None = None,
    profile: ProfileFile | str | None = None,
    lanes: int = 1,
) -> Channel:
    """Copies from a GPU to host memory; arguments and errors as ``host_to_device``."""
    return _host("to_host", gpu, link, profile, lanes)


def disk(link: LinkSpec | str = "nvme-gen4", *, lanes: int = 1) -> Channel:
    """Reads or writes of a drive; ``lanes`` drives side by side."""
    spec = _link(link)
    return Channel(spec.name, spec_link(spec), _spec_source(spec), _spec_band(spec), DISK_ISSUE_S, lanes)


def network(link: LinkSpec | str, *, lanes: int = 1) -> Channel:
    """Node to node or GPU to GPU; ``lanes`` equal adapters side by side."""
    spec = _link(link)
    return Channel(spec.name, spec_link(spec), _spec_source(spec), _spec_band(spec), NETWORK_ISSUE_S, lanes)


def quantized(channel: Channel, gpu: GpuSpec, *, ratio: float) -> Quantized:
    """The channel with bytes converted on ``gpu`` before (or after) they travel.

    Args:
        ratio: bytes on the wire per byte stored; ``kvplan.latency.kv_transfer.wire_ratio`` gives that of two
            cache formats.
    """
    rate = gpu.bandwidth_bytes_per_s * CONVERT_EFFICIENCY
    return Quantized(channel, ratio, rate * channel.lanes)


def _host(
    direction: str,
    gpu: GpuSpec,
    link: LinkSpec | str | None,
    profile: ProfileFile | str | None,
    lanes: int,
) -> Channel:
    name = {"to_device": "host to device", "to_host": "device to host"}[direction]
    found = _profile(profile, gpu)
    passed = ""
    if found is not None:
        copies = [] if found.measured is None else found.measured.ceilings.host
        timed = next((copy for copy in copies if copy.pinned and copy.direction == direction), None)
        if timed is not None:
            source = f"pinned copies timed for the profile {found.name}"
            return Channel(
                name, _timed(timed, f"{found.name}: {name}"), source, MEASURED_BAND, ISSUE_S, lanes
            )
        passed = f"; the profile {found.name} has no timed pinned copies {direction}"
    if link is not None:
        spec = _link(link)
        curve, source, band = spec_link(spec), _spec_source(spec), _spec_band(spec)
    else:
        raw = gpu.interconnect.pcie_bytes_per_s
        if raw is None:
            raise SpecError(
                f"the spec of {gpu.name} does not say how it reaches its host",
                where=f"gpus/{gpu.name}: interconnect.pcie_bytes_per_s",
                hint="name a link, for example pcie5-x16",
            )
        curve = SpecLink(f"{gpu.name} PCIe", PCIE_LATENCY_S, raw * USABLE_PCIE)
        source, band = f"the PCIe of {gpu.name} at {USABLE_PCIE:.0%} of its raw rate", GRADE_BANDS["measured"]
    return Channel(name, curve, source + passed, band, ISSUE_S, lanes)


def _timed(copy: HostCopy, name: str) -> Link:
    """The curve through the timed points, or the line fitted to them where a profile keeps no points."""
    if len({size for size, _ in copy.points}) >= 2:
        return MeasuredLink(name, copy.points)
    return SpecLink(name, copy.latency_s, copy.bytes_per_s)


def _profile(profile: ProfileFile | str | None, gpu: GpuSpec) -> ProfileFile | None:
    if isinstance(profile, str):
        # Only a named profile is read: planning from specs needs no numpy.
        from kvplan.latency.fit.profile_file import read_profile
        from kvplan.latency.profile import profile_path

        profile = read_profile(profile_path(profile))
    if profile is not None and profile.gpu != gpu.name:
        raise SpecError(
            f"the profile {profile.name!r} was measured on {profile.gpu}, not on {gpu.name}",
            where="latency.name", hint=f"use a profile of {gpu.name}, or none",
        )  # fmt: skip
    return profile


def _link(link: LinkSpec | str) -> LinkSpec:
    if not isinstance(link, str):
        return link
    from kvplan.specs.catalog import load_link

    return load_link(link)


def _spec_source(spec: LinkSpec) -> str:
    return f"link spec {spec.name} ({spec.source.grade})"


def _spec_band(spec: LinkSpec) -> Band:
    return GRADE_BANDS.get(spec.source.grade, GRADE_BANDS["estimated"])
