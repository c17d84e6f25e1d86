"""Recorded runs of SGLang with host memory, and with what it may have beside tokens."""

from __future__ import annotations

from typing import Any

from drafted_runs import recorded
from recorded_runs import Way

from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import EvictionParameters
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.rules import DraftRules, sglang_rules_of
from kvplan.engine.speculation.strategy import Speculation


def config_of(run: dict[str, Any]) -> SglangConfig:
    given = dict(run["config"])
    parameters = EvictionParameters(**given.pop("radix_eviction_policy_config", {}))
    return SglangConfig(**given, radix_eviction_policy_config=parameters)


def host_of(run: dict[str, Any]) -> HierarchicalCache:
    pages, put_s, put_page_s, get_s, get_page_s, write = run["host"]
    return HierarchicalCache(
        1, pages, Way(put_s, put_page_s), Way(get_s, get_page_s), write, *run.get("hosted", (0, 0))
    )


def pool_of(run: dict[str, Any]) -> RecurrentStates | WindowPools | None:
    """What is beside tokens."""
    if "states" in run:
        return RecurrentStates(StateRules(*run["states"]))
    return WindowPools(SlidingWindows(*run["windows"])) if "windows" in run else None


def drafts_of(run: dict[str, Any]) -> Speculation | None:
    if "drafts" not in run:
        return None
    tokens, lookahead, behind = run["drafts"]
    rules = DraftRules(tokens, lookahead=lookahead, hash_lookahead=behind)
    assert rules == sglang_rules_of("eagle" if behind else "draft_model", tokens)
    pool = pool_of(run)
    return Speculation(
        rules, recorded(tokens, run["accepted"]), states=getattr(pool, "rules", None),
        windows=getattr(pool, "windows", None),
    )  # fmt: skip
