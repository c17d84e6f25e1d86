"""The machine behind the kernels: ceilings, host copies and cache writers, as few numbers each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kvplan.errors import DataError
from kvplan.latency.fit.kernel_measurements import Ceiling, KernelMeasurements, Point
from kvplan.latency.fit.measured_part import Ceilings, HostCopy, Writer
from kvplan.latency.fit.possible import L2_MULTIPLE, MAX_RATE
from kvplan.latency.fit.solve import Parameter, least_squares
from kvplan.latency.fit.structure import Hardware


def check_possible(read: KernelMeasurements, hardware: Hardware, where: str) -> None:
    """Refuse measurements that move bytes faster than the memory of that GPU can.

    Raises:
        DataError: naming the row and the rate it implies.
    """
    for section in ("ceilings", "points"):
        for index, row in enumerate(getattr(read, section)):
            if isinstance(row, Ceiling):
                size = row.bytes or 0 if row.key in ("copy", "read") else 0
            else:
                size = row.kv_bytes if row.op in ("decode", "mla") else 0
            rate = size / row.median_s / hardware.bandwidth_bytes_per_s
            if size > L2_MULTIPLE * hardware.l2_bytes and rate > MAX_RATE:
                raise DataError(
                    f"{row.key} implies {rate:.0%} of the memory bandwidth of {hardware.name}",
                    where=f"{where}: {section}[{index}].median_s",
                    hint="these are no times of whole calls, or of another GPU: see --gpu-spec",
                )


def ceilings(rows: Sequence[Ceiling]) -> Ceilings:
    """Copy, read, the best matrix product of each dtype, launches, and host copies as latency and rate."""
    by_key = {row.key: row for row in rows}

    def rate(key: str) -> float | None:
        row = by_key.get(key)
        return None if row is None or row.bytes is None else _short(row.bytes / row.median_s)

    matmul: dict[str, float] = {}
    for row in rows:
        if row.key.startswith("matmul_") and row.flops is not None:
            dtype = row.key.removeprefix("matmul_").partition("/")[0][:60]
            matmul[dtype] = max(matmul.get(dtype, 0.0), _short(row.flops / row.median_s))
    launches = {
        row.key.removeprefix("launch/")[:60]: _short(row.median_s)
        for row in rows
        if row.key.startswith("launch/")
    }
    return Ceilings(
        copy_bytes_per_s=rate("copy"), read_bytes_per_s=rate("read"), matmul_flops=matmul,
        launch_s=launches, host=host_copies(rows),
    )  # fmt: skip


def host_copies(rows: Iterable[Ceiling]) -> list[HostCopy]:
    """``latency + bytes / rate`` of each direction and kind of host memory that was timed at two sizes."""
    kinds: dict[tuple[str, bool], list[tuple[int, float]]] = {}
    for row in rows:
        if row.key.startswith("host/") and row.direction and row.bytes and row.pinned is not None:
            kinds.setdefault((row.direction, row.pinned), []).append((row.bytes, row.median_s))
    found = []
    for (direction, pinned), timed in sorted(kinds.items()):
        line = _line(timed)
        if line is not None:
            points = [(size, _short(seconds)) for size, seconds in sorted(timed)]
            found.append(
                HostCopy(
                    direction=direction,  # type: ignore[arg-type]
                    pinned=pinned, latency_s=line[0], bytes_per_s=line[1], points=points,
                )
            )  # fmt: skip
    return found


def writers(points: Iterable[Point]) -> dict[str, Writer]:
    """What writing new tokens costs, by format, where it was timed at two sizes."""
    timed: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        if point.op in ("write", "mla_write"):
            moved = float(point.kv_bytes + point.io_bytes)
            timed.setdefault(point.format, []).append((moved, point.median_s))
    found = {}
    for name, pairs in timed.items():
        line = _line(pairs)
        if line is not None:
            found[name] = Writer(launch_s=line[0], bytes_per_s=line[1], points=len(pairs))
    return found


def _line(timed: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """(seconds at no bytes, bytes per second), fitted to relative errors; None with fewer than two sizes."""
    if len({size for size, _ in timed}) < 2:
        return None
    sizes, seconds = np.array(timed).T
    largest, least = int(np.argmax(sizes)), float(seconds.min())
    rate = float(sizes[largest] / seconds[largest])
    unknown = [
        Parameter("latency_s", least, 1e-3 * least, 2.0 * least),
        Parameter("bytes_per_s", rate, 0.2 * rate, 50.0 * rate),
    ]
    found = least_squares(lambda p: p[0] + sizes / p[1], seconds, unknown, restarts=2)
    return _short(float(found.values[0])), _short(float(found.values[1]))


def _short(value: float) -> float:
    return float(f"{value:.6g}")
