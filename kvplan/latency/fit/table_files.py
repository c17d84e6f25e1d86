"""Files of kernel tables: which of a directory are tables, and their rows, with times in seconds.

A file that is named must be a table. A directory may hold what a repository keeps beside its tables (pointers
to what lies elsewhere, logs, tables of other kinds of measurement): what cannot be read there is left out and
said, as long as anything can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvplan.errors import DataError, EnvironmentLacks
from kvplan.latency.fit.columns import TEXTS
from kvplan.latency.fit.paired_rows import one_direction_a_row
from kvplan.traces.columns import delimiter_of

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 5_000_000
MAX_HEADER = 10_000
MOST_NAMED = 15
"""Columns of a table that a message names."""
LONGEST_NAME, LONGEST = 60, 1_000
"""Characters of a column's name that it shows, and of a text in a table."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that a repository keeps elsewhere."""
_UNITS = {"latency": 1e-3, "latency_ms": 1e-3, "latency_us": 1e-6, "latency_s": 1.0}
"""Seconds of one in each column that may hold times."""


def table_files(places: Iterable[str | Path]) -> Iterator[tuple[Path, bool]]:
    """Files that were named, and those of directories that were: a path, and whether it itself was named."""
    for place in places:
        path = Path(place)
        if path.is_dir():
            yield from ((found, False) for found in sorted(path.rglob("*")) if _is_table(found))
        else:
            yield path, True


def _is_table(path: Path) -> bool:
    """Whether a file of a directory is one; collectors call CSV ``.txt`` too, as licences are."""
    if path.is_dir():
        return False
    if path.suffix == ".txt" and path.is_file():
        try:
            head = _first_line(path)
        except OSError:
            return True  # which reading it will say
        names = {part.strip().decode("utf-8", "replace") for part in head.split(b",")}
        return "op_name" in names or head.startswith(LFS_POINTER)
    return path.suffix in (".parquet", ".csv")


def _first_line(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.readline(MAX_HEADER).strip()


def table_rows(path: Path) -> pd.DataFrame:
    """The rows of a table: texts without spaces around them, ``latency`` as written, ``seconds``.

    Raises:
        DataError: no table, or one without the columns that every table has. EnvironmentLacks: Parquet
            without pyarrow.
    """
    import pandas as pd

    if path.exists() and not path.is_file():
        raise DataError("no file that can be read twice", where=str(path), hint="save the table as a file")
    head = _first_line(path)
    if head.startswith(LFS_POINTER):
        raise DataError(
            "a pointer of Git LFS, not the table it stands for", where=str(path),
            hint="fetch the files themselves: git lfs pull",
        )  # fmt: skip
    if path.suffix in (".csv", ".txt"):
        try:
            first = head.decode("utf-8", "replace")
            mark = delimiter_of(first)
            _check_names([name.strip().strip('"') for name in first.split(mark)], path)
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
    _check_names(list(frame.columns), path)
    frame = one_direction_a_row(frame)
    timed = [name for name in _UNITS if name in frame]
    missing = [name for name in ("op_name", "device") if name not in frame] + ([] if timed else ["latency"])
    if missing:
        raise DataError(
            f"a table of measurements needs the columns {', '.join(missing)}; this has "
            f"{_listed(frame.columns)}",
            where=str(path),
            hint="op_name, device and latency (milliseconds), and the shape columns of the kernel",
        )
    for name in TEXTS:
        if name in frame:
            frame[name] = frame[name].astype(object).map(_stripped)
            longest = max((len(text) for text in frame[name] if isinstance(text, str)), default=0)
            if longest > LONGEST:
                raise DataError(f"column {name} has a text of {longest:,} characters", where=str(path))
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
    if timed[0] == "latency":
        # Rows of dispatch have microseconds: their latency is the sum of columns that may say so, too.
        unit[(frame["op_name"] == "moe_a2a").to_numpy(dtype=bool)] = _UNITS["latency_us"]
    return frame.assign(device=devices[0], latency=frame[timed[0]], seconds=numbers * unit)


def _check_names(names: Sequence[str], path: Path) -> None:
    """Refuse a head with a name twice: pandas calls the second one otherwise."""
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise DataError(
            f"several columns are called {_listed(sorted(twice))}", where=str(path), hint="keep one of them"
        )


def _listed(names: Iterable[object]) -> str:
    """The first of many names, each cut where it is long."""
    return ", ".join(str(name)[:LONGEST_NAME] for name in islice(names, MOST_NAMED))


def _stripped(value: object) -> object:
    return value.strip() or None if isinstance(value, str) else value
