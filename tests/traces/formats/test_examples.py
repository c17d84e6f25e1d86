"""The examples that ``kvplan trace formats`` shows are traces of the formats they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan.traces import formats
from kvplan.traces.trace import open_trace
from kvplan.traces.write import WRITERS

SHOWN = [name for name in formats.names() if formats.get(name).example]


def test_every_format_that_is_written_has_one() -> None:
    assert set(WRITERS) <= set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_is_recognised_and_read_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / "example"
    path.write_text(formats.get(name).example + "\n")
    trace = open_trace(str(path), format="auto")
    requests = list(trace.requests())
    assert trace.format == name
    assert len(requests) == trace.report.rows == 1
    assert requests[0].output_tokens in (9, 20)
    assert not trace.report.dropped
