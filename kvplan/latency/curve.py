"""The time of one copy over one way, by its size: from a link's spec, or from copies that were timed.

::

    t(n) = latency + n / bandwidth            a link from its spec
    t(n) = the measured curve                 a link that was timed: straight lines in log-log
    t(n, k) = max(t(n), latency + (k - 1) * issue)      in k copies, each issued while earlier ones move

Both curves have the knee that small copies show: at ``latency * bandwidth`` bytes a link moves half of what
it can.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvplan.errors import DataError, UsageError

if TYPE_CHECKING:
    from kvplan.specs.schema import LinkSpec

ISSUE_S = 2e-6
"""Issuing one asynchronous copy from the CPU (assumed: a driver call takes 1 to 4 us)."""


class Link(Protocol):
    """A way between two memories, one direction."""

    @property
    def name(self) -> str:
        """Which one, for reports."""
        ...

    @property
    def latency_s(self) -> float:
        """Seconds of the smallest copy."""
        ...

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """What large copies reach."""
        ...

    def seconds(self, size: int) -> float:
        """Seconds of one copy of ``size`` bytes: 0 for none, else positive and rising with the size."""
        ...


@dataclass(frozen=True, slots=True)
class SpecLink:
    """A link of known latency and usable bandwidth."""

    name: str
    latency_s: float
    bandwidth_bytes_per_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < math.inf or not 0 < self.bandwidth_bytes_per_s < math.inf:
            raise UsageError(
                f"link {self.name!r} needs a latency >= 0 s and a bandwidth > 0 bytes/s, not "
                f"{self.latency_s!r} and {self.bandwidth_bytes_per_s!r}"
            )

    def seconds(self, size: int) -> float:
        """See ``Link``."""
        return self.latency_s + size / self.bandwidth_bytes_per_s if checked_size(size) else 0.0


class MeasuredLink:
    """A link that was timed at several sizes: straight lines in log-log between the points.

    Below the smallest size a straight line leads to the latency that the first two points suggest; beyond
    the largest the time grows at the rate of the largest. A point faster than a smaller one (noise) counts as
    slow as the smaller one, so that time never falls.

    Args:
        name: for reports.
        points: ``(bytes, seconds)``, at least two sizes.

    Raises:
        DataError: fewer than two sizes, or a size or time that is not positive and finite.
    """

    def __init__(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        for size, seconds in points:
            if not (0 < size < math.inf and 0 < seconds < math.inf):
                raise DataError(
                    f"a transfer of {size!r} bytes in {seconds!r} s was not measured", where=name,
                    hint="sizes and times are positive and finite",
                )  # fmt: skip
        best: dict[int, list[float]] = {}
        for size, seconds in points:
            best.setdefault(size, []).append(seconds)
        if len(best) < 2:
            raise DataError(
                f"a curve needs two sizes at least, not {len(best)}", where=name,
                hint="measure again with kvplan calibrate --gpu",
            )  # fmt: skip
        self.name = name
        self._sizes = sorted(best)
        times = [sorted(best[size])[len(best[size]) // 2] for size in self._sizes]
        for index in range(1, len(times)):
            times[index] = max(times[index], times[index - 1])
        self._log_sizes = [math.log(size) for size in self._sizes]
        self._log_times = [math.log(seconds) for seconds in times]
        self._rate = self._sizes[-1] / times[-1]
        first_rate = (self._sizes[1] - self._sizes[0]) / max(times[1] - times[0], 1e-12)
        self.latency_s = max(times[0] - self._sizes[0] / first_rate, 0.0)
        self._first_s = times[0]

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """At the largest size."""
        return self._rate

    def seconds(self, size: int) -> float:
        """See ``Link``."""
        if not checked_size(size):
            return 0.0
        if size <= self._sizes[0]:
            share = size / self._sizes[0]
            return self.latency_s + (self._first_s - self.latency_s) * share
        if size >= self._sizes[-1]:
            return math.exp(self._log_times[-1]) + (size - self._sizes[-1]) / self._rate
        x = math.log(size)
        after = bisect_right(self._log_sizes, x)
        (x0, x1), (y0, y1) = self._log_sizes[after - 1 : after + 1], self._log_times[after - 1 : after + 1]
        return math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0))


def spec_link(spec: LinkSpec) -> SpecLink:
    """The link of a bundled or user's spec (``kvplan.specs.catalog.load_link``)."""
    return SpecLink(spec.name, spec.latency_s, spec.bandwidth_bytes_per_s)


def checked_size(size: int) -> bool:
    """Whether there is anything to move.

    Raises:
        UsageError: a negative size.
    """
    if size < 0:
        raise UsageError(f"a transfer has no {size} bytes")
    return size > 0


def transfer_seconds(
    link: Link, size: int, *, pieces: int = 1, lanes: int = 1, issue_s: float = ISSUE_S
) -> float:
    """Seconds until ``size`` bytes have arrived.

    Args:
        link: one lane.
        size: bytes of all lanes together.
        pieces: copies they are moved in (blocks times layers where pages are not contiguous).
        lanes: equal links side by side.
        issue_s: seconds from one copy to the next.

    Raises:
        UsageError: a negative size, or less than one piece or lane.
    """
    if pieces < 1 or lanes < 1:
        raise UsageError(f"a transfer has at least one piece and one lane, not {pieces} and {lanes}")
    if not checked_size(size):
        return 0.0
    each = -(-size // lanes)
    return max(link.seconds(each), link.latency_s + (-(-pieces // lanes) - 1) * issue_s)
