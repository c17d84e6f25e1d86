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

from kvplan.errors import DataError, EnvironmentLacks
from kvplan.latency.fit.columns import (
    NEEDED,
    TEXTS,
    WIDE,
    labels_of,
    shapes_of,
    unknown_values,
)
from kvplan.latency.fit.repeats import disagreement, once
from kvplan.latency.fit.solve import Array
from kvplan.latency.kernel_choice import version_key
from kvplan.provenance import InputFile, input_file
from kvplan.traces.columns import delimiter_of

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 5_000_000
MAX_HEADER = 10_000
MOST_NAMED = 15
"""Columns of a table that a message names."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that a repository keeps elsewhere."""
L2_MULTIPLE = 3.0
"""KV of this many times the L2 cannot come from it, so its rate must stay below the memory's."""
SLOWEST_RATE = 0.004
"""Share of it that any kernel reaches at large KV: the slowest of an engine's reach some per cent."""
MAX_RATE = 1.05
"""Share of the datasheet bandwidth above which no call can be, but for noise."""
FAR_RATE = 1.25
"""The same beyond what noise explains."""
MAX_FAST, MAX_FAR = 0.25, 0.02
"""Shares of a family's large calls above these rates from which it is refused; a few are noise."""

FAILED = 0.02
"""Share of an op's rows that may be failed measurements; more of them, and something else is wrong."""
SHORTEST_S = 3e-7
"""No kernel ends sooner; a twentieth of a family's times below it are in another unit."""
_UNITS = {"latency": 1e-3, "latency_ms": 1e-3, "latency_us": 1e-6, "latency_s": 1.0}
"""Seconds of one in each column that may hold times."""


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

    Raises:
        DataError: nothing readable, a missing column, a time that is not a positive number.
        EnvironmentLacks: Parquet without pyarrow.
    """
    families: list[Family] = []
    inputs: list[InputFile] = []
    notes: list[str] = []
    for path in _files(places):
        frame = _frame(path)
        inputs.append(input_file(path))
        if frame.empty:
            notes.append(f"{path}: no rows")
            continue
        unnamed = int(frame["op_name"].isna().sum())
        if unnamed:
            notes.append(f"{path}: {unnamed:,} rows without op_name are left out")
        for op, part in frame.groupby("op_name", sort=True):
            if str(op) not in NEEDED:
                notes.append(f"{path}: {len(part):,} rows of {op!r} are of no kernel that is fitted")
                continue
            families += _families(str(op), part, path, notes)
    if not families:
        raise DataError(
            "no measurements of a known kernel were found",
            where=", ".join(str(place) for place in places) or None,
            hint=f"op_name must be one of {', '.join(NEEDED)}",
        )
    return Measurements(tuple(families), tuple(inputs), tuple(notes))


def check_rates(families: Iterable[Family], bandwidth_bytes_per_s: float, l2_bytes: float) -> list[str]:
    """Refuse decode tables that read KV faster than memory delivers it, or so slowly that no kernel does.

    Returns:
        Notes about single calls that are faster.

    Raises:
        DataError: naming the table and the rate it implies.
    """
    notes = []
    for family in families:
        if family.op not in ("generation_attention", "mla_generation"):
            continue
        s = family.shapes
        seen = np.where(s["window"] > 0, np.minimum(s["ctx"], s["window"]), s["ctx"])
        kv = 2.0 * s["batch"] * s["kv_heads"] * seen * s["head_dim"] * s["kv_element_bytes"]
        large = kv > L2_MULTIPLE * l2_bytes
        rate = (kv / family.seconds)[large] / bandwidth_bytes_per_s
        if rate.size and rate.max() < SLOWEST_RATE:
            raise DataError(
                f"{family.title} reaches {rate.max():.2%} of the memory bandwidth of {family.device} at best",
                where=family.source,
                hint="the column latency is in milliseconds; call it latency_us where it is not",
            )
        fast, far = int((rate > MAX_RATE).sum()), int((rate > FAR_RATE).sum())
        if fast > MAX_FAST * rate.size or far > MAX_FAR * rate.size:
            raise DataError(
                f"{family.title} implies {rate.max():.0%} of the memory bandwidth of {family.device}",
                where=family.source,
                hint="these are no times of whole calls (known of some collector versions): leave it out",
            )
        if fast:
            notes.append(
                f"{family.title}: {fast:,} of {rate.size:,} large calls are faster than the memory of "
                f"{family.device} (up to {rate.max():.0%}): taken for noise"
            )
    return notes


def _files(places: Iterable[str | Path]) -> Iterator[Path]:
    for place in places:
        path = Path(place)
        if path.is_dir():
            yield from sorted(found for found in path.rglob("*") if _is_table(found))
        else:
            yield path


def _is_table(path: Path) -> bool:
    """Whether a file of a directory is one; collectors call CSV ``.txt`` too, as licences are."""
    if path.suffix == ".txt" and path.is_file():
        head = _first_line(path)
        names = {part.strip().decode("utf-8", "replace") for part in head.split(b",")}
        return bool(names & set(_UNITS)) or head.startswith(LFS_POINTER)
    return path.suffix in (".parquet", ".csv")


def _first_line(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.readline(MAX_HEADER).strip()


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    if _first_line(path).startswith(LFS_POINTER):
        raise DataError(
            "a pointer of Git LFS, not the table it stands for", where=str(path),
            hint="fetch the files themselves: git lfs pull",
        )  # fmt: skip
    if path.suffix in (".csv", ".txt"):
        try:
            mark = delimiter_of(_first_line(path).decode("utf-8", "replace"))
            frame = pd.read_csv(path, nrows=MAX_ROWS + 1, low_memory=False, sep=mark)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as exc:
            raise DataError(f"not a CSV table: {exc}", where=str(path)) from exc
    else:
        try:
            import pyarrow.parquet as pq
        except ImportError as exc:
            raise EnvironmentLacks(
                "reading Parquet needs pyarrow", where=str(path), hint="pip install 'kvplan[parquet]'"
            ) from exc
        import pyarrow

        try:
            with path.open("rb") as handle:
                table = pq.ParquetFile(handle)
                if table.metadata.num_rows > MAX_ROWS:
                    raise DataError(f"more than {MAX_ROWS:,} rows", where=str(path))
                frame = table.read().to_pandas()
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as exc:
            raise DataError(f"not a Parquet table: {exc}", where=str(path)) from exc
    if len(frame) > MAX_ROWS:
        raise DataError(f"more than {MAX_ROWS:,} rows", where=str(path))
    return _cleaned(frame, path)


def _cleaned(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Names and texts without spaces around them, one device, and the times in a column ``seconds``."""
    import pandas as pd

    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    if frame.columns.has_duplicates:
        twice = ", ".join(sorted(set(frame.columns[frame.columns.duplicated()])))
        raise DataError(f"several columns are called {twice}", where=str(path), hint="keep one of them")
    timed = [name for name in _UNITS if name in frame]
    missing = [name for name in ("op_name", "device") if name not in frame] + ([] if timed else ["latency"])
    if missing:
        raise DataError(
            f"a table of measurements needs the columns {', '.join(missing)}; this has "
            f"{', '.join(map(str, frame.columns[:MOST_NAMED]))}",
            where=str(path),
            hint="op_name, device and latency (milliseconds), and the shape columns of the kernel",
        )
    for name in TEXTS:
        if name in frame:
            frame[name] = frame[name].astype(object).map(_stripped)
    frame = frame[frame["op_name"] != "op_name"]  # heads of files that were put behind one another
    if frame.empty:
        return frame
    devices = sorted(map(str, frame["device"].dropna().unique()))
    if len(devices) != 1:
        raise DataError(
            f"measurements of several GPUs in one table: {', '.join(devices)}" if devices
            else "no row says which GPU was measured",
            where=str(path),
            hint="give the table of one GPU, named in every row's column device",
        )  # fmt: skip
    numbers = pd.to_numeric(frame[timed[0]], errors="coerce")
    unit = np.full(len(frame), _UNITS[timed[0]])
    if timed[0] == "latency" and "transmit_us" in frame:
        # Rows of dispatch have microseconds: their latency is the sum of columns that say so.
        unit[frame["transmit_us"].notna().to_numpy(dtype=bool)] = _UNITS["latency_us"]
    return frame.assign(device=devices[0], latency=frame[timed[0]], seconds=numbers * unit)


def _stripped(value: object) -> object:
    return value.strip() or None if isinstance(value, str) else value


def _families(op: str, part: pd.DataFrame, path: Path, notes: list[str]) -> Iterator[Family]:
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
                exc.where = exc.where or str(path)
                raise
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
                f"{path}: {len(rows):,} rows of {op!r} are left out: {name} {value} is none kvplan knows"
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
