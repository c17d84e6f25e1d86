"""The pools that an SGLang rank allocates: the target's, perhaps of two parts, and a draft model's.

A model with sliding windows has a pool for its windowed layers beside the one for the others; newer versions
print the sum of both behind them. A draft model (EAGLE, MTP) has a worker of its own, which loads its weights
and allocates its pool with the same wordings: behind everything of the target's, or, in versions that load
both models first, behind the target's pool. A server that sizes its pool after capturing graphs first sets
addresses aside, which some versions call allocated; what it says behind the graphs counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kvplan.sizing.logs.lines import Fact


@dataclass(frozen=True, slots=True)
class Workers:
    """What one rank's target and draft workers took, in GiB; ``None`` where the log is silent.

    Attributes:
        tokens: tokens of the target's pool, in layers without a window.
        window_tokens: tokens of its pool of windowed layers.
        graph_gib: all its CUDA graphs, the draft's included.
        state_gib: states of recurrent layers, those kept for speculation included.
        left_gib: what is free once everything is up.
        draft_is_loaded_first: both models' weights are loaded before any pool.
    """

    weights_gib: float | None = None
    pool_gib: float | None = None
    tokens: float | None = None
    window_tokens: float | None = None
    draft_weights_gib: float | None = None
    draft_pool_gib: float | None = None
    graph_gib: float | None = None
    state_gib: float | None = None
    left_gib: float | None = None
    draft_is_loaded_first: bool = False


@dataclass(frozen=True, slots=True)
class _Pool:
    """One pool, or both parts of one; ``worker`` counts how often weights had begun to load before it."""

    worker: int
    gib: float
    tokens: float | None
    window_tokens: float | None = None


def workers(facts: Iterable[Fact]) -> Workers:
    """The account of one rank's facts, in the order of the log."""
    facts = list(facts)
    pools, loads = _pools(facts)
    target, draft = _target_and_draft(pools, loads)
    said = [pool.tokens for pool in target if pool.tokens is not None]
    windows = [pool.window_tokens for pool in target if pool.window_tokens is not None]
    if not windows and len(set(said)) > 1:
        windows = [min(said)]
    weights = _weights(facts)
    found = Workers(
        weights[0] if weights else None,
        sum(pool.gib for pool in target) if target else None,
        max(said) if said else None,
        windows[0] if windows else None,
        sum(weights[1:]) if weights[1:] else None,
        sum(pool.gib for pool in draft) if draft else None,
        _sum([fact.number("graph_gib") for fact in facts if "graph_gib" in fact.values]),
        _sum([size for fact in facts if fact.name == "sglang_state" for size in _sizes(fact)]),
        next((fact.number("left_gib") for fact in reversed(facts) if "left_gib" in fact.values), None),
        bool(pools) and pools[0].worker > 1,
    )
    return _resized(found, facts)


def _weights(facts: list[Fact]) -> list[float]:
    """Weights of each model; old versions say only what is free before and behind them."""
    found, before = [], None
    for fact in facts:
        if fact.name == "load_begin":
            before = fact.number("free_gib")
        elif fact.name == "load_end" and "weights_gib" in fact.values:
            found.append(fact.number("weights_gib"))
        elif fact.name == "load_end" and before is not None:
            found.append(round(before - fact.number("after_gib"), 2))
    return found


def _pools(facts: list[Fact]) -> tuple[list[_Pool], int]:
    """The pools in order, and how many models were loaded."""
    pools: list[_Pool] = []
    loads = 0
    for fact in facts:
        if fact.name == "load_begin":
            loads += 1
        elif fact.name in ("sglang_pool", "sglang_unified_pool", "sglang_plan"):
            tokens = fact.number("pool_tokens") if "pool_tokens" in fact.values else None
            pools.append(_Pool(loads, pool_gib(fact), tokens))
        elif fact.name == "sglang_window_pool":
            # The sum of the two pools above it, which were printed on their own.
            whole, window = fact.number("pool_tokens"), fact.number("window_tokens")
            while pools and pools[-1].worker == loads and pools[-1].window_tokens is None:
                if pools[-1].tokens not in (whole, window):
                    break
                pools.pop()
            pools.append(_Pool(loads, fact.number("pool_gib"), whole, window))
    return pools, loads


def _resized(found: Workers, facts: list[Fact]) -> Workers:
    """What is left of the pools once graphs are captured, where the server sizes them then."""
    last = {fact.name: fact for fact in facts if fact.name.startswith("resized_")}
    pool = last.get("resized_pool", last.get("resized_tokens"))
    if pool is None:
        return found
    shares, draft = last.get("resized_shares"), last.get("resized_draft")
    return replace(
        found,
        pool_gib=pool.number("pool_gib") if "pool_gib" in pool.values else None,
        tokens=pool.number("pool_tokens"),
        window_tokens=(shares.number("window_tokens") or None) if shares else found.window_tokens,
        draft_pool_gib=draft.number("pool_gib") if draft else None,
    )


def _sizes(fact: Fact) -> list[float]:
    return [fact.number(key) for key in fact.values if key.endswith("_gib")]


def _sum(values: list[float]) -> float | None:
    return sum(values) if values else None


def _target_and_draft(pools: list[_Pool], loads: int) -> tuple[list[_Pool], list[_Pool]]:
    if loads < 2:
        return pools, []
    early = [pool for pool in pools if pool.worker < 2]
    early = early or pools[:1]  # both models were loaded first: the target allocates first
    return early, pools[len(early) :]


def pool_gib(fact: Fact) -> float:
    """Size of the pool that a line names, in GiB."""
    if "k_gib" in fact.values:
        return fact.number("k_gib") + fact.number("v_gib")
    return fact.number("pool_gib")
