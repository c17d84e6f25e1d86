"""Reading measured kernel times: tables of NVIDIA aiconfigurator collectors, or kvplan's own measurements.

A table is Parquet or CSV with one row per timed shape; ``op_name`` says which kernel, ``latency`` is in
milliseconds, ``device`` names the GPU. A *family* is one compiled kernel: op, source, formats, head size.
Rows that cannot be times are refused, not skipped; a table that implies more bandwidth than the GPU has is
refused whole, because nothing in it can then be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvplan.errors import DataError, EnvironmentLacks
from kvplan.latency.fit.solve import Array
from kvplan.provenance import InputFile, input_file

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 5_000_000
MAX_HEADER = 10_000
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that a repository keeps elsewhere."""
L2_MULTIPLE = 3.0
"""KV of this many times the L2 cannot come from it, so its rate must stay below the memory's."""
MAX_RATE = 1.05
"""Share of the datasheet bandwidth above which no call can be, but for noise."""
FAR_RATE = 1.25
"""The same beyond what noise explains."""
MAX_FAST, MAX_FAR = 0.25, 0.02
"""Shares of a family's large calls above these rates from which it is refused; a few are noise."""

_NEEDED = {
    "generation_attention": ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim"),
    "context_attention": ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"),
    "gemm": ("m", "n", "k", "gemm_dtype"),
    "mla_generation": ("batch_size", "isl", "step", "num_heads"),
    "mla_context": ("batch_size", "isl", "num_heads"),
    "all_reduce": ("num_gpus", "message_size"),
}
_NAMED_BY = ("kernel_source", "kv_cache_dtype", "gemm_dtype", "nccl_dtype", "head_dim")
_ELEMENT_BYTES = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "int8": 1.0, "bfloat16": 2.0,
                  "float16": 2.0, "half": 2.0, "bf16": 2.0, "fp16": 2.0}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """All timed shapes of one kernel on one device.

    ``labels`` tell it from others: op, kernel_source, kv_cache_dtype, gemm_dtype, head_dim.
    """

    op: str
    labels: dict[str, str]
    device: str
    version: str
    shapes: dict[str, Array]
    seconds: Array
    source: str

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
        for op, part in frame.groupby("op_name", sort=True):
            if str(op) not in _NEEDED:
                notes.append(f"{path}: {len(part):,} rows of {op!r} are of no kernel that is fitted")
                continue
            families += _families(str(op), part, path)
    if not families:
        raise DataError(
            "no measurements of a known kernel were found",
            where=", ".join(str(place) for place in places) or None,
            hint=f"op_name must be one of {', '.join(_NEEDED)}",
        )
    return Measurements(tuple(families), tuple(inputs), tuple(notes))


def check_rates(families: Iterable[Family], bandwidth_bytes_per_s: float, l2_bytes: float) -> list[str]:
    """Refuse decode tables that read KV faster than memory can deliver it; notes about single calls that do.

    Raises:
        DataError: naming the table and the rate it implies.
    """
    notes = []
    for family in families:
        if family.op != "generation_attention":
            continue
        s = family.shapes
        seen = np.where(s["window"] > 0, np.minimum(s["ctx"], s["window"]), s["ctx"])
        kv = 2.0 * s["batch"] * s["kv_heads"] * seen * s["head_dim"] * s["kv_element_bytes"]
        large = kv > L2_MULTIPLE * l2_bytes
        rate = (kv / family.seconds)[large] / bandwidth_bytes_per_s
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
        return b"latency" in head.split(b",") or head.startswith(LFS_POINTER)
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
            frame = pd.read_csv(path, nrows=MAX_ROWS + 1)
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
    missing = [name for name in ("op_name", "latency", "device") if name not in frame]
    if missing:
        raise DataError(
            f"a table of measurements needs the columns {', '.join(missing)}",
            where=str(path),
            hint="op_name, device and latency (milliseconds), and the shape columns of the kernel",
        )
    return frame


def _families(op: str, part: pd.DataFrame, path: Path) -> Iterator[Family]:
    missing = [name for name in _NEEDED[op] if name not in part]
    if missing:
        raise DataError(f"rows of {op!r} lack the columns {', '.join(missing)}", where=str(path))
    seconds = part["latency"].to_numpy(dtype=np.float64) * 1e-3
    bad = ~(np.isfinite(seconds) & (seconds > 0))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{int(bad.sum())} of {bad.size:,} latencies of {op!r} are not positive numbers, "
            f"the first is {seconds[first] * 1e3:g}",
            where=f"{path}: row {part.index[first]}",
            hint="remove failed measurements from the table; kvplan does not guess them",
        )
    if part["device"].nunique() > 1:
        devices = ", ".join(sorted(map(str, part["device"].unique())))
        raise DataError(
            f"measurements of several GPUs in one table: {devices}",
            where=str(path),
            hint="give the table of one GPU",
        )
    keys = [name for name in _NAMED_BY if name in part and part[name].notna().all()]
    for labels, rows in part.groupby(keys, sort=True):
        named = {key: str(value) for key, value in zip(keys, labels, strict=True)}
        shapes = _SHAPES[op](rows)
        for name, column in shapes.items():
            if not np.all(np.isfinite(column)) or np.any(column < 0):
                raise DataError(f"column {name!r} of {op!r} has values that are no sizes", where=str(path))
        version = "+".join(sorted(map(str, rows["version"].unique()))) if "version" in rows else ""
        framework = str(rows["framework"].iloc[0]) if "framework" in rows else ""
        yield Family(
            op, named, str(rows["device"].iloc[0]), f"{framework} {version}".strip(), shapes,
            rows["latency"].to_numpy(dtype=np.float64) * 1e-3, str(path),
        )  # fmt: skip


def _column(rows: pd.DataFrame, name: str, default: float | None = None) -> Array:
    if name not in rows:
        assert default is not None
        return np.full(len(rows), default)
    return rows[name].to_numpy(dtype=np.float64)


def _element(rows: pd.DataFrame) -> Array:
    names = rows.get("kv_cache_dtype")
    if names is None:
        return np.full(len(rows), 2.0)
    unknown = sorted(set(map(str, names)) - set(_ELEMENT_BYTES))
    if unknown:
        raise DataError(f"unknown kv_cache_dtype {', '.join(unknown)}", hint=", ".join(_ELEMENT_BYTES))
    return np.array([_ELEMENT_BYTES[str(name)] for name in names])


def _decode(rows: pd.DataFrame) -> dict[str, Array]:
    return {
        "batch": _column(rows, "batch_size"),
        "ctx": _column(rows, "isl") + _column(rows, "step"),
        "window": _column(rows, "window_size", 0.0),
        "q_heads": _column(rows, "num_heads"),
        "kv_heads": _column(rows, "num_key_value_heads"),
        "head_dim": _column(rows, "head_dim"),
        "kv_element_bytes": _element(rows),
    }


def _prefill(rows: pd.DataFrame) -> dict[str, Array]:
    return {
        "batch": _column(rows, "batch_size"),
        "new": _column(rows, "isl"),
        "before": _column(rows, "step", 0.0),
        "window": _column(rows, "window_size", 0.0),
        "q_heads": _column(rows, "num_heads"),
        "kv_heads": _column(rows, "num_key_value_heads"),
        "head_dim": _column(rows, "head_dim"),
        "kv_element_bytes": _element(rows),
    }


def _mla_decode(rows: pd.DataFrame) -> dict[str, Array]:
    ones = np.ones(len(rows))
    return {
        "batch": _column(rows, "batch_size"),
        "ctx": _column(rows, "isl") + _column(rows, "step"),
        "window": 0.0 * ones,
        "q_heads": _column(rows, "num_heads"),
        "kv_heads": ones,
        # K and V are one latent of 512 + 64 elements: 2 * D * e counts it once with D = 288.
        "head_dim": 288.0 * ones,
        "kv_element_bytes": _element(rows),
    }


def _mla_prefill(rows: pd.DataFrame) -> dict[str, Array]:
    ones = np.ones(len(rows))
    heads = _column(rows, "num_heads")
    return {
        "batch": _column(rows, "batch_size"),
        "new": _column(rows, "isl"),
        "before": _column(rows, "step", 0.0),
        "window": 0.0 * ones,
        "q_heads": heads,
        "kv_heads": heads,
        # Expanded heads: 192 for scores, 128 for values, 160 on average.
        "head_dim": 160.0 * ones,
        "kv_element_bytes": _element(rows),
    }


def _gemm(rows: pd.DataFrame) -> dict[str, Array]:
    return {name: _column(rows, name) for name in ("m", "n", "k")}


def _all_reduce(rows: pd.DataFrame) -> dict[str, Array]:
    """``message_size`` counts elements of the dtype column."""
    names = next((rows[name] for name in ("allreduce_dtype", "nccl_dtype") if name in rows), None)
    if names is None:
        raise DataError("rows of 'all_reduce' lack the column allreduce_dtype")
    unknown = sorted(set(map(str, names)) - set(_ELEMENT_BYTES))
    if unknown:
        raise DataError(f"unknown allreduce_dtype {', '.join(unknown)}", hint=", ".join(_ELEMENT_BYTES))
    element = np.array([_ELEMENT_BYTES[str(name)] for name in names])
    return {"ranks": _column(rows, "num_gpus"), "bytes": _column(rows, "message_size") * element}


_SHAPES: dict[str, Any] = {
    "generation_attention": _decode,
    "context_attention": _prefill,
    "mla_generation": _mla_decode,
    "mla_context": _mla_prefill,
    "gemm": _gemm,
    "all_reduce": _all_reduce,
}
