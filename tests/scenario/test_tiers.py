"""``tiers``, ``cache.host_memory`` and ``engine.preemption`` from a scenario to a result."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import KvplanError, SpecError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

BARE: dict[str, Any] = {
    "cache.blocks": 1200, "engine.max_model_len": 16_384,
    "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
    "workload.synthesize": "chat", "workload.requests": 60, "workload.rate": 20.0,
}  # fmt: skip

LLAMA: dict[str, Any] = {**BARE, "model": "llama-3.1-8b", "gpu": "h100-sxm"}


def run(flags: dict[str, Any], *assignments: str) -> Run:
    found = Run(load_scenario(None, flags, list(assignments)))
    found.execute()
    return found


def metrics(found: Run) -> dict[str, Any]:
    return {metric.name: metric.value for metric in found.recorder.sections["tiers"]}


def test_host_memory_becomes_blocks_and_is_used() -> None:
    plain = run(LLAMA)
    tiered = run(LLAMA, "cache.host_memory=16GiB")
    told = metrics(tiered)
    # 2 MiB a block: 8 KV heads x 128 x 2 bytes x K and V x 32 layers x 16 tokens.
    assert told["host_block_bytes"] == 2 << 20
    assert told["host_capacity_blocks"] == 8192
    assert told["host_hit_tokens"] > 0
    assert tiered.recorder.totals.finished == plain.recorder.totals.finished == 60
    assert "tiers" not in plain.recorder.sections
    assert told["to_host_bytes"] == told["host_stored_blocks"] * told["host_block_bytes"]


def test_the_result_says_where_links_come_from() -> None:
    found = run(LLAMA, "tiers={host: {memory: 16GiB}, disk: {memory: 1TB, link: nvme-gen5}}")
    told = {item["name"]: item for item in found.result(["kvplan"])["assumptions"]}
    assert "55 GB/s" in told["transfer.host to device"]["value"]
    assert "PCIe of h100-sxm" in told["transfer.host to device"]["source"]
    assert "link spec nvme-gen5" in told["transfer.nvme-gen5"]["source"]
    assert told["tiers.block_bytes"]["value"] == 2 << 20


def test_a_tier_without_a_model_needs_bytes_and_a_link() -> None:
    found = run(BARE, "tiers={host: {memory: 8GiB, link: pcie4-x16}, block_bytes: 1048576}")
    assert metrics(found)["host_capacity_blocks"] == 8192


def test_stored_smaller_a_tier_holds_more() -> None:
    told = metrics(run(LLAMA, "tiers={host: {memory: 16GiB, dtype: fp8}}"))
    assert told["host_block_bytes"] == 1 << 20
    assert told["host_capacity_blocks"] == 16_384
    with_int4 = metrics(run(LLAMA, "tiers={host: {memory: 16GiB, dtype: int4}}"))
    assert with_int4["host_capacity_blocks"] > 16_384


def test_every_gpu_has_its_own_link() -> None:
    one = metrics(run(LLAMA, "cache.host_memory=16GiB"))
    two = metrics(run(LLAMA, "cache.host_memory=16GiB", "parallel.tp=2"))
    assert two["to_host_bytes"] == one["to_host_bytes"]
    assert two["to_host_busy_s"] < 0.6 * one["to_host_busy_s"]


def test_the_scenarios_own_bandwidth_is_the_links() -> None:
    slow = metrics(run(LLAMA, "tiers={host: {memory: 16GiB, bandwidth: 5.5GB/s}}"))
    fast = metrics(run(LLAMA, "tiers={host: {memory: 16GiB, bandwidth: 55GB/s}}"))
    assert slow["to_host_busy_s"] > 5 * fast["to_host_busy_s"]


@pytest.mark.parametrize("preemption", ["swap", "auto", "recompute"])
def test_preemptions_are_swapped_or_dropped(preemption: str) -> None:
    found = run(
        {**LLAMA, "cache.prefix": "hash" if preemption == "recompute" else "none"},
        "cache.host_memory=16GiB", f"engine.preemption={preemption}", "cache.blocks=1030",
    )  # fmt: skip
    told, preemptions = metrics(found), found.recorder.totals.preemptions
    assert preemptions > 0
    assert told["swap_out_count"] + told["recompute_count"] == preemptions
    if preemption == "swap":
        assert told["swap_out_count"] == preemptions
        assert told["swap_in_count"] + told["swap_unused"] == preemptions
    if preemption == "recompute":
        assert told["swap_out_count"] == 0


@pytest.mark.parametrize(
    ("flags", "assignments", "says"),
    [
        (LLAMA, ["engine.preemption=swap"], "needs host memory"),
        (LLAMA, ["cache.host_memory=1GiB"], "smaller than a request"),
        (LLAMA, ["tiers={host: {memory: 16GiB}, disk: {memory: 1GiB}}"], "disk tier of 1"),
        (LLAMA, ["tiers={host: {memory: 16GiB}, disk: {memory: 12GiB}}"], "at least as large"),
        (LLAMA, ["tiers={host: {memory: 16GiB, bandwidth: 0GB/s}}"], "bandwidth"),
        (LLAMA, ["tiers={host: {memory: 16GiB, link: pcie9}}"], "pcie9"),
        (LLAMA, ["tiers={host: {memory: 16GiB}, prefetch: arrival}"], "there is none"),
        (LLAMA, ["tiers={host: {memory: 16GiB, dtype: bf16}}"], "not smaller"),
        (LLAMA, ["tiers={host: {memory: 16GiB}}", "cache.host_memory=8GiB"], "give one"),
        (LLAMA, ["tiers={host: {memory: 16GiB}, block_bytes: 5}"], "follow from llama"),
        (LLAMA, ["cache.host_memory=16GiB", "cache.prefix=none"], "nothing is ever stored"),
        (LLAMA, ["cache.host_memory=16GiB", "cache.allocation=slots"], "slots and tiers are not simulated together"),
        (LLAMA, ["cache.host_memory=16GiB", "cache.retention=h2o:0.2"], "h2o:0.2 and tiers are not"),
        (LLAMA, ["cache.host_memory=16GiB", "cache.eviction=belady"], "belady"),
        (LLAMA, ["cache.host_memory=16GiB", "cache.groups=[{kind: full}, {kind: sliding, window: 64}]"],
         "full and sliding layers"),
        (LLAMA, ["cache.host_memory=16GiB", "engine.preemption=swap",
                 "cache.groups=[{kind: mamba, block_size: 16}]"], "a state is overwritten"),
        (LLAMA, ["tiers={host: {memory: 16GiB, write: selective}}"], "is SGLang's"),
        (BARE, ["cache.host_memory=16GiB"], "without a model and a GPU the bytes"),
        (BARE, ["tiers={host: {memory: 16GiB}, block_bytes: 1048576}"], "the link to the host is unknown"),
        (BARE, ["tiers={host: {memory: 16GiB, dtype: fp8, link: pcie4-x16}, block_bytes: 1048576}"],
         "follows from a model"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(flags: dict[str, Any], assignments: list[str], says: str) -> None:
    with pytest.raises((KvplanError, SpecError)) as caught:
        run(flags, *assignments)
    told = f"{caught.value.where}: {caught.value.message} {caught.value.hint}"
    assert says in told, told


def test_plain_simulations_do_not_import_tiers() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from kvplan.scenario.load import load_scenario; from kvplan.scenario.run import Run\n"
        f"Run(load_scenario(None, {BARE!r})).execute()\n"
        "print([name for name in sys.modules if 'engine.tiers' in name or 'scenario.tiers' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
