"""Logs as tests read them: files of one run."""

from __future__ import annotations

from pathlib import Path

from kvplan.scenario.engine_log import EngineLog, read_engine_logs


def read_engine_log(path: Path, max_in_flight: int | None = None) -> EngineLog:
    """The one run of a file."""
    (log,) = read_engine_logs(path, max_in_flight)
    return log
