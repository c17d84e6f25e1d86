"""The progress line: drawn on a terminal, wiped at the end, absent elsewhere."""

from __future__ import annotations

import pytest

from kvplan.cli import progress
from kvplan.cli.progress import Progress


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """A line on what counts as a terminal."""
    monkeypatch.setattr(progress, "_INTERVAL_S", 0.0)
    made = Progress(100)
    made.live = True
    return made


def test_members_of_an_ensemble_are_counted_on_one_line(
    line: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    with line:
        line.member(0, 8)
        line.member(5, 8)
    text = capsys.readouterr().err
    assert "ensemble: 5 of 8 simulations" in text
    assert "\n" not in text
    assert text.endswith("\r\x1b[K")


def test_requests_are_counted_with_their_share(line: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    with line:
        line.update(50, 12.0)
    text = capsys.readouterr().err
    assert "50 requests" in text
    assert "50%" in text


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_drawn_where_stderr_is_no_terminal_or_quiet_was_asked(
    quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(100, quiet=quiet) as plain:
        plain.update(50, 12.0)
        plain.member(1, 8)
    assert capsys.readouterr().err == ""
