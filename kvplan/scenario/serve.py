"""The command that starts an engine as a scenario has it."""

from __future__ import annotations

from kvplan.scenario.deployment import resolve_deployment
from kvplan.scenario.schema import Scenario


def serve_line(scenario: Scenario) -> str | None:
    """Of one replica; None where it has none: without a model and a GPU, or with formats no engine stores."""
    from kvplan.sizing.flags import engine_flags

    deployment = resolve_deployment(scenario)
    fit = deployment.fit
    line = None if fit is None else engine_flags(fit)[fit.serving.kind]
    if line is None or (scenario.tiers is None and not scenario.cache.host_memory):
        return line  # tiers take links and curves with them
    from kvplan.scenario.tiers import launch_flags

    more = launch_flags(scenario, deployment)
    return line if more is None else f"{line} {more}"
