"""Measurements to a profile: fit every family, score it on what was held out, keep both."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from kvplan.errors import DataError
from kvplan.latency.fit.accuracy import POINTS, Score, score_fitted
from kvplan.latency.fit.choose import hardware_of, structure_for
from kvplan.latency.fit.kernel import designed_rows, fit_kernel, take
from kvplan.latency.fit.profile_file import HeldOut, KernelPart, ProfileFile, kernel_part
from kvplan.latency.fit.tables import check_rates, read_measurements
from kvplan.specs.catalog import load_gpu

UPSTREAM = "NVIDIA aiconfigurator collectors"
UPSTREAM_URL = "https://github.com/ai-dynamo/aiconfigurator"


def calibrate(
    places: Sequence[str],
    *,
    gpu: str | None = None,
    name: str | None = None,
    points: int = POINTS,
    source: str = "measurements given by the user",
    license: str = "unknown",
    url: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[ProfileFile, list[Score]]:
    """Fit a profile; every kernel is fitted on at most ``points`` designed shapes.

    Args:
        places: tables or directories of tables, all of one GPU.
        gpu: the GPU's spec when it is not the one the tables name.

    Raises:
        DataError: unusable measurements. UnknownName: no spec of that GPU.
    """
    measured = read_measurements(places)
    devices = sorted({family.device for family in measured.families})
    if len(devices) > 1:
        raise DataError(
            f"measurements of several GPUs: {', '.join(devices)}", hint="calibrate one GPU at a time"
        )
    spec = load_gpu(gpu or devices[0])
    if gpu is not None and _knows(devices[0]) not in (None, spec.name):
        raise DataError(
            f"the measurements are of {devices[0]}, not of {spec.name}",
            hint="leave --gpu-spec out, or give the tables of that GPU",
        )
    hardware = hardware_of(spec)
    check_rates(measured.families, hardware.bandwidth_bytes_per_s, hardware.l2_bytes)
    notes = list(measured.notes)
    parts: list[KernelPart] = []
    scores: list[Score] = []
    for family in measured.families:
        structure = structure_for(family, spec)
        rows = designed_rows(structure, family.shapes, points)
        try:
            fitted = fit_kernel(structure, take(family.shapes, rows), family.seconds[rows])
        except DataError as exc:
            if family.seconds.size > len(structure.parameters()):
                raise
            notes.append(f"left out: {exc.message}")
            continue
        found = score_fitted(fitted, family, spec, rows)
        scores += found
        held = None
        if found:
            held = HeldOut(
                trained=found[0].trained, tested=found[0].tested, median=round(found[0].median, 5),
                p90=round(found[0].p90, 5), coverage=round(found[0].coverage, 5),
            )  # fmt: skip
        parts.append(kernel_part(family.op, family.labels, fitted, family.version, held))
        progress(family.title)
    if not parts:
        raise DataError("no kernel has enough measurements to be fitted", hint="; ".join(notes) or None)
    profile = ProfileFile(
        schema="kvplan.profile/1",
        name=name or spec.name,
        gpu=spec.name,
        provenance={  # type: ignore[arg-type]
            "source": source,
            "license": license,
            "url": url,
            "inputs": [
                {"path": _tail(item.path), "bytes": item.bytes, "sha256": item.sha256}
                for item in measured.inputs
            ],
            "command": shlex.join(["kvplan", "calibrate", "--points", str(points)]),
        },
        notes=notes,
        kernels=parts,
    )
    return profile, scores


def _knows(device: str) -> str | None:
    from kvplan.errors import UnknownName

    try:
        return load_gpu(device).name
    except UnknownName:
        return None


def _tail(path: str) -> str:
    """The last components of a path: enough to recognise a file, nothing about the machine."""
    return "/".join(path.replace("\\", "/").split("/")[-5:])
