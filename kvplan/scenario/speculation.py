"""``speculative`` of a scenario: who drafts, as a strategy of the engine and as a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.speculation.acceptance import Acceptance, geometric, of_mean_length
from kvplan.engine.speculation.rules import (
    LOOKAHEAD_HASHES,
    SGLANG_SEEN,
    DraftRules,
    rules_of,
    sglang_rules_of,
)
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.engine import EnginePart
from kvplan.scenario.schema.sglang import SglangPart
from kvplan.scenario.schema.speculative import SpeculativePart
from kvplan.scenario.sglang_states import recurrent_states
from kvplan.scenario.sglang_windows import sliding_windows

if TYPE_CHECKING:
    from kvplan.specs.model import ModelSpec


def speculation(scenario: Scenario, deployment: Deployment, part: SpeculativePart) -> Chosen:
    """The strategy, with pools that SGLang has beside that of tokens, and what it assumes.

    Raises:
        UsageError: drafts that ranks which share a context do not make, or that a model's modules cannot
            share out, prompts that SGLang looks up, pools that are not simulated.
    """
    model = deployment.model
    modules = 1
    if part.method == "mtp" and model is not None:
        modules = prediction_layers(model, part.tokens)
    if scenario.parallel.cp > 1 and (part.method != "mtp" or min(modules, part.tokens) > 1):
        raise UsageError(
            "ranks that share a context draft with one prediction layer of the model's own; vLLM refuses "
            "others, too",
            where="parallel.cp",
            hint="use cp 1, or speculative: {method: mtp, tokens: 1}",
        )
    rules = _rules(part, scenario, modules)
    acceptance = _acceptance(part, scenario.seed)
    shown = ", ".join(f"{rate:.3g}" for rate in acceptance.rates)
    assumed = Assumption(
        "speculative.rates", shown,
        "chance that the first, second, ... draft of a step stands, independent from step to step",
    )  # fmt: skip
    pools = [
        chosen
        for look in (recurrent_states, sliding_windows)
        if (chosen := look(scenario, deployment)) is not None
    ]
    assumptions = [assumed, *(item for chosen in pools for item in chosen.assumptions)]
    strategy = Speculation(
        rules, acceptance,
        states=next((c.strategy.rules for c in pools if isinstance(c.strategy, RecurrentStates)), None),
        windows=next((c.strategy.windows for c in pools if isinstance(c.strategy, WindowPools)), None),
    )  # fmt: skip
    return Chosen(strategy, tuple(assumptions), tuple(_warnings(part, scenario)))


def _rules(part: SpeculativePart, scenario: Scenario, modules: int) -> DraftRules:
    engine = scenario.engine
    if isinstance(engine, EnginePart):
        return rules_of(part.method, part.tokens, _version(engine.version), modules=modules)
    return sglang_rules_of(part.method, part.tokens)


def _version(text: str) -> tuple[int, int, int]:
    from kvplan.sizing.serving import parse_version

    return parse_version(text)


def prediction_layers(model: ModelSpec, drafts: int) -> int:
    """Prediction layers of a model that make so many drafts in turns.

    Raises:
        UsageError: it has none, or the drafts cannot be dealt out to them.
    """
    if model.draft is None:
        raise UsageError(
            f"{model.name} has no multi-token-prediction layers to draft with", where="speculative.method",
            hint="use eagle or draft_model with a speculative.model, or ngram",
        )  # fmt: skip
    layers = model.draft.layers
    if drafts > layers and drafts % layers:
        raise UsageError(
            f"{model.name} drafts with {layers} prediction layers in turns, which {drafts} drafts are no "
            "multiple of; vLLM refuses that, too",
            where="speculative.tokens",
            hint=f"use {layers} or a multiple of it, or fewer",
        )
    return layers


def _acceptance(part: SpeculativePart, seed: int) -> Acceptance:
    if part.acceptance_length is not None:
        return of_mean_length(part.acceptance_length, part.tokens, seed)
    if isinstance(part.acceptance, list):
        return Acceptance(tuple(part.acceptance), seed)
    assert part.acceptance is not None
    return geometric(part.acceptance, part.tokens, seed)


def _warnings(part: SpeculativePart, scenario: Scenario) -> list[str]:
    """What the result takes for granted."""
    found = []
    engine = scenario.engine
    version = _version(engine.version)
    if isinstance(engine, SglangPart):
        if version < SGLANG_SEEN:
            found.append("speculative decoding is scheduled as SGLang 0.5.23 does")
        if engine.enable_mixed_chunk and part.method == "draft_model":
            found.append("SGLang turns mixed chunks off beside a draft model")
    else:
        if version < LOOKAHEAD_HASHES:
            found.append(
                "speculative decoding is scheduled as vLLM 0.33 does, but for which prefixes it finds"
            )
        if engine.async_scheduling and not rules_of(part.method, part.tokens, version).ahead:
            beside = "drafts are looked up" if part.method == "ngram" else "another model drafts"
            found.append(
                f"vLLM {engine.version} does not schedule ahead where {beside}, and so neither does this run"
            )
    if part.method == "ngram":
        found.append("every step is taken to have drafts; what looking them up costs the host is not timed")
    if scenario.latency.model == "linear" and part.method != "ngram":
        found.append("a linear clock does not know what making drafts takes: it is not in these times")
    return found


def drafter_of(scenario: Scenario, model: ModelSpec) -> ModelSpec | None:
    """The model whose passes make the drafts; None without one.

    Raises:
        UsageError, SpecError: no such model.
    """
    part = scenario.speculative
    if part is None or part.method == "ngram":
        return None
    if part.method == "mtp":
        from kvplan.latency.drafting import own_drafter

        prediction_layers(model, part.tokens)
        return own_drafter(model)
    from kvplan.specs.resolve import resolve_model

    assert part.model is not None
    found = resolve_model(part.model).model
    if part.method == "eagle" and found.hidden_size != model.hidden_size:
        raise UsageError(
            f"{found.name} has a hidden size of {found.hidden_size:,}, {model.name} one of "
            f"{model.hidden_size:,}",
            where="speculative.model",
            hint="layers for eagle are trained for one model; another model drafts with draft_model",
        )
    return found
