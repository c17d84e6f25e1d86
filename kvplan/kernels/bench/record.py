"""The measurement file: appended to in memory, written whole and atomically, continued when it exists."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kvplan.errors import DataError

SCHEMA = "kvplan.kernel-measurements/1"
SECTIONS = ("correctness", "ceilings", "points", "peers", "tuning", "failures")
MUST_MATCH = ("kernels", "device", "torch", "triton", "dry_run")


class Record:
    """Measurements by section, each row identified by its key."""

    def __init__(self, path: Path, body: dict[str, Any]) -> None:
        self.path, self.body = path, body
        self._keys = {s: {row["key"] for row in body[s]} for s in SECTIONS}

    @classmethod
    def open(cls, path: Path, environment: dict[str, Any], retry: bool = True) -> Record:
        """A new record, or the one at ``path`` to continue.

        Args:
            retry: forget what failed or was wrong, so that it is tried again; and what was compiled ahead,
                which may have been on another machine.

        Raises:
            DataError: the file is not such a record, or was measured with other kernels, versions or device.
        """
        fresh = {"schema": SCHEMA, "environment": environment, "complete": False, **{s: [] for s in SECTIONS}}
        if not path.exists():
            return cls(path, fresh)
        held = cls.read(path)
        for name in MUST_MATCH:
            if held["environment"].get(name) != environment[name]:
                raise DataError(
                    f"measured with {name} {held['environment'].get(name)!r}, now {environment[name]!r}",
                    where=str(path), hint="measurements are not mixed: choose another -o",
                )  # fmt: skip
        if retry:
            held["failures"] = []
            checked = [row for row in held["correctness"] if row["ok"]]
            held["correctness"] = [row for row in checked if row.get("kind") != "warm"]
        return cls(path, fresh | held)

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """The content of a record's file.

        Raises:
            DataError: the file is not such a record.
        """
        try:
            held: dict[str, Any] = json.loads(path.read_text())
            schema = held["schema"]
        except (ValueError, KeyError, TypeError) as exc:
            raise DataError("not a measurement file", where=str(path), hint="choose another -o") from exc
        if schema != SCHEMA:
            raise DataError(f"schema {schema!r}, expected {SCHEMA!r}", where=str(path))
        return held

    def has(self, section: str, key: str) -> bool:
        """Whether a row is there."""
        return key in self._keys[section]

    def gave_up(self, key: str) -> bool:
        """Whether this could not be measured before."""
        return self.has("failures", key)

    def add(self, section: str, row: dict[str, Any]) -> None:
        """Add a row; saves every 50."""
        self.body[section].append(row)
        self._keys[section].add(row["key"])
        if sum(len(self.body[s]) for s in SECTIONS) % 50 == 0:
            self.save()

    def fail(self, stage: str, key: str, message: str) -> None:
        """Note what could not be measured."""
        self.add("failures", {"stage": stage, "key": key, "message": message[:500]})

    def wrong(self) -> list[dict[str, Any]]:
        """Correctness rows that failed."""
        return [row for row in self.body["correctness"] if not row["ok"]]

    def save(self) -> None:
        """Write the file, whole or not at all. NaN is refused: it is not JSON."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(self.path.suffix + ".part")
        beside.write_text(json.dumps(self.body, separators=(",", ":"), allow_nan=False) + "\n")
        os.replace(beside, self.path)
