"""How ``kvplan calibrate --engine-log`` words a fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kvplan.cli.engine_fit import _table


def fitted(alone: float) -> list[str]:
    """The table of a fit with one constant known within 5 %, and one not at all."""
    fit: Any = SimpleNamespace(
        constants={"memory_efficiency": 0.8, "step_s": 1e-3},
        uncertainty={"memory_efficiency": 0.05},
        alone={"memory_efficiency": alone, "step_s": 9.0},
        unidentified={"step_s": "it cannot be told from the rest of a step"},
        assumed=("step_s",),
        requests=100,
        variation={},
        notes=(),
    )
    return _table(fit, 1, [("ttft", "p50", "+10.0%", "+1.0%")], "fitted.json")


def test_what_a_constant_is_known_to_alone_is_said_where_it_means_something() -> None:
    assert any("fitted, within 5% (40% alone)" in line for line in fitted(0.4))
    lines = fitted(34.7)
    assert any(line.endswith("fitted, within 5% (alone it cannot be told)") for line in lines)
    assert not any("3470%" in line for line in lines)
    assert any(line.endswith("fitted, within 5%") for line in fitted(0.05))
    assert all(len(line) <= 80 for line in lines)
