"""Which GPU measurements are of, and where a profile says they come from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kvplan.errors import DataError, UnknownName
from kvplan.latency.fit.profile_file import ProvenancePart
from kvplan.latency.fit.tables import Family
from kvplan.provenance import InputFile
from kvplan.specs.catalog import load_gpu
from kvplan.specs.schema import GpuSpec


def spec_of(device: str, gpu: str | None) -> GpuSpec:
    """The spec of the GPU that was measured, which ``gpu`` may name when the device's name is unknown.

    Raises:
        UnknownName: no such spec. DataError: the device has none, or ``gpu`` is another than was measured.
    """
    try:
        spec = load_gpu(gpu or device)
    except UnknownName as exc:
        if gpu is not None:
            raise
        raise DataError(
            f"the measurements are of {device!r}, a GPU that has no spec",
            hint=f"{_nearest(exc)}write gpus/NAME.yaml in a directory that KVPLAN_SPECS names, with the "
            "fields of kvplan gpus show h100-sxm --format json, and give --gpu-spec NAME",
        ) from exc
    if gpu is not None and _knows(device) not in (None, spec.name):
        raise DataError(
            f"the measurements are of {device}, not of {spec.name}",
            hint="leave --gpu-spec out, or give the measurements of that GPU",
        )
    return spec


def of_one_gpu(families: Sequence[Family], gpu: str | None) -> tuple[GpuSpec, list[Family], list[str]]:
    """The spec of the GPU that tables are of, its families, and notes about those of others.

    Names of one spec are one GPU. Which of several it is ``gpu`` has to say.

    Raises:
        UnknownName: no such spec. DataError: several GPUs and no ``gpu``; or as ``spec_of`` says.
    """
    devices = sorted({family.device for family in families})
    if len({_knows(device) or device for device in devices}) == 1:
        return spec_of(devices[0], gpu), list(families), []
    if gpu is None:
        raise DataError(
            f"measurements of several GPUs: {', '.join(devices)}",
            hint="calibrate one GPU at a time, or say which with --gpu-spec: the others' are left out",
        )
    spec = load_gpu(gpu)
    own = [device for device in devices if _knows(device) == spec.name]
    if not own:
        raise DataError(
            f"the measurements are of {', '.join(devices)}, not of {spec.name}",
            hint="give the measurements of that GPU",
        )
    notes = [
        f"left out: {source}: measurements of {device}"
        for device in devices if device not in own
        for source in sorted({family.source for family in families if family.device == device})
    ]  # fmt: skip
    return spec, [family for family in families if family.device in own], notes


def _nearest(unknown: UnknownName) -> str:
    """What to try first where a spec has nearly this name."""
    return f"if it is {' or '.join(unknown.suggestions)}, name it with --gpu-spec; else " * bool(
        unknown.suggestions
    )


def provenance(
    inputs: Sequence[InputFile], points: int, source: str, license: str, url: str | None
) -> ProvenancePart:
    """Where a profile's measurements come from."""
    return ProvenancePart(
        source=source,
        license=license,
        url=url,
        inputs=[{"path": _tail(item.path), "bytes": item.bytes, "sha256": item.sha256} for item in inputs],
        command=shlex.join(["kvplan", "calibrate", "--points", str(points)]),
    )


def _knows(device: str) -> str | None:
    try:
        return load_gpu(device).name
    except UnknownName:
        return None


def _tail(path: str) -> str:
    """The last components of a path: enough to recognise a file, nothing about the machine."""
    return "/".join(path.replace("\\", "/").split("/")[-5:])
