"""How ``kvplan calibrate --engine-log`` words a fit."""

from __future__ import annotations

from kvplan.cli.engine_fit import _table
from kvplan.scenario.engine_fit import EngineFit


def fitted(alone: float, why: str) -> list[str]:
    errors = {"ttft": {"p50": 0.1}}
    fit = EngineFit(
        "roofline",
        {"memory_efficiency": 0.8, "step_s": 1e-3},
        {"memory_efficiency": 0.05},
        {"memory_efficiency": alone, "step_s": 9.0},
        {"step_s": why},
        errors,
        errors,
        100,
        (),
    )
    return _table(fit, [("ttft", "p50", "+10.0%", "+1.0%")], "fitted.json")


def test_what_a_constant_is_known_to_alone_is_said_where_it_means_something() -> None:
    assert any("fitted, within 5% (40% alone)" in line for line in fitted(0.4, "why"))
    lines = fitted(34.7, "why")
    assert any(line.endswith("fitted, within 5% (alone it cannot be told)") for line in lines)
    assert not any("3470%" in line for line in lines)
    assert not any("alone)" in line.partition("(")[2] for line in fitted(0.05, "why") if "fitted" in line)
    assert all(len(line) <= 80 for line in lines)
