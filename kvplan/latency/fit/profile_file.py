"""A latency profile as a file: fitted kernels of one GPU, with their provenance.

``kvplan.profile/1`` comes from tables of other engines' kernels; ``kvplan.profile/2`` from kvplan's own
kernels and carries ``measured``: ceilings of the machine, cache writers, environment.

A profile holds constants, not measurements: the parameters of each kernel's formula, the residual's centres
(log sizes of the shapes it was fitted on), the range it holds in and how well it did on shapes held out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from kvplan.errors import SpecError
from kvplan.latency.fit.band import Band
from kvplan.latency.fit.collective import Collective
from kvplan.latency.fit.decode import DecodeAttention
from kvplan.latency.fit.dispatch import Dispatch
from kvplan.latency.fit.experts import Experts
from kvplan.latency.fit.fixed_splits import FixedSplits
from kvplan.latency.fit.gemm import Gemm
from kvplan.latency.fit.kernel import FittedKernel
from kvplan.latency.fit.measured_part import HeldOut, KernelDetail, Measured, Part, Positive
from kvplan.latency.fit.prefill import PrefillAttention
from kvplan.latency.fit.residual import restore
from kvplan.latency.fit.structure import Hardware, Structure
from kvplan.specs.json_document import read_json

SCHEMA = "kvplan.profile/1"
SCHEMA_MEASURED = "kvplan.profile/2"
SCHEMAS = (SCHEMA, SCHEMA_MEASURED)
MAX_BYTES = 64 << 20

NotNegative = Annotated[float, Field(ge=0)]
Row = Annotated[list[float], Field(max_length=32)]


class ResidualPart(Part):
    """The smooth residual; see ``kvplan.latency.fit.residual``."""

    centres: Annotated[list[Row], Field(min_length=1, max_length=5000)]
    weights: list[float]
    share: list[float]
    lengths: list[Positive]
    amplitude: Positive
    noise: Positive
    shrink: Positive


class KernelPart(Part):
    """One fitted kernel."""

    op: str
    labels: dict[str, str]
    structure: Literal[
        "decode_attention",
        "decode_attention_fixed_splits",
        "prefill_attention",
        "gemm",
        "collective",
        "dispatch",
        "experts",
    ]
    hardware: dict[str, float | str]
    parameters: dict[str, Positive]
    residual: ResidualPart
    band_factor: Positive
    band_scores: Annotated[list[NotNegative], Field(max_length=5000, default_factory=list)]
    low: dict[str, float]
    high: dict[str, float]
    trained_on: int
    measured_with: str
    held_out: HeldOut | None = None
    detail: KernelDetail | None = None


class ProvenancePart(Part):
    """Where the measurements come from."""

    source: str
    license: str
    url: str | None = None
    inputs: list[dict[str, str | int]]
    command: str


class ProfileFile(Part):
    """The whole file."""

    schema_: Literal["kvplan.profile/1", "kvplan.profile/2"] = Field(alias="schema")
    name: str
    gpu: str
    provenance: ProvenancePart
    notes: list[str] = Field(default_factory=list)
    kernels: Annotated[list[KernelPart], Field(min_length=1, max_length=500)]
    measured: Measured | None = None

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        if (self.measured is not None) != (self.schema_ == SCHEMA_MEASURED):
            raise ValueError(f"'measured' belongs to {SCHEMA_MEASURED}, and {SCHEMA_MEASURED} needs it")
        return self


def kernel_part(
    op: str, labels: dict[str, str], fitted: FittedKernel, measured_with: str, held_out: HeldOut | None,
    detail: KernelDetail | None = None,
) -> KernelPart:  # fmt: skip
    """A fitted kernel as it is stored; numbers keep nine digits."""
    structure, residual = fitted.structure, fitted.residual
    names = [p.name for p in structure.parameters()]
    return KernelPart(
        op=op,
        labels=labels,
        structure=structure.name,  # type: ignore[arg-type]
        hardware=_hardware_dict(structure),
        parameters={name: _short(value) for name, value in zip(names, fitted.values, strict=True)},
        residual=ResidualPart(
            centres=[[_short(x) for x in row] for row in residual.centres],
            weights=[_short(x) for x in residual.weights],
            share=[_short(x) for x in residual.share],
            lengths=[_short(x) for x in residual.lengths],
            amplitude=_short(residual.amplitude),
            noise=_short(residual.noise),
            shrink=_short(residual.shrink),
        ),
        band_factor=_short(fitted.band.factor),
        band_scores=[float(f"{score:.4g}") for score in fitted.band.scores],
        low=fitted.low,
        high=fitted.high,
        trained_on=fitted.trained_on,
        measured_with=measured_with,
        held_out=held_out,
        detail=detail,
    )


def restore_kernel(part: KernelPart, where: str) -> FittedKernel:
    """A stored kernel, ready to predict.

    Raises:
        SpecError: its parts do not belong together.
    """
    structure = _structure(part, where)
    names = [p.name for p in structure.parameters()]
    if sorted(names) != sorted(part.parameters):
        raise SpecError(
            f"the parameters of {part.op} are not those of the {part.structure} formula",
            where=where,
            hint="the profile was written by another version of kvplan: fit it again",
        )
    residual = part.residual
    count, dims = len(residual.centres), len(residual.lengths)
    scores = len(part.band_scores) or count
    if {len(residual.weights), len(residual.share), scores} != {count} or {
        len(r) for r in residual.centres
    } != {dims}:
        raise SpecError(f"the residual of {part.op} has parts of different lengths", where=where)
    if set(part.low) != set(structure.columns) or set(part.high) != set(structure.columns):
        raise SpecError(f"the measured range of {part.op} does not name the formula's columns", where=where)
    return FittedKernel(
        structure=structure,
        values=np.array([part.parameters[name] for name in names]),
        residual=restore(
            np.array(residual.centres), np.array(residual.weights), np.array(residual.lengths),
            residual.amplitude, residual.noise, residual.shrink, np.array(residual.share),
        ),
        band=Band(part.band_factor, np.array(part.band_scores)),
        low=part.low,
        high=part.high,
        trained_on=part.trained_on,
    )  # fmt: skip


def read_profile(path: Path) -> ProfileFile:
    """Read and check a profile.

    Raises:
        OSError: the file cannot be read. SpecError: it is no profile of this version.
    """
    if path.stat().st_size > MAX_BYTES:
        raise SpecError(f"a profile of more than {MAX_BYTES >> 20} MiB is no profile", where=str(path))
    document = read_json(path, MAX_BYTES, finite=True)
    schema = document.get("schema")
    if schema not in SCHEMAS:
        raise SpecError(
            f"this is no latency profile of a version kvplan reads (schema {schema!r}, not {SCHEMA!r} or "
            f"{SCHEMA_MEASURED!r})",
            where=str(path),
            hint="write one with kvplan calibrate --from measurements.parquet -o profile.json",
        )
    try:
        return ProfileFile.model_validate(document)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SpecError(
            f"the profile is damaged: {first['msg']}", where=f"{path}: {place}", hint="fit it again"
        ) from exc


def profile_text(profile: ProfileFile) -> str:
    """The file's text, in stable order; what only the second version has is left out of the first."""
    body = profile.model_dump(mode="json", by_alias=True)
    if profile.measured is None:
        del body["measured"]
        for kernel in body["kernels"]:
            del kernel["detail"]
            if kernel["held_out"] is not None:
                del kernel["held_out"]["split"]
    return json.dumps(body, indent=None, allow_nan=False) + "\n"


def _short(value: float) -> float:
    return float(f"{float(value):.9g}")


def _hardware_dict(structure: Structure) -> dict[str, float | str]:
    if isinstance(structure, Collective):
        return {"bandwidth_bytes_per_s": structure.bandwidth_bytes_per_s, "rounds": structure.rounds}
    if isinstance(structure, Dispatch):
        return {"bandwidth_bytes_per_s": structure.bandwidth_bytes_per_s}
    assert isinstance(structure, (DecodeAttention, PrefillAttention, Gemm, Experts))
    hardware = structure.hardware
    facts: dict[str, float | str] = {
        "name": hardware.name, "sm_count": hardware.sm_count,
        "bandwidth_bytes_per_s": hardware.bandwidth_bytes_per_s, "l2_bytes": hardware.l2_bytes,
        "tensor_flops": hardware.tensor_flops,
    }  # fmt: skip
    if isinstance(structure, Experts):
        facts["element_bytes"] = structure.element_bytes
    if isinstance(structure, Gemm):
        facts["element_bytes"] = structure.element_bytes
        if structure.input_bytes != structure.element_bytes:
            facts["input_bytes"] = structure.input_bytes
    return facts


_ATTENTION: dict[str, Callable[[Hardware], Structure]] = {
    "decode_attention": DecodeAttention, "decode_attention_fixed_splits": FixedSplits,
    "prefill_attention": PrefillAttention,
}  # fmt: skip


def _structure(part: KernelPart, where: str) -> Structure:
    facts: dict[str, Any] = dict(part.hardware)
    try:
        if part.structure == "collective":
            return Collective(float(facts["bandwidth_bytes_per_s"]), float(facts["rounds"]))
        if part.structure == "dispatch":
            return Dispatch(float(facts["bandwidth_bytes_per_s"]))
        hardware = Hardware(
            str(facts["name"]), int(facts["sm_count"]), float(facts["bandwidth_bytes_per_s"]),
            float(facts["l2_bytes"]), float(facts["tensor_flops"]),
        )  # fmt: skip
        if part.structure == "experts":
            return Experts(hardware, float(facts["element_bytes"]))
        if part.structure == "gemm":
            element = float(facts["element_bytes"])
            return Gemm(hardware, element, float(facts.get("input_bytes", element)))
    except (KeyError, ValueError) as exc:
        raise SpecError(f"the hardware facts of {part.op} are incomplete: {exc}", where=where) from exc
    return _ATTENTION[part.structure](hardware)
