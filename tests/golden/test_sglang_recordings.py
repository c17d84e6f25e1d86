"""Both radix caches against recorded decisions of SGLang 0.5.23's real ones, request by request."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cache_lifecycle import Admitted, CacheReplay, Finished, Refused

from kvplan.engine.reference.radix import TokenTree
from kvplan.engine.sglang.eviction import eviction_policy
from kvplan.engine.sglang.prefix_radix import RadixIndex
from kvplan.engine.sglang.radix_tree import TreeKind
from kvplan.traces.request import Request
from kvplan.traces.trace import open_trace

MOONCAKE = "traces/mooncake-conversation/conversation_trace.jsonl"

WORKLOADS = ("multi_turn", "preempt_storm", "priority", "random0", "random1", "same_prompt")
LONG = ("p16_320k", "p16_3200k", "p16_3200k_lfu", "p1_320k")
TREES = {"fast": RadixIndex, "reference": TokenTree}


def load(path: Path) -> dict[str, Any]:
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return json.load(handle)


@pytest.fixture(scope="module")
def tiny(shared: Path) -> dict[str, Any]:
    return load(shared / "data" / "golden" / "sglang_tiny.json.gz")


def workload_of(recorded: dict[str, Any], data: Path) -> Iterable[Request]:
    """The requests of a recording, read by kvplan's own trace readers."""
    if recorded["format"] == "mooncake":
        return open_trace(data / MOONCAKE, limit=recorded["limit"]).requests()
    return open_trace(
        data / "golden" / "workloads" / f"{recorded['trace']}.jsonl", format="tokens"
    ).requests()


def compare(run: dict[str, Any], requests: Iterable[Request], engine: str) -> None:
    """Assert that digest, rows and totals equal the recorded ones."""
    recorded, expected = run["config"], run["totals"]
    kind: TreeKind = "radix" if recorded["tree"] == "radix" else "unified"
    tree = TREES[engine](recorded["page_size"], eviction_policy(recorded["policy"]), kind)
    replay = CacheReplay(tree, recorded["pool_tokens"], recorded["concurrency"], recorded["max_context"])
    digest = hashlib.sha256()
    rows: dict[str, list[Any]] = {}
    skipped = []
    for event in replay.run(requests):
        match event:
            case Admitted(id, hit, evicted):
                digest.update(f"{id}|{hit}|{evicted}\n".encode())
                rows[id] = [id, hit, evicted, None]
            case Finished(id, evicted, tree_tokens):
                digest.update(f"F{id}|{evicted}|{tree_tokens}\n".encode())
                rows[id][3] = evicted
            case Refused(id):
                skipped.append(id)
    assert [rows[row[0]] for row in run["requests"]] == run["requests"]
    assert digest.hexdigest() == expected["decision_sha256"]
    assert skipped == expected["skipped_ids"]
    assert len(rows) == expected["played"]
    assert tree.evicted == expected["evicted_tokens_prefill"] + expected["evicted_tokens_decode"]
    assert tree.evictable + tree.protected == expected["final_tree_tokens"]
    assert replay.peak_active == expected["peak_active"]
    # Nothing is lost: after the last request only the tree holds tokens.
    assert tree.protected == 0
    assert replay.free + tree.evictable == recorded["pool_tokens"]


@pytest.mark.shared
@pytest.mark.parametrize("engine", TREES)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_small_runs(tiny: dict[str, Any], shared: Path, workload: str, engine: str) -> None:
    runs = {name: run for name, run in tiny["results"].items() if name.startswith(f"{workload}/")}
    # 3 page sizes x 7 policies x RadixCache and both cores of UnifiedRadixCache.
    assert len(runs) == 3 * 7 * 3
    requests = list(workload_of(next(iter(runs.values()))["config"], shared / "data"))
    for run in runs.values():
        compare(run, requests, engine)


@pytest.mark.shared
@pytest.mark.parametrize("name", LONG)
def test_long_runs(shared: Path, name: str) -> None:
    data = shared / "data"
    run = load(data / "golden" / f"sglang_conv1k_{name}.json.gz")
    compare(run, workload_of(run["config"], data), "fast")
