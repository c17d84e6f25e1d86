"""``kvplan.engine-fit/1``: what a fit to a serving run is written as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvplan.scenario.engine_fit import EngineFit
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.schema import Scenario


def fit_document(
    fit: EngineFit, scenario: Scenario, log: EngineLog | Sequence[EngineLog], inputs: list[Any]
) -> dict[str, Any]:
    """``kvplan.engine-fit/1``: what ``latency: {model: fitted, name: FILE}`` reads.

    Args:
        log: what was fitted, a run or several.
    """
    logs = [log] if isinstance(log, EngineLog) else log
    return {
        "schema": "kvplan.engine-fit/1",
        "model": scenario.model,
        "gpu": scenario.gpu,
        "engine": scenario.engine.kind,
        "parallel": {"tp": scenario.parallel.tp, "pp": scenario.parallel.pp, "cp": scenario.parallel.cp},
        "latency": {
            "model": fit.model,
            **{k: v for k, v in scenario.latency.parameters().items() if k not in fit.constants},
            **{k: v for k, v in fit.constants.items() if k not in fit.assumed},
            **fit.variation,
        },
        "constants": fit.constants,
        "client_variation": fit.variation,
        "spread": {"names": list(fit.spread[0]), "factor": [list(row) for row in fit.spread[1]]},
        "client_overhead_range_s": None if fit.client_s is None else list(fit.client_s),
        "logs": [{"path": each.path, "format": each.format, "requests": len(each.rows)} for each in logs],
        "in_flight": list(fit.in_flight),
        "held_out": {
            "requests": fit.requests // 2,
            "before": fit.before,
            "after": fit.after,
            "parts": fit.parts,
            "tail_s": fit.tail_s,
        },
        "uncertainty": fit.uncertainty,
        "uncertainty_alone": fit.alone,
        "not_identified": fit.unidentified,
        "notes": list(fit.notes),
        "inputs": inputs,
    }
