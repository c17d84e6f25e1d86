"""Reading measured kernel times: tables of NVIDIA aiconfigurator collectors, or kvplan's own measurements.

A table is Parquet or CSV with one row per timed shape; ``op_name`` says which kernel, ``latency`` is in
milliseconds, ``device`` names the GPU. A *family* is one compiled kernel: op, source, formats, head size.
A few rows that cannot be times, and formats nobody knows, are left out and said so; many refuse the table, as
does one that implies more bandwidth than the GPU has, because nothing in it can then be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvplan.errors import DataError
from kvplan.latency.fit.columns import (
    COMPUTE,
    NEEDED,
    WIDE,
    labels_of,
    shapes_of,
    unknown_values,
)
from kvplan.latency.fit.repeats import disagreement, once
from kvplan.latency.fit.solve import Array
from kvplan.latency.fit.table_files import table_files, table_rows
from kvplan.latency.kernel_choice import version_key
from kvplan.provenance import InputFile, input_file

if TYPE_CHECKING:
    import pandas as pd

MOST_SAID = 5
"""Notes that an error about a table without any use repeats."""
FAILED = 0.02
"""Share of an op's rows that may be failed measurements; more of them, and something else is wrong."""
SHORTEST_S = 3e-7
"""No kernel ends sooner; a twentieth of a family's times below it are in another unit."""


@dataclass(frozen=True, slots=True)
class Family:
    """All timed shapes of one kernel on one device, each of them once.

    ``labels`` tell it from others: kernel_source, kv_cache_dtype, gemm_dtype, nccl_dtype, head_dim, gemm_type
    and model of modules, and attn_dtype or mla_dtype where attention computes in less than 16 bits.
    ``beside_s``: seconds of what was timed with every shape and is not in ``seconds``, else None.
    """

    op: str
    labels: dict[str, str]
    device: str
    version: str
    shapes: dict[str, Array]
    seconds: Array
    source: str
    beside_s: Array | None = None

    @property
    def title(self) -> str:
        """The labels in one line."""
        return " ".join([self.op, *self.labels.values()])


@dataclass(frozen=True, slots=True)
class Measurements:
    """Everything read, with what was left out and why."""

    families: tuple[Family, ...]
    inputs: tuple[InputFile, ...]
    notes: tuple[str, ...]


def read_measurements(places: Iterable[str | Path]) -> Measurements:
    """Read tables: files, or directories that are searched for Parquet and CSV files (also called ``.txt``).

    What cannot be read is left out and said where something else can: an op of a table, a table of a
    directory.

    Raises:
        DataError: nothing readable, a missing column, a time that is not a positive number.
        EnvironmentLacks: Parquet without pyarrow.
    """
    families: list[Family] = []
    inputs: list[InputFile] = []
    notes: list[str] = []
    refused: list[DataError] = []
    for path, named in table_files(places):
        found: list[Family] = []
        why: list[DataError] = []
        try:
            frame = table_rows(path)
        except DataError as exc:
            why.append(exc)
        except OSError as exc:  # a link to nothing, or a file that only others may read
            if named:
                raise
            why.append(DataError(exc.strerror or str(exc), where=str(path)))
        else:
            found = _tables(frame, path, notes, why)
        if named and why and not found:
            raise why[0]
        notes += [f"left out: {exc.where or path}: {exc.message}" for exc in why]
        refused += why
        families += found
        if found or not why:
            inputs.append(input_file(path))
    if not families:
        if refused:
            raise refused[0]
        raise DataError(
            "no measurements of a known kernel were found",
            where=", ".join(str(place) for place in places) or None,
            hint="; ".join([*notes[:MOST_SAID], f"op_name must be one of {', '.join(NEEDED)}"]),
        )
    return Measurements(tuple(families), tuple(inputs), tuple(notes))


def _tables(frame: pd.DataFrame, path: Path, notes: list[str], why: list[DataError]) -> list[Family]:
    """The families of a file's rows; ``why``: what of them was refused."""
    if frame.empty:
        notes.append(f"{path}: no rows")
        return []
    unnamed = int(frame["op_name"].isna().sum())
    if unnamed:
        notes.append(f"{path}: {unnamed:,} rows without op_name are left out")
    found: list[Family] = []
    for op, part in frame.groupby("op_name", sort=True):
        if str(op) not in NEEDED:
            notes.append(f"{path}: {len(part):,} rows of {op!r} are of no kernel that is fitted")
            continue
        try:
            found += _families(str(op), part, path, notes, why)
        except DataError as exc:
            why.append(_at(path, exc))
    return found


def _at(path: Path, exc: DataError) -> DataError:
    exc.where = exc.where or str(path)
    return exc


def _families(
    op: str, part: pd.DataFrame, path: Path, notes: list[str], why: list[DataError]
) -> Iterator[Family]:
    missing = [name for name in NEEDED[op] if name not in part]
    if missing:
        raise DataError(f"rows of {op!r} lack the columns {', '.join(missing)}", where=str(path))
    part = _timed(op, _known(op, part, path, notes), path, notes)
    if part.empty:
        return
    labels = labels_of(op, part)
    keys = list(labels)
    groups: dict[tuple[str, ...], pd.DataFrame] = {(): part}
    if keys:
        groups = {_texts(found): rows for found, rows in part.groupby([labels[key] for key in keys])}
    for texts, group in sorted(groups.items(), key=lambda item: [_order(text) for text in item[0]]):
        named = dict(zip(keys, texts, strict=True))
        for key in keys:
            if named[key] == WIDE:
                del named[key]
        versions = group["version"].map(str) if "version" in group else group["op_name"].map(lambda _: "")
        for version in sorted(versions.unique(), key=version_key):
            rows = group[versions == version]
            try:
                shapes = shapes_of(op, rows)
            except DataError as exc:
                why.append(_at(path, exc))
                continue
            framework = str(rows["framework"].iloc[0]) if "framework" in rows else ""
            timed = rows["seconds"].to_numpy(dtype=np.float64)
            apart = disagreement(shapes, timed)
            shapes, seconds = once(shapes, timed)
            family = Family(
                op, named, str(rows["device"].iloc[0]), f"{framework} {version}".strip(), shapes, seconds,
                str(path),
            )  # fmt: skip
            if again := len(rows) - seconds.size:
                notes.append(
                    f"{path}: {again:,} of {len(rows):,} rows of {family.title} time a shape again: its "
                    "median counts, once"
                )
            if apart is not None:
                notes.append(
                    f"{path}: times of one shape of {family.title} differ by {apart - 1:.0%} in the median: "
                    "if they are of several GPUs, versions or configurations, say so in a column (device, "
                    "version, kernel_source) or fit a table of each"
                )
            yield family


def _texts(found: object) -> tuple[str, ...]:
    return tuple(map(str, found)) if isinstance(found, tuple) else (str(found),)


def _order(label: str) -> tuple[int, str]:
    """Whole numbers by size, then texts."""
    return (int(label), "") if label.isdigit() else (1 << 30, label)


def _known(op: str, part: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    """The rows whose number formats, and way to deal tokens to experts, are known."""
    known = np.ones(len(part), dtype=bool)
    for name, unknown in unknown_values(op, part).items():
        strange = unknown.to_numpy(dtype=bool) & known
        known &= ~strange
        for value, rows in part[strange].groupby(name, dropna=False):
            notes.append(
                f"{path}: {len(rows):,} rows of {op!r} are left out: {name} {value} is none "
                + ("that attention alone computes in" if name in COMPUTE else "kvplan knows")
            )
    return part[known]


def _timed(op: str, part: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    """The rows whose latency is a time."""
    seconds = part["seconds"].to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(seconds) & (seconds > 0))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        what = f"{int(bad.sum())} of {bad.size:,} latencies of {op!r} are not positive numbers"
        if bad.sum() > FAILED * bad.size:
            raise DataError(
                f"{what}, the first is {part['latency'].iloc[first]}",
                where=f"{path}: row {part.index[first]}",
                hint="remove failed measurements from the table; kvplan does not guess them",
            )
        notes.append(f"{path}: {what}: left out as failed measurements, the first is row {part.index[first]}")
    kept: pd.DataFrame = part[~bad]
    if not kept.empty and float(np.quantile(kept["seconds"], 0.05)) < SHORTEST_S:
        raise DataError(
            f"latencies of {op!r} from {kept['latency'].min():g} on: no GPU ends a kernel in "
            f"{kept['seconds'].min() * 1e9:.2g} ns",
            where=str(path),
            hint="the column latency is in milliseconds; call it latency_s or latency_us where it is not",
        )
    return kept
