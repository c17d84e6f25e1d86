"""Measurements of kvplan's own kernels to a profile (``kvplan.profile/2``).

A decode kernel of the grid is fitted whole on every row that is not held out. Formats with a few points take
the formula of a near format and let their points move launch, bandwidth and time per token; MLA and prefill,
with a dozen points, fit the parameters that decide. The hold-out that was registered before measuring is
scored last and touches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kvplan.errors import DataError
from kvplan.latency.fit.accuracy import POINTS
from kvplan.latency.fit.choose import hardware_of
from kvplan.latency.fit.decode import DecodeAttention
from kvplan.latency.fit.design import spread
from kvplan.latency.fit.few import fit_few
from kvplan.latency.fit.gemm import Gemm
from kvplan.latency.fit.kernel import FittedKernel, fit_kernel, fold_errors
from kvplan.latency.fit.kernel_measurements import KernelMeasurements, read_kernel_measurements
from kvplan.latency.fit.kernel_rows import USUAL_PAGE, KernelRows, Rows, drift, kernel_rows, matmul_rows
from kvplan.latency.fit.machine import ceilings, check_possible, writers
from kvplan.latency.fit.measured_part import HeldOut, KernelDetail, Measured, VerifyPart
from kvplan.latency.fit.origin import provenance, spec_of
from kvplan.latency.fit.prefill import PrefillAttention
from kvplan.latency.fit.profile_file import KernelPart, ProfileFile, kernel_part
from kvplan.latency.fit.solve import Array
from kvplan.latency.fit.structure import Hardware, Structure
from kvplan.provenance import input_file

MEASURED_WITH = "kvplan kernels"
_DONORS = {
    "fp16": ("bf16",), "fp8_e5m2": ("fp8_e4m3",), "int8": ("int8_per_token_head", "fp8_e4m3"),
    "int8_per_head": ("int8_per_token_head", "fp8_e4m3"), "int4_g32": ("int4_g64", "int4"),
    "kivi4": ("kivi2", "int4_g64"), "nvfp4": ("int4_g64", "int4"), "mxfp4": ("int4_g64", "int4"),
}  # fmt: skip
"""Formats whose kernels differ least: the same code width and the same way of scaling."""
_FREE = ("launch_s", "bandwidth", "token_s")
_FREE_MLA = ("launch_s", "bandwidth", "token_s", "flops", "cta_s", "merge_s")
_FREE_PREFILL = ("launch_s", "flops", "token_s")
_MEMORY = ("bandwidth", "l2_speedup", "l2_bytes", "l2_sharpness", "dram_s")
DRIFTED = 0.05
"""Drift of the machine from which a profile says so."""


def calibrate_measured(
    path: Path,
    *,
    gpu: str | None = None,
    name: str | None = None,
    points: int = POINTS,
    source: str,
    license: str,
    url: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ProfileFile:
    """Fit a profile from one measurement file; see the module.

    Raises:
        DataError: unusable measurements, or too few of every kernel. UnknownName: no spec of that GPU.
    """
    read = read_kernel_measurements(path)
    spec = spec_of(read.environment.device, gpu)
    hardware = hardware_of(spec)
    sms = read.environment.multiprocessors or hardware.sm_count
    l2 = float(read.environment.l2_bytes) or hardware.l2_bytes
    hardware = Hardware(
        hardware.name, sms, hardware.bandwidth_bytes_per_s, l2, hardware.tensor_flops
    )  # fmt: skip
    check_possible(read, hardware, str(path))
    fit = _Fit(hardware, points, progress)
    fit.attention(kernel_rows(read.points, sms))
    for dtype, label, peak, width in (("bf16", "bfloat16", "bf16", 2.0), ("fp8", "fp8", "fp8", 1.0)):
        flops = hardware_of(spec, peak).tensor_flops
        chip = Hardware(hardware.name, sms, hardware.bandwidth_bytes_per_s, l2, flops)
        structure = Gemm(chip, width, width)
        fit.matmul(label, structure, matmul_rows(read.ceilings, dtype))
    if not fit.parts:
        raise DataError(
            "no kernel has enough measurements to be fitted",
            where=str(path),
            hint="; ".join(fit.notes) or None,
        )
    moved = drift(read.points)
    return ProfileFile(
        schema="kvplan.profile/2",
        name=name or spec.name,
        gpu=spec.name,
        provenance=provenance([input_file(path)], points, source, license, url),
        notes=[*_remarks(read, moved), *fit.notes],
        kernels=fit.parts,
        measured=Measured(
            environment=read.facts,
            complete=read.complete,
            held_out=held_out(np.concatenate(fit.ratios), np.concatenate(fit.inside), fit.trained)
            if fit.ratios
            else None,
            drift=float(np.median(moved)) if moved else None,
            ceilings=ceilings(read.ceilings),
            writers=writers(read.points),
        ),
    )


def _remarks(read: KernelMeasurements, moved: list[float]) -> list[str]:
    notes = []
    if not read.complete:
        notes.append("the measurement did not run to its end: call it again with the same file")
    if read.failures:
        first = read.failures[0]
        notes.append(
            f"{len(read.failures)} points could not be measured, the first is {first.key}: "
            f"{first.message[:100]}"
        )
    if not any(row.stage == "holdout" for row in read.points):
        notes.append("the registered hold-out was not measured: errors are cross-validated alone")
    if moved and abs(float(np.median(moved)) - 1.0) > DRIFTED:
        notes.append(f"the machine drifted: calls took {np.median(moved):.2f} times as long at the end")
    return notes


def held_out(ratio: Array, inside: Array, trained: int) -> HeldOut:
    """The errors of predicted over measured times on registered rows."""
    error = np.abs(ratio - 1.0)
    return HeldOut(
        trained=trained, tested=int(ratio.size), median=round(float(np.median(error)), 5),
        p90=round(float(np.quantile(error, 0.9)), 5), coverage=round(float(np.mean(inside)), 5),
        split="registered",
    )  # fmt: skip


def _left_out(log_errors: Array) -> HeldOut:
    error = np.abs(np.expm1(-log_errors))
    return HeldOut(
        trained=int(error.size) - 1, tested=int(error.size), median=round(float(np.median(error)), 5),
        p90=round(float(np.quantile(error, 0.9)), 5), coverage=None, split="cross-validated",
    )  # fmt: skip


class _Fit:
    """Kernels fitted so far, what was left out and why, and the registered hold-out's errors."""

    def __init__(self, hardware: Hardware, points: int, progress: Callable[[str], None]) -> None:
        self.hardware, self.points, self.progress = hardware, points, progress
        self.parts: list[KernelPart] = []
        self.notes: list[str] = []
        self.ratios: list[Array] = []
        self.inside: list[Array] = []
        self.trained = 0
        self._decode: dict[str, FittedKernel] = {}

    def attention(self, kernels: list[KernelRows]) -> None:
        """Whole fits first, since the others start from them."""
        whole: list[tuple[KernelRows, Structure]] = []
        few: list[tuple[KernelRows, Structure]] = []
        for rows in kernels:
            structure = self._structure(rows)
            enough = len(rows.fit) >= 2 * len(structure.parameters())
            (whole if enough else few).append((rows, structure))
        for rows, structure in whole:
            self._whole(rows, structure)
        for rows, structure in few:
            try:
                self._few(rows, structure)
            except DataError as exc:
                self.notes.append(f"left out: {rows.title}: {exc.message}")

    def matmul(self, label: str, structure: Gemm, rows: Rows) -> None:
        """A matrix product of one dtype."""
        labels = {"kernel_source": "torch", "gemm_dtype": label}
        try:
            fitted = fit_kernel(structure, rows.shapes, rows.seconds)
        except DataError as exc:
            self.notes.append(f"left out: gemm {label}: {exc.message}")
            return
        self._add("gemm", labels, fitted, self._validated(fitted, rows), KernelDetail())

    def _structure(self, rows: KernelRows) -> Structure:
        if rows.op == "context_attention":
            return PrefillAttention(self.hardware, writes=False)  # writers are measured by themselves
        known: tuple[tuple[str, float], ...] = ()
        if rows.split_rule is not None:
            each, least = rows.split_rule
            # The launcher splits grouped and ungrouped heads alike.
            known = (("occupancy", each), ("chunk_tokens", least), ("ungrouped_splits", 1.0))
        return DecodeAttention(self.hardware, known)

    def _whole(self, rows: KernelRows, structure: Structure) -> None:
        chosen = spread(structure.design_coordinates(rows.fit.shapes), self.points)
        train = rows.fit.at([int(i) for i in chosen])
        fitted = fit_kernel(structure, train.shapes, train.seconds)
        if rows.op == "generation_attention":
            self._decode[rows.format] = fitted
        score = self._score(fitted, rows)
        self._add(
            rows.op, {"kv_cache_dtype": rows.format}, fitted, score or self._validated(fitted, train),
            _detail(fitted, rows),
        )  # fmt: skip

    def _few(self, rows: KernelRows, structure: Structure) -> None:
        donor_name = self._donor(rows)
        donor = self._decode.get(donor_name) if donor_name else None
        names = [p.name for p in structure.parameters()]
        start = np.array([p.start for p in structure.parameters()])
        free: tuple[str, ...]
        if donor is not None:
            free, start, sigma = _FREE, donor.values, 0.3
            structure = donor.structure
        elif rows.op == "context_attention":
            free, sigma = _FREE_PREFILL, 1.5
        else:
            free, sigma = _FREE_MLA, 1.5
            base = self._decode.get("bf16")
            for name in _MEMORY if base is not None else ():
                assert base is not None
                start[names.index(name)] = base.values[names.index(name)]
        found = fit_few(
            structure, rows.fit.shapes, rows.fit.seconds, free=free, start=start, sigma=sigma, donor=donor
        )
        detail = _detail(found.kernel, rows).model_copy(
            update={"fitted": list(free), "donor": donor_name if donor is not None else None}
        )
        score = self._score(found.kernel, rows) or _left_out(found.errors)
        self._add(rows.op, {"kv_cache_dtype": rows.format}, found.kernel, score, detail)

    def _donor(self, rows: KernelRows) -> str | None:
        if rows.op != "generation_attention" or not self._decode:
            return None
        for name in _DONORS.get(rows.format, ()):
            if name in self._decode:
                return name
        width = float(np.mean(np.log(rows.fit.shapes["kv_element_bytes"]))) if len(rows.fit) else 0.0
        mid = {name: np.log(kernel.high["kv_element_bytes"]) for name, kernel in self._decode.items()}
        return min(sorted(mid), key=lambda name: abs(mid[name] - width))

    def _score(self, fitted: FittedKernel, rows: KernelRows) -> HeldOut | None:
        if not len(rows.held):
            return None
        guess = fitted.predict(rows.held.shapes)
        ratio = guess.seconds / rows.held.seconds
        inside = (rows.held.seconds >= guess.low) & (rows.held.seconds <= guess.high)
        self.ratios.append(ratio)
        self.inside.append(inside.astype(np.float64))
        self.trained += fitted.trained_on
        return held_out(ratio, inside.astype(np.float64), fitted.trained_on)

    def _validated(self, fitted: FittedKernel, rows: Rows) -> HeldOut:
        return _left_out(
            fold_errors(fitted.structure, rows.shapes, rows.seconds, fitted.values, fitted.residual)
        )

    def _add(
        self, op: str, labels: dict[str, str], fitted: FittedKernel, score: HeldOut, detail: KernelDetail
    ) -> None:
        self.parts.append(kernel_part(op, labels, fitted, MEASURED_WITH, score, detail))
        self.progress(" ".join([op, *labels.values()]))


def _detail(fitted: FittedKernel, rows: KernelRows) -> KernelDetail:
    """Factors of other page sizes, of ragged lengths and of guessed tokens on what was fitted."""
    pages: dict[str, float] = {}
    if USUAL_PAGE in rows.pages:
        usual = _ratio(fitted, rows.pages[USUAL_PAGE])
        pages = {str(size): round(_ratio(fitted, part) / usual, 4) for size, part in rows.pages.items()}
    ragged = round(_ratio(fitted, rows.ragged), 4) if len(rows.ragged) else None
    return KernelDetail(pages=pages, ragged=ragged, verify=_verify(fitted, rows.verify))


def _verify(fitted: FittedKernel, rows: dict[int, Rows]) -> VerifyPart | None:
    logs = {count: np.log(part.seconds / fitted.seconds(part.shapes)) for count, part in rows.items()}
    if not logs:
        return None
    middle = {count: float(np.median(found)) for count, found in logs.items()}
    off = np.concatenate([found - middle[count] for count, found in logs.items()])
    return VerifyPart(
        factors={str(count): round(math.exp(value), 4) for count, value in middle.items()},
        deviation=round(float(np.sqrt(np.mean(off**2))), 4),
    )


def _ratio(fitted: FittedKernel, rows: Rows) -> float:
    return float(np.median(rows.seconds / fitted.seconds(rows.shapes)))
