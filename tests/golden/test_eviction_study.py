"""The published study of eviction policies: its tables are its result, and its result is what runs give."""

from __future__ import annotations

import heapq
import importlib.util
import json
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest

from kvplan.engine.cache_replay import References, collect, replay
from kvplan.traces.synthesize import synthesize
from kvplan.traces.trace import open_trace

STUDY = Path(__file__).resolve().parents[2] / "reports" / "eviction-policies"
MOONCAKE = "traces/mooncake-conversation/conversation_trace.jsonl"


@pytest.fixture(scope="module")
def result() -> dict:
    return json.loads((STUDY / "result.json").read_text())


@pytest.fixture(scope="module")
def mooncake(shared: Path) -> References:
    return collect(open_trace(shared / "data" / MOONCAKE).requests(), 512)


def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", STUDY / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_the_result(result: dict) -> None:
    text = (STUDY / "report.md").read_text()
    assert study().rendered(text, result) == text


def test_every_policy_served_everything(result: dict) -> None:
    for runs in result["runs"].values():
        assert len({run["finished"] for run in runs.values()}) == 1
        cheapest = runs["lru"]["cpu_s"]
        assert all(run["cpu_s"] <= 3 * cheapest for run in runs.values())


@pytest.mark.parametrize("policy", ["lru", "s3-fifo", "w-tinylfu", "belady"])
def test_the_agentic_ladder_is_reproduced(result: dict, policy: str) -> None:
    document = result["ladders"]["agentic, blocks of 16"]
    references = collect(synthesize("agentic", 2_000, 10.0, 0), 16)
    (rung,) = (rung for rung in document["rungs"] if rung["blocks"] == 28_000)
    hits = replay(references, 28_000, policy)
    assert hits.hit_blocks == rung["policies"][policy]["hit_blocks"]
    assert hits.evicted_blocks == rung["policies"][policy]["evicted_blocks"]


@pytest.mark.shared
@pytest.mark.parametrize(("blocks", "lru", "optimum"), [(875, 4.37, 16.58), (16_000, 26.27, 36.64)])
def test_mooncake_rungs(mooncake: References, blocks: int, lru: float, optimum: float) -> None:
    for policy, published in (("lru", lru), ("belady", optimum)):
        hits = replay(mooncake, blocks, policy).hit_blocks
        assert round(100 * hits / mooncake.bound.block_refs, 2) == published


@pytest.mark.shared
def test_others_figures_for_mooncake(shared: Path, mooncake: References) -> None:
    """Flat LRU and the optimum on the ids as they stand in the file, written without any of the engine."""
    with open(shared / "data" / MOONCAKE, encoding="utf-8") as lines:
        prompts = [json.loads(line)["hash_ids"] for line in lines]
    refs = sum(map(len, prompts))
    assert refs == mooncake.bound.block_refs
    assert round(100 * flat_lru(prompts, 875) / refs, 2) == 4.34
    assert round(100 * flat_lru(prompts, 16_000) / refs, 2) == 26.27
    assert farthest_next_use(prompts, 875) == replay(mooncake, 875, "belady").hit_blocks


def flat_lru(prompts: list[list[int]], blocks: int) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for prompt in prompts:
        for block in prompt:
            hits += block in cache
            cache[block] = None
            cache.move_to_end(block)
            if len(cache) > blocks:
                cache.popitem(last=False)
    return hits


def farthest_next_use(prompts: list[list[int]], blocks: int) -> int:
    """All of a prompt is there while it is served; then whatever is needed last goes first."""
    never = len(prompts)
    next_use: list[list[int]] = [[]] * len(prompts)
    seen: dict[int, int] = {}
    for number in range(len(prompts) - 1, -1, -1):
        next_use[number] = [seen.get(block, never) for block in prompts[number]]
        seen.update(dict.fromkeys(prompts[number], number))
    cache: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    hits = 0
    for prompt, uses in zip(prompts, next_use, strict=True):
        hits += sum(block in cache for block in prompt)
        cache.update(zip(prompt, uses, strict=True))
        serving = set(prompt)
        while len(cache) > blocks:
            use, block = heapq.heappop(heap)
            if block not in serving and cache.get(block) == -use:
                del cache[block]
        for block, use in zip(prompt, uses, strict=True):
            heapq.heappush(heap, (-use, block))
    return hits
