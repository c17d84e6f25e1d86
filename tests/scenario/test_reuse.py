"""``cache.reuse_granularity`` and ``cache.pinned``: from a scenario to the figures of a result."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import KvplanError, SpecError, UsageError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

FLAGS = {
    "cache.blocks": 4001, "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
    "workload.synthesize": "agentic", "workload.requests": 60, "workload.rate": 1.0, "accuracy.ensemble": 0,
}  # fmt: skip


def result(*assignments: str, **flags: Any) -> dict[str, Any]:
    run = Run(load_scenario(None, FLAGS | flags, assignments))
    run.execute()
    return run.result(["kvplan"])


def figures(document: dict[str, Any], section: str) -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in document["strategies"][section]}


def test_the_block_size_is_the_neutral_granularity() -> None:
    plain, same = result(), result("cache.reuse_granularity=16")
    assert same["totals"] == plain["totals"]
    assert same["latency"] == plain["latency"]
    assert same["strategies"] == plain["strategies"] == {}


def test_coarser_units_find_less() -> None:
    hits = [result(f"cache.reuse_granularity={g}")["totals"]["hit_tokens"] for g in (16, 64, 512, 4096)]
    assert hits == sorted(hits, reverse=True)
    assert hits[0] > hits[-1]
    document = result("cache.reuse_granularity=512")
    assert figures(document, "reuse granularity")["unit_blocks"] == 32
    assert document["totals"]["hit_tokens"] % 512 == 0


def test_pinned_prefixes_are_reported() -> None:
    document = result("cache.pinned={memory: 0.3, prefixes: [{tokens: 1k, ttl: 60s, min_uses: 2}]}")
    found = figures(document, "pinned prefixes")
    assert found["budget_blocks"] == 1200
    assert found["pinned"] >= 1
    assert 0 < found["hit_tokens"] <= document["totals"]["hit_tokens"]
    assert document["scenario"]["cache"]["pinned"]["prefixes"] == [
        {"tokens": 1024, "ttl": 60.0, "min_uses": 2}
    ]


def test_both_go_together() -> None:
    document = result("cache.reuse_granularity=256", "cache.pinned={prefixes: [{tokens: 700}]}")
    assert set(document["strategies"]) == {"reuse granularity", "pinned prefixes"}
    assert figures(document, "pinned prefixes")["peak_blocks"] % 16 == 0


@pytest.mark.parametrize(
    ("assignment", "where", "words"),
    [
        ("cache.reuse_granularity=100", "cache.reuse_granularity", "not a multiple of the block size, 16"),
        ("cache.reuse_granularity=8", "cache.reuse_granularity", "not a multiple"),
        ("cache.reuse_granularity=1m", "cache.reuse_granularity", "more than the pool of 4,000 blocks"),
        ("cache.pinned={prefixes: [{tokens: 8}]}", "prefixes[0].tokens", "shorter than the 16 tokens"),
        ("cache.pinned={prefixes: [{tokens: 1k}, {tokens: 16k}]}", "prefixes[1].tokens", "more than the 800"),
    ],
)  # fmt: skip
def test_what_can_never_be_used_is_refused_by_name(assignment: str, where: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        result(assignment)
    assert where in str(error.value.where)
    assert error.value.hint


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("cache.prefix=none",), "about a prefix cache, and there is none"),
        (("cache.eviction=belady",), "belady"),
        (("cache.groups=[{kind: full}, {kind: sliding, window: 64}]",), "one group of full attention"),
        (("engine.kind=sglang",), "vLLM's scheduler only"),
    ],
)
@pytest.mark.parametrize("asked", ["cache.reuse_granularity=64", "cache.pinned={prefixes: [{tokens: 64}]}"])
def test_what_it_does_not_go_with_says_so(asked: str, assignments: tuple[str, ...], words: str) -> None:
    with pytest.raises(KvplanError, match=words):
        result(asked, *assignments)


@pytest.mark.parametrize(
    "assignment",
    [
        "cache.pinned={prefixes: []}", "cache.pinned={}", "cache.pinned={memory: 1.0, prefixes: [{tokens: 64}]}",
        "cache.pinned={memory: 0, prefixes: [{tokens: 64}]}", "cache.pinned={prefixes: [{tokens: 0}]}",
        "cache.pinned={prefixes: [{tokens: 64, ttl: 0}]}", "cache.pinned={prefixes: [{tokens: 64, uses: 2}]}",
        "cache.reuse_granularity=0",
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_its_key(assignment: str) -> None:
    with pytest.raises((SpecError, UsageError)) as error:
        result(assignment)
    assert "cache" in f"{error.value.where} {error.value.message}"
