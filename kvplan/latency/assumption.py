"""A value a latency model uses that nobody measured or gave: named, so that every result can print it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assumption:
    """What, how much, and why."""

    name: str
    value: str | int | float | bool | None
    source: str
