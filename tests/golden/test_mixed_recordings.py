"""Recorded decisions under options mixed at random: vLLM 0.33's scheduler, SGLang 0.5.23's and its caches.

Each run has its options and requests beside what the released engine decided, so nothing else is needed. The
options come in combinations that the other recordings do not have: local chunks, several windows, states
beside windows, blocks of two sizes in every order, watermarks and intervals under preemption, pools that are
no whole pages. The ``edges`` are chosen from 2,000 runs for pairs of options and of what happened that no other
has: blocks of 1 to 256 tokens, lengths at or next to every limit, preemptions by the dozen, names whose order as
text is not that of arrival, pages of 64, sums of shares that end next to a whole token.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from cache_lifecycle import Admitted, CacheReplay, Finished
from recorded_runs import digest, recordings, request

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.engine import ENGINES, make_engine
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.radix import TokenTree
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import eviction_policy
from kvplan.engine.sglang.prefix_radix import RadixIndex
from kvplan.latency.linear import LinearLatency

TREES = {"fast": RadixIndex, "reference": TokenTree}


VLLM = recordings("vllm-0.33.0.json.gz") + recordings("vllm-0.33.0-edges.json.gz")
SGLANG = recordings("sglang-0.5.23.json.gz") + recordings("sglang-0.5.23-edges.json.gz")
SGLANG_SCHEDULER = recordings("sglang-0.5.23-scheduler.json.gz") + recordings(
    "sglang-0.5.23-scheduler-edges.json.gz"
)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("group_kinds", ["full attention", "several or other groups"])
def test_vllm_under_mixed_options(group_kinds: str, engine: str) -> None:
    plain = group_kinds == "full attention"
    chosen = [run for run in VLLM if plain == ([group[0] for group in run["config"]["groups"]] == ["full"])]
    assert len(chosen) > 100
    for number, run in enumerate(chosen):
        groups = tuple(CacheGroup(*group) for group in run["config"]["groups"])
        config = EngineConfig(**{**run["config"], "groups": groups})
        lines: list[str] = []
        told = serve(engine, config, run, lines)
        assert digest(lines) == run["decisions"], (number, config)
        assert told == (run["rows"], run["totals"]), (number, config)
        # Without a log the fast engine goes through steps that decide nothing in bulk.
        assert serve(engine, config, run, None) == told, (number, config)


def serve(
    engine: str, config: EngineConfig, run: dict[str, Any], lines: list[str] | None
) -> tuple[str, list[float]]:
    """Plays one run; returns the digest of its rows, and its totals."""
    rows: dict[str, RequestRow] = {}
    recorder = Recorder(
        on_request=lambda row: rows.__setitem__(row.id, row),
        on_decision=None if lines is None else lines.append,
        series=lines is not None,
    )
    running = make_engine(engine, config, LinearLatency(*run["clock"]), recorder)
    running.run(request(*asked) for asked in run["requests"])
    running.close()
    columns = [
        [row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.cached_tokens,
         row.preemptions]
        for row in (rows[asked[0]] for asked in run["requests"])
    ]  # fmt: skip
    totals = recorder.totals
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest(), [
        totals.steps, totals.preemptions, totals.evicted_blocks, totals.allocated_blocks,
        totals.peak_used_blocks, totals.queried_tokens, totals.hit_tokens, totals.makespan_s,
    ]  # fmt: skip


@pytest.mark.parametrize("engine", TREES)
@pytest.mark.parametrize("policy", ["fifo", "filo", "lfu", "lru", "mru", "priority", "slru"])
def test_sglang_under_mixed_options(policy: str, engine: str) -> None:
    chosen = [run for run in SGLANG if run["config"][1] == policy]
    assert {run["config"][0] for run in chosen} == {"radix", "unified-python", "unified-rust"}
    for number, run in enumerate(chosen):
        kind, _, page, pool, concurrency, longest = run["config"]
        tree = TREES[engine](page, eviction_policy(policy), "radix" if kind == "radix" else "unified")
        replay = CacheReplay(tree, pool, concurrency, longest)
        lines = []
        for event in replay.run(request(name, 0.0, *asked) for name, *asked in run["requests"]):
            match event:
                case Admitted(name, hit, evicted):
                    lines.append(f"{name}|{hit}|{evicted}")
                case Finished(name, evicted, tree_tokens):
                    lines.append(f"F{name}|{evicted}|{tree_tokens}")
        assert digest(lines) == run["decisions"], (number, run["config"])
        assert tree.evictable + tree.protected == run["final_tree_tokens"]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_sglangs_scheduler_under_mixed_options(engine: str, overlap: bool) -> None:
    """Its own methods decided, and its own ``PrefillAdder``; what a batch is for was left out."""
    chosen = [run for run in SGLANG_SCHEDULER if run["config"]["disable_overlap_schedule"] != overlap]
    assert len(chosen) > 50
    assert sum(run["config"]["enable_mixed_chunk"] for run in chosen) > 10
    for number, run in enumerate(chosen):
        lines: list[str] = []
        rows = serve_sglang(engine, run, lines)
        # The recording does not count who holds memory.
        told = ["|".join(line.split("|")[part] for part in (0, 1, 3, 4)) for line in lines]
        assert digest(told) == run["decisions"], (number, run["config"])
        assert rows == run["rows"], (number, run["config"])
        assert serve_sglang(engine, run, None) == rows, (number, run["config"])


def serve_sglang(engine: str, run: dict[str, Any], lines: list[str] | None) -> str:
    """Plays one run; returns the digest of its rows."""
    rows: dict[str, RequestRow] = {}
    recorder = Recorder(
        on_request=lambda row: rows.__setitem__(row.id, row),
        on_decision=None if lines is None else lines.append,
        series=lines is not None,
    )
    clock = LinearLatency(5e-3, 2e-5, 1e-8)
    running = make_engine(engine, SglangConfig(**run["config"]), clock, recorder)
    running.run(request(*asked) for asked in run["requests"])
    running.close()
    served = [rows[asked[0]] for asked in run["requests"] if asked[0] in rows]
    columns = [[row.id, row.scheduled_s, row.first_token_s, row.finish_s] for row in served]
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()


def test_what_is_recorded_preempts_evicts_and_covers_every_kind_of_group() -> None:
    assert sum(run["totals"][1] > 0 for run in VLLM) > 100
    assert sum(run["totals"][2] > 0 for run in VLLM) > 100
    kinds = {group[0] for run in VLLM for group in run["config"]["groups"]}
    assert kinds == {"full", "sliding", "chunked", "mamba"}
    assert any(run["config"][3] % run["config"][2] for run in SGLANG)
