"""``cache.eviction`` from a scenario to the engine."""

from __future__ import annotations

import pytest

from kvplan.errors import KvplanError, UsageError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

FLAGS = {
    "cache.blocks": 2500,
    "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
    "workload.synthesize": "chat", "workload.requests": 150, "workload.rate": 4.0,
}  # fmt: skip


def totals(policy: str) -> dict[str, int]:
    run = Run(load_scenario(None, {**FLAGS, "cache.eviction": policy}))
    run.execute()
    return run.recorder.totals.to_dict()


def test_a_policy_reaches_the_engine() -> None:
    lru, deep, optimum = totals("lru"), totals("tail-first"), totals("belady")
    assert lru["finished"] == deep["finished"] == optimum["finished"] > 0
    assert deep["hit_tokens"] != lru["hit_tokens"]
    assert optimum["hit_tokens"] > max(lru["hit_tokens"], deep["hit_tokens"])


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["cache.eviction=mru"], "SGLang's"),
        (["cache.eviction=lfu", "cache.prefix=none"], "nothing to evict"),
        (["cache.eviction=lifo"], "'lifo'"),
    ],
)
def test_what_makes_no_sense_is_refused(assignments: list[str], says: str) -> None:
    with pytest.raises(KvplanError, match=says):
        load_scenario(None, FLAGS, assignments)


def test_who_wrote_no_prefixes_is_not_told_he_did() -> None:
    flags = {**FLAGS, "model": "jamba-v0.1", "gpu": "h200-sxm"}
    with pytest.raises(UsageError, match=r"this version of vLLM caches no prefixes of jamba"):
        load_scenario(None, flags, ["engine.version=0.20", "cache.eviction=lfu"])


def test_an_engine_without_policies_says_so() -> None:
    flags = {**FLAGS, "cache.eviction": "lfu"}
    with pytest.raises(UsageError, match="fast engine"):
        Run(load_scenario(None, flags), engine="reference").execute()
    groups = ["cache.groups=[{kind: full}, {kind: sliding, window: 64}]"]
    with pytest.raises(UsageError, match="one group of full attention"):
        Run(load_scenario(None, flags, groups)).execute()
