"""What SGLang's prefill and decode servers have beside their tokens: pools for windows or for states."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.payload import StatePayload
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.errors import AnswerIsNo
from kvplan.latency.assumption import Assumption
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.pools import own_scenario
from kvplan.scenario.schema import Scenario, SglangPart
from kvplan.scenario.schema.disaggregation import DisaggregationPart
from kvplan.scenario.sglang_states import recurrent_states
from kvplan.scenario.sglang_windows import sliding_windows
from kvplan.scenario.side import SECTION, Side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvplan.sizing.capacity import FitReport


def sides_beside(
    scenario: Scenario, part: DisaggregationPart, sides: tuple[Side, Side], options: DecodeOptions
) -> tuple[tuple[Side, Side], tuple[Assumption, ...]]:
    """Both pools with what their instances have beside tokens, and what that assumes.

    Drafts know of windows and states themselves, and are not simulated with either here.

    Raises:
        UsageError: a model, a version or options whose pools are not simulated.
        AnswerIsNo: the decode server has no memory left for tokens.
    """
    prefill, decode = sides
    chosen = _beside(own_scenario(scenario, part.prefill), prefill)
    if chosen is None:
        return sides, ()
    assert isinstance(chosen.strategy, RecurrentStates | WindowPools)
    first = replace(prefill, plan=replace(prefill.plan, beside=chosen.strategy))
    second, more = _decode_side(own_scenario(scenario, part.decode), decode, options)
    return (first, second), (*chosen.assumptions, *more)


def _beside(scenario: Scenario, side: Side) -> Chosen | None:
    if scenario.speculative is not None:
        return None
    found = side.deployment
    return recurrent_states(scenario, found) or sliding_windows(scenario, found)


def _decode_side(
    scenario: Scenario, side: Side, options: DecodeOptions
) -> tuple[Side, tuple[Assumption, ...]]:
    """A decode server's pools: without a radix cache they are others than of a server that does both."""
    chosen = _beside(scenario, side)
    if chosen is None:
        return side, ()
    engine, config, fit = scenario.engine, side.deployment.config, side.deployment.fit
    assert isinstance(engine, SglangPart)
    assert isinstance(config, SglangConfig)
    assert fit is not None
    ranks = scenario.parallel.ranks
    given = engine.max_running_requests
    requests = None if given is None else max(1, given // ranks)
    beside = chosen.strategy
    assert isinstance(beside, RecurrentStates | WindowPools)
    tokens = config.pool_tokens
    if isinstance(beside, WindowPools):
        windows = beside.windows
        size = windows.pool_tokens
        if requests is not None:
            size, tokens = _windows(beside, config, engine, fit, requests, options)
        beside = WindowPools(replace(windows, pool_tokens=size))
        assumed = Assumption(
            f"{SECTION}.decode.swa_max_total_tokens", size,
            "as on a server that does both" if requests is None else
            "what so many requests may need at once, and each of extra_slots for a prompt",
        )  # fmt: skip
        running = config.max_running_requests
    else:
        slots = beside.rules.slots
        if requests is not None:
            slots, tokens = requests, _tokens_beside_states(engine, fit, requests)
        beside = RecurrentStates(replace(beside.rules, slots=slots))
        assumed = Assumption(
            f"{SECTION}.decode.max_mamba_cache_size", slots,
            "one slot a request, as a decode server keeps no prefixes; extra_slots have theirs beside",
        )  # fmt: skip
        running = slots
    if tokens <= 0:
        raise AnswerIsNo(
            f"the decode server's pool beside its tokens, for {requests} requests, leaves no memory for them",
            where=f"{SECTION}.decode.max_running_requests",
            hint="let fewer requests run, or use a GPU with more memory",
        )
    from kvplan.sizing.sglang.pool import running_requests

    rule = running_requests(fit.serving.version, tokens, config.context_length, given=requests)
    changed = replace(
        config, pool_tokens=tokens, max_running_requests=min(rule, running), disable_radix_cache=True,
        disable_overlap_schedule=engine.disable_overlap_schedule,
    )  # fmt: skip
    more = [assumed]
    for name, value, was in (
        ("max_total_tokens", tokens, config.pool_tokens),
        ("max_running_requests", changed.max_running_requests, config.max_running_requests),
    ):
        if value != was:
            more.append(Assumption(f"{SECTION}.decode.{name}", value, "without a radix cache"))
    return replace(side, plan=replace(side.plan, config=changed, beside=beside)), tuple(more)


def _windows(
    beside: WindowPools, config: SglangConfig, engine: SglangPart, fit: FitReport, requests: int,
    options: DecodeOptions,
) -> tuple[int, int]:  # fmt: skip
    """Tokens of the pool for windows, and of the full one."""
    from kvplan.sizing.sglang.decode_pools import tokens_beside_windows, window_cap

    span, interval, page = beside.windows.span, beside.windows.interval, config.page_size
    windows = window_cap(span, interval, page, requests, options.extra_slots)
    tokens = min(tokens_beside_windows(stage.pool, stage.pool_bytes, windows) for stage in fit.stages)
    if engine.max_total_tokens is not None and engine.max_total_tokens < tokens:
        tokens = engine.max_total_tokens - engine.max_total_tokens % page
        windows = min(windows, engine.max_total_tokens)
    return windows, tokens


def _tokens_beside_states(engine: SglangPart, fit: FitReport, slots: int) -> int:
    from kvplan.sizing.sglang.decode_pools import tokens_beside_states

    tokens = min(tokens_beside_states(stage.pool, stage.pool_bytes, slots) for stage in fit.stages)
    return min(tokens, engine.max_total_tokens or tokens)


def about_payload(payload: StatePayload) -> Iterator[Assumption]:
    """What is sent beside pages of the whole context."""
    if payload.state_bytes:
        yield Assumption(
            f"{SECTION}.state_bytes", payload.state_bytes,
            "recurrent states of all layers, sent once a request with the last page",
        )  # fmt: skip
    if payload.window_block_bytes:
        yield Assumption(
            f"{SECTION}.window_page_bytes", payload.window_block_bytes,
            f"of a page of windows, all layers; those of the last {payload.span} tokens are sent, with the "
            "last page",
        )  # fmt: skip
