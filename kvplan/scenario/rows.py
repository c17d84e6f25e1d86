"""Writing one row per finished request while a simulation runs."""

from __future__ import annotations

import csv
import json
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from kvplan.engine.recorder import RequestRow
from kvplan.errors import EnvironmentLacks, UsageError

COLUMNS = RequestRow._fields
PARQUET_BATCH = 65_536


class RowWriter(AbstractContextManager["RowWriter"]):
    """Rows to a file whose suffix says the format: ``.jsonl``, ``.csv`` or ``.parquet``; ``-`` is JSON lines.

    JSON lines and CSV are written as requests finish; Parquet in batches.

    Raises:
        UsageError: another suffix. EnvironmentLacks: Parquet without pyarrow. OSError: not writable.
    """

    def __init__(self, path: str) -> None:
        self._batch: list[RequestRow] = []
        self._parquet: Any = None
        self._stream: IO[str] | None = None
        suffix = ".jsonl" if path == "-" else Path(path).suffix.lower()
        if suffix == ".jsonl":
            self._open(path)
            self.write = self._write_json
        elif suffix == ".csv":
            self._open(path)
            assert self._stream is not None
            rows = csv.writer(self._stream, lineterminator="\n")
            rows.writerow(COLUMNS)
            self.write = rows.writerow
        elif suffix == ".parquet":
            self._open_parquet(path)
            self.write = self._write_parquet
        else:
            raise UsageError(
                f"cannot tell the format of --requests {path!r}", hint="end it in .jsonl, .csv or .parquet"
            )

    def _open(self, path: str) -> None:
        import sys

        if path == "-":
            self._stream = sys.stdout
        else:
            self._stream = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed in __exit__

    def _open_parquet(self, path: str) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as exc:
            raise EnvironmentLacks(
                "writing Parquet needs pyarrow", hint="pip install 'kvplan[parquet]', or use .jsonl"
            ) from exc
        kinds = {"id": pa.string()} | {
            name: pa.float64() if name.endswith("_s") else pa.int64() for name in COLUMNS[1:]
        }
        self._schema = pa.schema(list(kinds.items()))
        self._parquet = pq.ParquetWriter(path, self._schema)

    def _write_json(self, row: RequestRow) -> None:
        assert self._stream is not None
        self._stream.write(json.dumps(row._asdict()) + "\n")

    def _write_parquet(self, row: RequestRow) -> None:
        self._batch.append(row)
        if len(self._batch) >= PARQUET_BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = list(zip(*self._batch, strict=True)) or [()] * len(COLUMNS)
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, self._schema, strict=True)]
        self._parquet.write_table(pa.table(arrays, schema=self._schema))
        self._batch = []

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parquet is not None:
            self._flush()
            self._parquet.close()
        if self._stream is not None:
            import sys

            if self._stream is not sys.stdout:
                self._stream.close()
