"""``tiers.host`` below SGLang's prefill servers, from a scenario to a result."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.errors import KvplanError
from kvplan.reporting.result import Result
from kvplan.reporting.verdict import reused_ratio
from kvplan.scenario.audit import audit_result
from kvplan.scenario.axes import parse_axis
from kvplan.scenario.load import load_scenario
from kvplan.scenario.plan import Plan
from kvplan.scenario.run import Run
from kvplan.scenario.sweep import Sweep

POOLS = "disaggregation={prefill: {instances: 2}, decode: {}, lanes: 1}"
HOST = "tiers={host: {memory: 64GB}}"
LLAMA: dict[str, Any] = {
    "engine.kind": "sglang", "model": "llama-3.1-8b", "gpu": "h100-sxm", "engine.max_total_tokens": 24_000,
    "engine.context_length": 16_384, "accuracy.ensemble": 0,
    "workload.synthesize": "chat", "workload.requests": 80, "workload.rate": 20.0,
}  # fmt: skip


def run(*assignments: str, flags: dict[str, Any] = LLAMA) -> Run:
    found = Run(load_scenario(None, flags, list(assignments)))
    found.execute()
    return found


def metrics(found: Run, section: str) -> dict[str, Any]:
    return {metric.name: metric.value for metric in found.recorder.sections[section]}


def test_every_prefill_server_has_a_host_tier_and_no_decode_server() -> None:
    plain, tiered = run(POOLS), run(POOLS, HOST)
    assert [name for name in tiered.recorder.sections if name.startswith("tiers")] == [
        "tiers prefill 0", "tiers prefill 1",
    ]  # fmt: skip
    told = [metrics(tiered, f"tiers prefill {number}") for number in (0, 1)]
    for each in told:
        assert each["host_block_bytes"] == 128 << 10
        assert each["host_capacity_blocks"] == 64 * 10**9 // (128 << 10) + 1
        assert 0 < each["to_host_utilization"] < 1
    assert sum(each["host_hit_tokens"] for each in told) > 0
    assert sum(each["cached_tokens"] for each in told) > plain.recorder.totals.hit_tokens
    assert tiered.recorder.totals.finished == plain.recorder.totals.finished == 80
    # Whatever prefill servers find, a decode server gets all of a prompt.
    moved = [metrics(found, "disaggregation")["moved_bytes"] for found in (plain, tiered)]
    assert moved[0] == moved[1] > 0


def test_a_result_says_whose_tiers_they_are_and_counts_their_hits() -> None:
    document = json.loads(json.dumps(run(POOLS, HOST).result(["kvplan"])))
    said = {item["name"]: item["value"] for item in document["assumptions"]}
    assert said["disaggregation.tiers"] == "prefill servers"
    assert said["tiers.host.tokens"] == 64 * 10**9 // (128 << 10) + 1
    found = Result.model_validate(document)
    ratio = reused_ratio(found)
    assert ratio is not None
    assert ratio > found.hit_ratio
    assert audit_result(document, 30).passed


def test_a_prefill_pool_of_its_own_kind_has_tiers_of_its_own() -> None:
    own = run("disaggregation={prefill: {tp: 2}, decode: {}, lanes: 1}", HOST).system.strategy
    assert isinstance(own, SglangDisaggregation)
    assert own.host is not None
    both = run("disaggregation={prefill: {}, decode: {}, lanes: 1}", HOST).system.strategy
    assert isinstance(both, SglangDisaggregation)
    assert both.host is not None
    # Two links to the host share out the pages, of the same bytes.
    assert own.host.page_bytes == both.host.page_bytes
    assert own.host.put.seconds(10**9, 1) < both.host.put.seconds(10**9, 1)


HYBRID = {"gpu": "h200-sxm", "parallel.tp": 4, "engine.max_total_tokens": None}


@pytest.mark.parametrize(
    ("model", "told", "sent"),
    [
        ("gpt-oss-20b", "host_capacity_window_blocks", "window_page_bytes"),
        ("qwen3-next-80b-a3b", "host_capacity_states", "state_bytes"),
    ],
)
def test_what_lies_beside_tokens_goes_to_the_host_too(model: str, told: str, sent: str) -> None:
    flags = {key: value for key, value in {**LLAMA, **HYBRID, "model": model}.items() if value is not None}
    found = run(POOLS, HOST, flags=flags)
    assert metrics(found, "tiers prefill 0")[told] > 0
    assert metrics(found, "disaggregation")["payload_bytes"] > 0
    said = {item["name"] for item in found.result(["kvplan"])["assumptions"]}
    assert {f"disaggregation.{sent}", "disaggregation.tiers"} <= said


def test_pages_have_what_a_drafter_keeps_too() -> None:
    flags = {**LLAMA, "model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, "workload.requests": 40}
    plain = run(POOLS, HOST, flags=flags)
    drafted = run(POOLS, HOST, "speculative={method: mtp, tokens: 1, acceptance: 0.7}", flags=flags)
    pages = [metrics(found, "tiers prefill 0")["host_block_bytes"] for found in (plain, drafted)]
    assert pages[1] * 61 == pages[0] * 62
    assert metrics(drafted, "speculative decoding")["accepted"] > 0


@pytest.mark.parametrize("drafts", [False, True])
def test_every_rank_of_a_prefill_server_has_its_own(drafts: bool) -> None:
    """DeepSeek's: a page of one GPU, and memory as large for each rank."""
    flags = {
        **LLAMA, "model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, "parallel.dp_attention": True,
        "workload.requests": 40,
    }  # fmt: skip
    more = ["speculative={method: mtp, tokens: 1, acceptance: 0.7}"] if drafts else []
    found = run("disaggregation={prefill: {}, decode: {}, lanes: 8}", HOST, *more, flags=flags)
    page = (61 + drafts) * 576 * 2
    for rank in range(8):
        told = metrics(found, f"tiers {rank} prefill")
        assert told["host_block_bytes"] == page
        assert told["host_capacity_blocks"] == 64 * 10**9 // page + 1
        assert told["host_stored_blocks"] > 0
    document = json.loads(json.dumps(found.result(["kvplan"])))
    Result.model_validate(document)
    assert document["totals"]["finished"] == 40
    said = {item["name"]: item["source"] for item in document["assumptions"]}
    assert said["tiers.host.memory"].startswith("of each rank")
    assert audit_result(document, 10).passed


def test_a_sweep_may_begin_without() -> None:
    assert "tiers prefill 0" not in run(POOLS, "tiers={host: {memory: 0}}").recorder.sections
    assert "tiers prefill 0" in run(POOLS, "cache.host_memory=16GiB").recorder.sections


def test_a_plan_names_the_flags_of_prefill_servers_only() -> None:
    kinds = Sweep(
        None, [parse_axis("gpu=h100-sxm")], flags=LLAMA, count=20,
        assignments=["slo.ttft_p99_s=30", "disaggregation={lanes: 1}", HOST],
    )  # fmt: skip
    plan = Plan(kinds, longest=20)
    plan.execute()
    prefill, decode = plan.document(["kvplan", "plan"])["serve"]
    assert "--disaggregation-mode prefill" in prefill
    assert "--enable-hierarchical-cache --hicache-size 64 --hicache-write-policy write_through" in prefill
    assert "--disaggregation-mode decode" in decode
    assert "hicache" not in decode
    assert "hierarchical" not in decode


def test_members_of_an_ensemble_have_links_of_their_own() -> None:
    found = Run(load_scenario(None, LLAMA, [POOLS, HOST]))
    perturbed = found.system.perturbed([1.5] * 20).strategy
    plain = found.system.strategy
    assert isinstance(perturbed, SglangDisaggregation)
    assert isinstance(plain, SglangDisaggregation)
    assert perturbed.host is not None
    assert plain.host is not None
    assert perturbed.host.get.seconds(10**9, 1) != plain.host.get.seconds(10**9, 1)


@pytest.mark.parametrize(
    ("assignments", "where", "says"),
    [
        (["tiers={host: {memory: 64GB}, disk: {memory: 1TB}}"], "tiers.disk", "storage"),
        (["tiers={host: {memory: 64GB, dtype: fp8}}"], "tiers.host.dtype", "no other number format"),
        (["tiers={host: {memory: 64GB, connector: offloading}}"], "tiers.host.connector", "vLLM's"),
        (["tiers={host: {memory: 1000}}"], "tiers.host.memory", "holds no page"),
        ([HOST, "cache.prefix=none"], "tiers", "without a radix cache"),
    ],
)
def test_what_cannot_be_is_refused_by_name(assignments: list[str], where: str, says: str) -> None:
    with pytest.raises(KvplanError) as caught:
        run(POOLS, *assignments)
    assert says in str(caught.value)
    assert where in str(caught.value)
    assert caught.value.hint
