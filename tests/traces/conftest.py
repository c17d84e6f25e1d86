"""Helpers for the tests of traces: writing small files and reading them back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kvplan.traces.request import Request
from kvplan.traces.trace import Trace, open_trace

Reading = Callable[..., tuple[list[Request], Trace]]


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    """``reading(content, name="trace.jsonl", **options)`` -> (requests, trace) after reading it all."""

    def read(content: str | bytes, name: str = "trace.jsonl", **options: Any) -> tuple[list[Request], Trace]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        trace = open_trace(path, **options)
        requests = list(trace.requests())
        report = trace.report
        assert report.rows == report.requests + report.dropped_rows
        assert len(requests) == report.requests
        assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(requests))
        return requests, trace

    return read
