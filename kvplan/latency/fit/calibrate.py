"""Measurements to a profile: fit every family, score it on what was held out, keep both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kvplan.errors import DataError, UsageError
from kvplan.latency.fit.accuracy import POINTS, Score, score_fitted
from kvplan.latency.fit.choose import hardware_of
from kvplan.latency.fit.families import fit_families
from kvplan.latency.fit.kernel_measurements import is_kernel_measurements
from kvplan.latency.fit.measured import calibrate_measured
from kvplan.latency.fit.measured_part import HeldOut
from kvplan.latency.fit.origin import of_one_gpu, provenance
from kvplan.latency.fit.possible import believable
from kvplan.latency.fit.profile_file import KernelPart, ProfileFile, kernel_part
from kvplan.latency.fit.tables import read_measurements

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
        places: tables or directories of tables, all of one GPU; or one file of kernel measurements.
        gpu: the GPU's spec when it is not the one the tables name.

    Raises:
        DataError: unusable measurements. UnknownName: no spec of that GPU. UsageError: a file of kernel
            measurements together with anything else.
    """
    if any(is_kernel_measurements(Path(place)) for place in places):
        if len(places) > 1:
            raise UsageError(
                "a file of kernel measurements is fitted by itself", where=", ".join(places),
                hint="calibrate once for each file",
            )  # fmt: skip
        own = calibrate_measured(
            Path(places[0]), gpu=gpu, name=name, points=points, source=source, license=license, url=url,
            progress=progress,
        )  # fmt: skip
        return own, []
    measured = read_measurements(places)
    spec, families, others = of_one_gpu(measured.families, gpu)
    hardware = hardware_of(spec)
    families, doubts = believable(
        families, hardware.bandwidth_bytes_per_s, hardware.l2_bytes, dict(spec.peak_flops)
    )
    notes = [*measured.notes, *others, *doubts]
    parts: list[KernelPart] = []
    scores: list[Score] = []
    for fitted in fit_families(families, spec, points, lambda why: notes.append(f"left out: {why}")):
        family = fitted.family
        found = score_fitted(fitted, spec)
        scores += found
        held = None
        if found:
            held = HeldOut(
                trained=found[0].trained, tested=found[0].tested, median=round(found[0].median, 5),
                p90=round(found[0].p90, 5), coverage=round(found[0].coverage, 5),
            )  # fmt: skip
        parts.append(kernel_part(family.op, family.labels, fitted.kernel, family.version, held))
        progress(family.title)
    if not parts:
        raise DataError("no kernel has enough measurements to be fitted", hint="; ".join(notes) or None)
    profile = ProfileFile(
        schema="kvplan.profile/1",
        name=name or spec.name,
        gpu=spec.name,
        provenance=provenance(measured.inputs, points, source, license, url),
        notes=notes,
        kernels=parts,
    )
    return profile, scores
