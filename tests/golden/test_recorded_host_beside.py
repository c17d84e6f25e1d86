"""Recorded decisions of SGLang 0.5.23 with host memory (HiCache) and drafts.

Two of three runs have the Rust core of the tree, the others its Python one. Scheduler, tree, cache controller,
allocators and the processing of results were SGLang's own, compared after every batch and every result; copies took
the time of a link, and how many drafts stood is written down with a run.
"""

from __future__ import annotations

from typing import Any

import pytest
from drafted_runs import play, recorded
from recorded_runs import Way, digest, digest_of_rows, recordings

from kvplan.engine.engine import make_engine
from kvplan.engine.hicache.index import WRITE_POLICIES
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import EvictionParameters
from kvplan.engine.speculation.rules import DraftRules, sglang_rules_of
from kvplan.engine.speculation.sglang.hicache import DraftedHierarchicalReplica
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.strategy import Engine
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-host-drafts.json.gz")


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_drafts_above_host_memory(number: int, log: bool) -> None:
    run: dict[str, Any] = RUNS[number]
    tokens, lookahead, behind = run["drafts"]
    rules = DraftRules(tokens, lookahead=lookahead, hash_lookahead=behind)
    assert rules == sglang_rules_of("eagle" if behind else "draft_model", tokens)
    given = dict(run["config"])
    parameters = EvictionParameters(**given.pop("radix_eviction_policy_config", {}))
    config = SglangConfig(**given, radix_eviction_policy_config=parameters)
    pages, put_s, put_page_s, get_s, get_page_s, write = run["host"]
    host = HierarchicalCache(1, pages, Way(put_s, put_page_s), Way(get_s, get_page_s), write)
    strategy = host.with_drafts(Speculation(rules, recorded(tokens, run["accepted"])))
    engines: list[Engine] = []

    def make(recorder: Recorder) -> Engine:
        clock = LinearLatency(*run["clock"])
        engines.append(make_engine("fast", config, clock, recorder, strategy=strategy))
        return engines[0]

    played = play(run, make, log=log)
    (engine,) = engines
    assert isinstance(engine, DraftedHierarchicalReplica)
    if log:
        assert digest(played.lines) == run["decisions"]
    assert digest_of_rows(played.rows) == run["rows"]
    assert (played.aborted, played.away) == (run["aborted"], run["turned_away"])
    scheduler, memory = engine.hierarchical, engine.index.host
    assert run["totals"] == [
        engine.recorder.totals.steps, engine.index.evicted, scheduler.loads, memory.stored, memory.evicted,
        memory.peak, engine.drafting.drafted.accepted_tokens,
    ]  # fmt: skip


def test_what_is_recorded() -> None:
    assert {run["host"][-1] for run in RUNS} == set(WRITE_POLICIES)
    eagle = [run for run in RUNS if run["drafts"][2]]
    assert sum(run["totals"][2] > 0 for run in eagle) >= 12
    assert sum(run["totals"][2] > 0 for run in RUNS if run not in eagle) >= 5
    assert {run["drafts"][0] for run in RUNS} == {1, 2, 3, 5}
    for option in ("enable_mixed_chunk", "disable_overlap_schedule"):
        assert sum(run["config"].get(option, False) and run["totals"][2] > 0 for run in RUNS) >= 2
    assert sum(run["config"]["page_size"] > 1 for run in RUNS if "page_size" in run["config"]) >= 6
    assert sum(bool(run["aborted"]) for run in RUNS) >= 3
