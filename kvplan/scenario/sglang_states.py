"""SGLang's pool of recurrent states: how many slots the plan leaves it, and which strategy the model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario, SglangPart

if TYPE_CHECKING:
    from kvplan.engine.sglang_states.rules import StateRules
    from kvplan.sizing.capacity import FitReport


def state_rules(scenario: Scenario, fit: FitReport | None, page: int) -> StateRules | None:
    """Slots and strategy; None where the model has no states, or a pool was given that knows none.

    Raises:
        UsageError: a model, a version or options whose pool of states is not simulated.
    """
    engine = scenario.engine
    if fit is None or scenario.cache.blocks is not None or not isinstance(engine, SglangPart):
        return None
    slots = [stage.capacity.states for stage in fit.stages if stage.capacity.states is not None]
    if not slots:
        return None
    from kvplan.engine.sglang_states.rules import StateRules
    from kvplan.sizing.sglang.page import SPARE_STATES, spare_states
    from kvplan.sizing.sglang.states import caches_states, state_chunk

    model, version = fit.model, fit.serving.version
    hint = "simulate it with engine.kind=vllm, or give the full pool alone with cache.blocks"
    if version < SPARE_STATES:
        raise UsageError(
            f"layers of {model.name} keep a state, which is simulated of SGLang from 0.5.14 on, not of "
            f"{fit.serving.version_text}",
            where="engine.version",
            hint="use 0.5.23",
        )
    if not caches_states(model, fit.serving):
        raise UsageError(
            f"layers of {model.name} keep a state, and its class is none that SGLang's radix cache knows; "
            "what it does with them is not simulated",
            where="engine.kind",
            hint=hint,
        )
    drafts = scenario.speculative is not None
    if engine.disable_radix_cache and (drafts or engine.max_running_requests is not None):
        raise UsageError(
            "without a radix cache SGLang has a state for each of max_running_requests"
            f"{', which it sets beside drafts,' if drafts else ''} and leaves other memory to tokens, which "
            "is not sized",
            where="engine.max_running_requests",
            hint="turn the prefix cache on (cache.prefix: radix)" if drafts else
            "leave it out, or turn the prefix cache on (cache.prefix: radix)",
        )  # fmt: skip
    return StateRules(min(slots), state_chunk(model)[0], spare_states(model, fit.serving, page) > 0)


def recurrent_states(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """The strategy of a model with recurrent layers below SGLang, and what it assumes; None of another."""
    config, fit = deployment.config, deployment.fit
    if not isinstance(config, SglangConfig) or fit is None:
        return None
    rules = state_rules(scenario, fit, config.page_size)
    if rules is None:
        return None
    from kvplan.engine.sglang_states.strategy import RecurrentStates
    from kvplan.sizing.sglang.states import state_chunk

    assumed = [
        Assumption("max_mamba_cache_size", rules.slots, "what the memory bill leaves for recurrent states")
    ]
    if not config.disable_radix_cache:
        strategy = "extra_buffer" if rules.spare else "no_buffer"
        assumed.append(Assumption("mamba_radix_cache_strategy", strategy, "SGLang's choice for this model"))
    if rules.spares(config) and not state_chunk(fit.model)[1]:
        assumed.append(
            Assumption(
                "mamba_chunk_size", rules.chunk, "what SGLang takes where a configuration does not say"
            )
        )
    return Chosen(RecurrentStates(rules), tuple(assumed))
