"""Two engines that must agree, whether or not they keep a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kvplan.engine.recorder import Recorder
from kvplan.engine.strategy import Engine

Make = Callable[[Recorder], Engine]


class Outcome(Protocol):
    """What a run told: its decision lines, and everything else."""

    lines: list[str]

    @property
    def told(self) -> tuple[object, ...]: ...


def in_strides(engine: Engine, recorder: Recorder) -> Engine:
    """``engine``, whose instances behind a router have points of their own as often as ``recorder`` has."""
    for replica in getattr(engine, "replicas", ()):
        replica.recorder.series_stride = recorder.series_stride
    return engine


def agree(play: Callable[[Make, bool], Outcome], reference: Make, fast: Make, bulk: Make) -> None:
    """Play with a log (``play(make, True)``), and once more without, as ``bulk``: what is told is the same."""
    expected = play(reference, True)
    stepping = play(fast, True)
    assert stepping.lines == expected.lines
    assert stepping.told == expected.told
    assert play(bulk, False).told == expected.told
