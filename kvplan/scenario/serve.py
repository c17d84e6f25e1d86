"""The command that starts an engine as a scenario has it."""

from __future__ import annotations

from kvplan.scenario.deployment import resolve_deployment
from kvplan.scenario.schema import Scenario


def serve_line(scenario: Scenario) -> str | None:
    """Of one replica; None where it has none: without a model and a GPU, or with formats no engine stores."""
    from kvplan.sizing.flags import engine_flags

    fit = resolve_deployment(scenario).fit
    line = None if fit is None else engine_flags(fit)[fit.serving.kind]
    host = None if scenario.tiers is None else scenario.tiers.host
    if line is None or host is None or host.connector is None or not host.memory:
        return line
    from kvplan.scenario.offloading import flags

    return f"{line} {flags(host)}"
