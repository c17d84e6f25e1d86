"""``tiers.host`` below SGLang, from a scenario to a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import KvplanError, SpecError
from kvplan.scenario.audit import audit_result
from kvplan.scenario.axes import parse_axis
from kvplan.scenario.load import load_scenario
from kvplan.scenario.plan import Plan
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.run import Run
from kvplan.scenario.sweep import Sweep
from kvplan.scenario.tiers import launch_flags

BARE: dict[str, Any] = {
    "engine.kind": "sglang", "engine.max_total_tokens": 24_000, "engine.context_length": 16_384,
    "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
    "workload.synthesize": "chat", "workload.requests": 80, "workload.rate": 20.0,
}  # fmt: skip

LLAMA: dict[str, Any] = {**BARE, "model": "llama-3.1-8b", "gpu": "h100-sxm"}


def run(flags: dict[str, Any], *assignments: str) -> Run:
    found = Run(load_scenario(None, flags, list(assignments)))
    found.execute()
    return found


def metrics(found: Run, section: str = "tiers") -> dict[str, Any]:
    return {metric.name: metric.value for metric in found.recorder.sections[section]}


def test_host_memory_becomes_pages_and_is_used() -> None:
    plain = run(LLAMA)
    tiered = run(LLAMA, "tiers={host: {memory: 16GiB}}")
    told = metrics(tiered)
    # 8 KV heads x 128 x 2 bytes x K and V x 32 layers; SGLang's pool has a page more for padding.
    assert told["host_block_bytes"] == 128 << 10
    assert told["host_capacity_blocks"] == 131_072 + 1
    assert told["host_hit_tokens"] > 0
    assert tiered.recorder.totals.finished == plain.recorder.totals.finished == 80
    assert "tiers" not in plain.recorder.sections
    assert told["to_host_bytes"] == told["host_stored_blocks"] * told["host_block_bytes"]
    assert told["cached_tokens"] > plain.recorder.totals.hit_tokens
    assert metrics(run(LLAMA, "cache.host_memory=16GiB")) == told


def test_pages_are_the_engines() -> None:
    told = metrics(run(LLAMA, "tiers={host: {memory: 16GiB}}", "engine.page_size=64"))
    assert told["host_block_bytes"] == 8 << 20
    assert told["host_capacity_blocks"] == 2048 + 1


def test_the_result_says_where_links_come_from() -> None:
    found = run(LLAMA, "tiers={host: {memory: 16GiB}}")
    told = {item["name"]: item for item in found.result(["kvplan"])["assumptions"]}
    assert "PCIe of h100-sxm" in told["transfer.host to device"]["source"]
    assert told["tiers.block_bytes"]["value"] == 128 << 10
    assert told["tiers.host.tokens"]["value"] == 131_073


def test_a_tier_without_a_model_needs_bytes_and_a_link() -> None:
    found = run(BARE, "tiers={host: {memory: 8GiB, link: pcie4-x16}, block_bytes: 131072}")
    assert metrics(found)["host_capacity_blocks"] == 65_537


@pytest.mark.parametrize("write", ["through", "selective", "back"])
def test_ways_to_write(write: str) -> None:
    told = metrics(run(LLAMA, f"tiers={{host: {{memory: 16GiB, write: {write}}}}}"))
    plain = metrics(run(LLAMA, "tiers={host: {memory: 16GiB}}"))
    assert 0 < told["to_host_bytes"] <= plain["to_host_bytes"]
    assert (told["to_host_bytes"] < plain["to_host_bytes"]) == (write != "through")
    # Only who writes as it evicts waits for that.
    assert bool(told["write_back_s"]) == (write == "back")


def test_slow_links_make_steps_longer() -> None:
    slow = run(LLAMA, "tiers={host: {memory: 16GiB, bandwidth: 0.5GB/s}}")
    fast = run(LLAMA, "tiers={host: {memory: 16GiB, bandwidth: 55GB/s}}")
    assert metrics(slow)["load_s"] > metrics(fast)["load_s"]
    assert slow.recorder.totals.makespan_s > fast.recorder.totals.makespan_s


def test_replicas_have_a_host_each() -> None:
    found = run(LLAMA, "tiers={host: {memory: 16GiB}}", "parallel.replicas=2", "workload.rate=40")
    hits = [metrics(found, f"tiers {number}")["host_stored_blocks"] for number in (0, 1)]
    assert all(hits)
    assert found.recorder.totals.finished == 80


def test_a_sweep_may_begin_without() -> None:
    sweep = Sweep(None, [parse_axis("tiers.host.memory=0,16GiB")], flags=LLAMA)
    sweep.execute()
    without, with_host = sweep.document(["kvplan", "sweep"])["points"]
    assert without["figures"]["makespan_s"] == run(LLAMA).recorder.totals.makespan_s
    alone = run(LLAMA, "cache.host_memory=16GiB")
    assert with_host["figures"]["makespan_s"] == alone.recorder.totals.makespan_s
    told = metrics(alone)
    assert with_host["figures"]["moved_bytes"] == told["to_host_bytes"] + told["from_host_bytes"]


def test_a_plan_names_the_flags() -> None:
    kinds = Sweep(
        None, [parse_axis("gpu=h100-sxm")], flags=LLAMA, count=20,
        assignments=["slo.ttft_p99_s=30", "tiers={host: {memory: 64GB}}"],
    )  # fmt: skip
    plan = Plan(kinds, longest=20)
    plan.execute()
    (serve,) = plan.document(["kvplan", "plan"])["serve"]
    assert serve.endswith(
        " --enable-hierarchical-cache --hicache-size 64 --hicache-write-policy write_through"
    )


def test_an_audit_plays_it_again() -> None:
    document = json.loads(json.dumps(run(LLAMA, "tiers={host: {memory: 16GiB}}").result(["kvplan"])))
    assert audit_result(document, 30).passed


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["tiers={host: {memory: 64GB}}"], "--enable-hierarchical-cache --hicache-size 64 "),
        (["tiers={host: {memory: 64GB, write: back}}", "parallel.tp=2"],
         "--hicache-size 32 --hicache-write-policy write_back"),
        (["tiers={host: {memory: 64GB, write: selective}}"], "--hicache-write-policy write_through_selective"),
        (["cache.host_memory=16GiB"], "--hicache-ratio "),
    ],
)  # fmt: skip
def test_flags_of_the_engine(assignments: list[str], says: str) -> None:
    scenario = load_scenario(None, LLAMA, assignments)
    flags = launch_flags(scenario, resolve_deployment(scenario))
    assert flags is not None
    assert says in flags


def test_the_ratio_gives_the_same_pool() -> None:
    """As ``HostKVCache`` computes it from ``--hicache-ratio``."""
    for size in ("16GiB", "3GiB", "77777777777B"):
        for page in (1, 16):
            scenario = load_scenario(
                None, LLAMA, [f"tiers={{host: {{memory: {size}}}}}", f"engine.page_size={page}"]
            )
            deployment = resolve_deployment(scenario)
            flags = launch_flags(scenario, deployment)
            assert flags is not None
            ratio = float(flags.split("--hicache-ratio ")[1].split()[0])
            pages = int(24_000 * ratio) // page + 1
            found = Run(scenario)
            found.execute()
            assert metrics(found)["host_capacity_blocks"] == pages


def test_nothing_is_said_without_a_host_tier() -> None:
    for flags in (LLAMA, {"model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "chat"}):
        for assignments in ([], ["tiers={host: {memory: 0}}"]):
            scenario = load_scenario(None, flags, assignments)
            assert launch_flags(scenario, resolve_deployment(scenario)) is None


@pytest.mark.parametrize(
    ("flags", "assignments", "says"),
    [
        (LLAMA, ["tiers={host: {memory: 16GiB}, disk: {memory: 1TB}}"], "--hicache-storage-backend"),
        (LLAMA, ["tiers={host: {memory: 16GiB, dtype: fp8}}"], "in no other number format"),
        (LLAMA, ["tiers={host: {memory: 16GiB, connector: offloading}}"], "connector is vLLM's"),
        (LLAMA, ["tiers={host: {memory: 16GiB}}", "cache.prefix=none"], "--disable-radix-cache"),
        (LLAMA, ["tiers={host: {memory: 1KiB}}"], "holds no page"),
        (LLAMA, ["tiers={host: {memory: 16GiB, link: pcie9}}"], "pcie9"),
        (LLAMA, ["tiers={host: {memory: 16GiB}}", "cache.host_memory=8GiB"], "give one"),
        (LLAMA, ["tiers={host: {memory: 16GiB}, block_bytes: 5}"], "follow from llama"),
        (BARE, ["cache.host_memory=16GiB"], "without a model and a GPU the bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(flags: dict[str, Any], assignments: list[str], says: str) -> None:
    with pytest.raises((KvplanError, SpecError)) as caught:
        run(flags, *assignments)
    told = f"{caught.value.where}: {caught.value.message} {caught.value.hint}"
    assert says in told, told


def test_a_small_host_is_warned_of() -> None:
    said = run(LLAMA, "tiers={host: {memory: 1GiB}}").result(["kvplan"])["warnings"]
    assert any("no larger" in text for text in said)
    said = run(LLAMA, "tiers={host: {memory: 16GiB}}").result(["kvplan"])["warnings"]
    assert not any("no larger" in text for text in said)


def test_members_of_an_ensemble_have_links_of_their_own(tmp_path: Path) -> None:
    found = run(LLAMA, "tiers={host: {memory: 16GiB, bandwidth: 1GB/s}}", "accuracy.ensemble=2")
    result = json.loads(json.dumps(found.result(["kvplan"])))
    assert result["totals"]["finished"] == 80
