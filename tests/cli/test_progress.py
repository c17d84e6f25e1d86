"""The progress line: drawn on a terminal, wiped at the end, absent elsewhere."""

from __future__ import annotations

import sys

import pytest

from kvplan.cli import progress
from kvplan.cli.progress import Progress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After ``capsys``, which puts its own stream in place."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("terminal")
def test_members_of_an_ensemble_are_counted_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None) as line:
        line.member(0, 8)
        line.member(5, 8)
    text = capsys.readouterr().err
    assert "ensemble: 5 of 8 simulations" in text
    assert "\n" not in text
    assert text.endswith("\r\x1b[K")


@pytest.mark.usefixtures("terminal")
def test_requests_are_counted_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100) as line:
        line.update(50, 12.0)
    assert "50 requests" in capsys.readouterr().err


@pytest.mark.usefixtures("terminal")
def test_quiet_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, quiet=True) as line:
        line.update(50, 12.0)
        line.member(1, 8)
    assert capsys.readouterr().err == ""


def test_nothing_is_drawn_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100) as line:
        line.member(1, 8)
    assert capsys.readouterr().err == ""
