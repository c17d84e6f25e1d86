"""The pools that an SGLang rank allocates: the target's, perhaps of two parts, and a draft model's.

A model with sliding windows has a pool for its windowed layers beside the one for the others; newer versions
print the sum of both behind them. A draft model (EAGLE, MTP) has a worker of its own, which loads its weights
and allocates its pool with the same wordings: behind everything of the target's, or, in versions that load
both models first, behind the target's pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvplan.sizing.logs.lines import Fact


@dataclass(frozen=True, slots=True)
class Workers:
    """What one rank's target and draft workers took, in GiB; ``None`` where the log is silent.

    Attributes:
        tokens: tokens of the target's pool, in layers without a window.
        window_tokens: tokens of its pool of windowed layers.
    """

    weights_gib: float | None = None
    pool_gib: float | None = None
    tokens: float | None = None
    window_tokens: float | None = None
    draft_weights_gib: float | None = None
    draft_pool_gib: float | None = None


@dataclass(frozen=True, slots=True)
class _Pool:
    """One pool, or both parts of one; ``worker`` counts how often weights had begun to load before it."""

    worker: int
    gib: float
    tokens: float | None
    window_tokens: float | None = None


def workers(facts: Iterable[Fact]) -> Workers:
    """The account of one rank's facts, in the order of the log."""
    pools: list[_Pool] = []
    weights: list[float] = []
    loads = 0
    for fact in facts:
        if fact.name == "load_begin":
            loads += 1
        elif fact.name == "load_end" and "weights_gib" in fact.values:
            weights.append(fact.number("weights_gib"))
        elif fact.name == "sglang_pool":
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
    target, draft = _target_and_draft(pools, loads)
    said = [pool.tokens for pool in target if pool.tokens is not None]
    windows = [pool.window_tokens for pool in target if pool.window_tokens is not None]
    if not windows and len(set(said)) > 1:
        windows = [min(said)]
    return Workers(
        weights[0] if weights else None,
        sum(pool.gib for pool in target) if target else None,
        max(said) if said else None,
        windows[0] if windows else None,
        sum(weights[1:]) if weights[1:] else None,
        sum(pool.gib for pool in draft) if draft else None,
    )


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
