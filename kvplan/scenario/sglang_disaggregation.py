"""What of ``disaggregation`` is one engine's own, and which options SGLang's decode servers have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from kvplan.engine.disaggregation.sglang.options import (
    RESERVED_DECODE_TOKENS,
    DecodeOptions,
    default_extra_slots,
)
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.pool_ranks import ranks_of
from kvplan.scenario.pools import OPTIONS, own_scenario
from kvplan.scenario.schema import Scenario, SglangPart
from kvplan.scenario.schema.disaggregation import DisaggregationPart
from kvplan.scenario.side import Side

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport

SECTION = "disaggregation"

CHECKED = "0.5.23"
"""The version whose servers are simulated."""

_OWN = ("num_reserved_decode_tokens", "extra_slots")


def check_names(scenario: Scenario, part: DisaggregationPart) -> None:
    """Refuse options that a pool has under the other engine's names.

    Raises:
        UsageError: says what it is called here.
    """
    kind = scenario.engine.kind
    for other, names in OPTIONS.items():
        for pool, name in ((pool, name) for pool in ("prefill", "decode") for name in names):
            if other != kind and getattr(getattr(part, pool), name) is not None:
                raise UsageError(
                    f"{name} is an option of {other}, and the engine is {kind}",
                    where=f"{SECTION}.{pool}.{name}",
                    hint=f"here it is called {OPTIONS[kind][names.index(name)]}",
                )


def check_vllm(part: DisaggregationPart) -> None:
    """Refuse what only SGLang's decode servers have.

    Raises:
        UsageError: one of their options is given.
    """
    for name in (*_OWN, "enable_radix_cache"):
        if getattr(part.decode, name) is not None:
            raise UsageError(
                f"{name} is an option of sglang's decode servers, and the engine is vllm",
                where=f"{SECTION}.decode.{name}",
                hint="leave it out",
            )


def check_sglang(scenario: Scenario, part: DisaggregationPart) -> None:
    """Refuse what SGLang's servers do not do, or what is not simulated with them.

    Raises:
        UsageError: says what, and why.
    """
    refused = (
        (
            part.streaming != "whole", f"{SECTION}.streaming",
            "SGLang sends KV when a chunk of the prompt is computed, not layer by layer", "leave it out",
        ),
        (
            part.dtype is not None, f"{SECTION}.dtype", "SGLang sends a cache as it is stored",
            "leave it out, or say cache.dtype",
        ),
        (
            part.prefill.kv_role != "kv_both", f"{SECTION}.prefill.kv_role",
            "kv_role is of vLLM's connector, and the engine is sglang", "leave it out",
        ),
        (
            part.first_token != "decode", f"{SECTION}.first_token",
            "SGLang's decode server hands out the first token, which came with the cache", "leave it out",
        ),
        (
            any(pp not in (None, 1) for pp in (scenario.parallel.pp, part.prefill.pp, part.decode.pp)),
            "parallel.pp", "pipeline stages of SGLang's prefill and decode servers are not simulated",
            "use tensor parallelism",
        ),
    )  # fmt: skip
    for applies, where, message, hint in refused:
        if applies:
            raise UsageError(message, where=where, hint=hint)


def unchecked(scenario: Scenario) -> tuple[str, ...]:
    """What to know where another version is asked for."""
    engine = scenario.engine
    if not isinstance(engine, SglangPart) or engine.version == CHECKED:
        return ()
    return (f"prefill and decode servers are those of SGLang {CHECKED}, not of {engine.version}",)


def decode_options(scenario: Scenario, part: DisaggregationPart) -> DecodeOptions:
    """Options of the decode servers, what is left out filled in."""
    pool = part.decode
    engine = own_scenario(scenario, pool).engine
    assert isinstance(engine, SglangPart)
    running, slots = engine.max_running_requests, pool.extra_slots
    if slots is None:
        ranks = ranks_of(scenario, part.lanes, pool)
        if running is not None and ranks is not None:
            running = max(1, running // ranks.count)
        slots = default_extra_slots(running)
    reserve = pool.num_reserved_decode_tokens
    return DecodeOptions(
        RESERVED_DECODE_TOKENS if reserve is None else reserve, slots, bool(pool.enable_radix_cache)
    )


def prefill_host(scenario: Scenario, part: DisaggregationPart, side: Side) -> Chosen | None:
    """``tiers`` below every prefill server; None without any.

    Args:
        side: the prefill pool.

    Raises:
        UsageError, UnknownName: as ``tiers``.
    """
    if not scenario.has_tiers:
        return None
    from kvplan.scenario.tiers import tiers

    chosen = tiers(own_scenario(scenario, part.prefill), side.deployment)
    where = Assumption(
        f"{SECTION}.tiers", "prefill servers",
        "each has this host tier (--enable-hierarchical-cache); decode servers have none",
    )  # fmt: skip
    return replace(chosen, assumptions=(where, *chosen.assumptions))


def role_flags(part: DisaggregationPart, *, decodes: bool) -> str:
    """What makes ``sglang.launch_server`` a server of one of the pools, as simulated: a decode server may
    copy all it retracts to the host, where by default only so much has room and the rest is aborted."""
    if not decodes:
        return "--disaggregation-mode prefill"
    flags = ["--disaggregation-mode decode", "--disaggregation-decode-retraction-backup cpu_tensor"]
    given = part.decode
    if given.num_reserved_decode_tokens is not None:
        flags.append(f"--num-reserved-decode-tokens {given.num_reserved_decode_tokens}")
    if given.extra_slots is not None:
        flags.append(f"--disaggregation-decode-extra-slots {given.extra_slots}")
    if given.enable_radix_cache:
        flags.append("--disaggregation-decode-enable-radix-cache")
    return " ".join(flags)


def about_options(
    options: DecodeOptions, part: DisaggregationPart, fit: FitReport | None
) -> Iterator[Assumption]:
    """What was filled in, or is not simulated; ``fit``: the memory plan both pools begin with."""
    if fit is not None and "utilization" not in fit.serving.given:
        yield Assumption(
            f"{SECTION}.mem_fraction_static", fit.serving.utilization,
            "what a server that does both takes, and what both are started with; a decode server alone would "
            "hold back less for prompts",
        )  # fmt: skip
    values = (options.num_reserved_decode_tokens, options.extra_slots)
    whys = ("the engine's default", "the engine's rule for so many running requests")
    for name, value, why in zip(_OWN, values, whys, strict=True):
        if getattr(part.decode, name) is None:
            yield Assumption(f"{SECTION}.decode.{name}", value, why)
    yield Assumption(
        f"{SECTION}.handshake", 0, "seconds: what servers tell each other beside the cache takes no time"
    )
    yield Assumption(
        f"{SECTION}.retraction", 0, "seconds: copying what is retracted to the host and back takes no time"
    )
