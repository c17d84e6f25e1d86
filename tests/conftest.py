"""Fixtures that every part of the suite shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run: a change that fails has brought the failure. `make fuzz` looks for new ones.
# How long one takes depends on what else the machine does, and decides nothing.
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

PROJECT = Path(__file__).resolve().parent.parent


def shared_directory() -> Path | None:
    """The data set that some tests compare with: ``KVPLAN_SHARED`` or ``../shared``; ``None`` when absent."""
    named = os.environ.get("KVPLAN_SHARED")
    place = Path(named) if named else PROJECT.parent / "shared"
    return place if (place / "data").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data set; skips the test, saying so, where there is none."""
    place = shared_directory()
    if place is None:
        pytest.skip("no shared data: set KVPLAN_SHARED or put it at ../shared")
    return place
