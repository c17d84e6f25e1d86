"""``tiers.host.connector`` from a scenario to a result, and to vLLM's flags."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.offloading.strategy import Offloading
from kvplan.errors import KvplanError, SpecError, UsageError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.offloading_releases import offloading_flags, other_rules
from kvplan.scenario.run import Run
from kvplan.scenario.schema.tiers import HostTierPart
from kvplan.scenario.serve import serve_line

LLAMA: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm", "cache.blocks": 1200, "engine.max_model_len": 16_384,
    "latency.model": "linear", "latency.a": 5e-3, "latency.b": 2e-5, "latency.c": 1e-8,
    "workload.synthesize": "chat", "workload.requests": 60, "workload.rate": 20.0,
}  # fmt: skip

CONFIG = (
    '{"kv_connector":"OffloadingConnector","kv_role":"kv_both",'
    '"kv_connector_extra_config":{"blocks_per_chunk":4,"eviction_policy":"arc"}}'
)

HOST = "tiers.host={memory: 16GiB, connector: offloading}"


GROUPS = "cache.groups=[{kind: full}, {kind: sliding, window: 64}]"


def run(*assignments: str) -> Run:
    found = Run(load_scenario(None, LLAMA, list(assignments)))
    found.execute()
    return found


def metrics(found: Run) -> dict[str, Any]:
    return {metric.name: metric.value for metric in found.recorder.sections["tiers"]}


def test_host_memory_becomes_chunks_and_is_used() -> None:
    found = run(HOST)
    told = metrics(found)
    # 2 MiB a block: 8 KV heads x 128 x 2 bytes x K and V x 32 layers x 16 tokens.
    assert told["host_block_bytes"] == 2 << 20
    assert told["host_capacity_blocks"] == 8192
    assert told["host_hit_tokens"] > 0
    assert told["to_host_bytes"] == told["host_stored_blocks"] * told["host_block_bytes"]
    assert told["from_host_bytes"] == told["host_hit_tokens"] // 16 * told["host_block_bytes"]
    assert found.recorder.totals.finished == 60
    assumed = {item["name"]: item for item in found.result(["kvplan"])["assumptions"]}
    assert assumed["tiers.host.connector"]["value"] == "--kv-offloading-size 16"
    assert "55 GB/s" in assumed["transfer.host to device"]["value"]


def test_every_rank_has_host_memory_of_its_own() -> None:
    """A rank's blocks are those of a GPU, and its copies have that GPU's link."""
    found = run(HOST, "parallel.tp=2", "parallel.dp_attention=true")
    sections = found.recorder.sections
    for rank in (0, 1):
        told = {metric.name: metric.value for metric in sections[f"tiers {rank}"]}
        assert told["host_block_bytes"] == 2 << 20
        assert told["host_capacity_blocks"] == 8192
    assert found.recorder.totals.finished == 60
    assumed = {item["name"]: item for item in found.result(["kvplan"])["assumptions"]}
    assert assumed["tiers.host.connector"]["value"] == "--kv-offloading-size 16"
    assert assumed["tiers.host.memory"]["source"].startswith("of each rank")
    assert "55 GB/s" in assumed["transfer.host to device"]["value"]


def test_drafts_on_ranks_that_offload_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="tiers and speculative and data-parallel attention"):
        run(
            HOST,
            "parallel.tp=2",
            "parallel.dp_attention=true",
            "speculative={method: ngram, acceptance: 0.5}",
        )


def test_a_model_of_several_groups_offloads() -> None:
    """gpt-oss: every other layer has a window of 128 tokens, and a chunk of it takes as much as one of the others."""
    model = ("model=gpt-oss-20b", "cache.blocks=2500")
    found = run(HOST, *model)
    told = metrics(found)
    # 8 KV heads x 64 x 2 bytes x K and V x 12 layers x 16 tokens.
    assert told["host_block_bytes"] == 384 << 10
    assert told["host_capacity_blocks"] == (16 << 30) // (384 << 10)
    assert told["host_hit_tokens"] > 0
    assert told["to_host_bytes"] == told["host_stored_blocks"] * told["host_block_bytes"]
    # A load brings the whole prefix of one group, and the window of the other.
    assert told["from_host_bytes"] < 2 * told["host_hit_tokens"] // 16 * told["host_block_bytes"]
    assert found.recorder.totals.finished == 60
    assert serve_line(load_scenario(None, LLAMA, [HOST, *model])).endswith(" --kv-offloading-size 16")


def test_outputs_stay_on_the_device() -> None:
    # The plain host tier stores them, too.
    assert (
        metrics(run(HOST))["host_stored_blocks"]
        < metrics(run("tiers.host.memory=16GiB"))["host_stored_blocks"]
    )


def test_a_chunk_takes_whole_pages() -> None:
    host = "tiers={host: {memory: 1MiB, link: pcie4-x16, connector: offloading, blocks_per_chunk: 3}, block_bytes: 3000}"
    bare = {key: value for key, value in LLAMA.items() if key not in ("model", "gpu")}
    found = Run(load_scenario(None, bare, [host]))
    found.execute()
    assert metrics(found)["host_capacity_blocks"] == 3 * ((1 << 20) // 12_288)


def test_every_replica_has_its_own() -> None:
    found = run(HOST, "parallel.replicas=2")
    assert found.recorder.totals.finished == 60


def test_members_of_an_ensemble_have_links_of_their_own() -> None:
    found = Run(load_scenario(None, LLAMA, [HOST]))
    plain, member = found.system.strategy, found.system.perturbed([1.0] * 5).strategy
    assert isinstance(plain, Offloading)
    assert isinstance(member, Offloading)
    assert member.put.seconds(1 << 30, 512) > plain.put.seconds(1 << 30, 512)
    assert member.get.seconds(1 << 30, 512) > plain.get.seconds(1 << 30, 512)


TOKENS = CONFIG.replace('"blocks_per_chunk":4', '"block_size":64')
CHUNKS = {"memory": "1GiB", "blocks_per_chunk": 4, "eviction_policy": "arc"}


@pytest.mark.parametrize(
    ("version", "part", "says"),
    [
        ("0.33", {"memory": "64GiB"}, "--kv-offloading-size 64"),
        ("0.33", {"memory": 1 << 29}, "--kv-offloading-size 0.5"),
        ("0.33", CHUNKS, f"--kv-offloading-size 1 --kv-transfer-config '{CONFIG}'"),
        ("0.26.0", CHUNKS, f"--kv-offloading-size 1 --kv-transfer-config '{CONFIG}'"),
        ("0.25", CHUNKS, f"--kv-offloading-size 1 --kv-transfer-config '{TOKENS}'"),
        ("0.13", {"memory": "64GiB"}, "--kv-offloading-size 64 --kv-offloading-backend native"),
    ],
)
def test_flags(version: str, part: dict[str, Any], says: str) -> None:
    assert offloading_flags(HostTierPart(connector="offloading", **part), version, 16) == says


@pytest.mark.parametrize(
    ("assignments", "words", "where"),
    [
        (["engine.version='0.11.0'"], "vLLM 0.11.0 has no --kv-offloading-size", "engine.version"),
        (
            ["engine.version='0.25'", "cache.groups=[{kind: full}, {kind: sliding, window: 128, block_size: 64}]",
             "tiers.host.blocks_per_chunk=2"],
            "blocks of 16 and 64 tokens",
            "tiers.host.blocks_per_chunk",
        ),
    ],
)  # fmt: skip
def test_releases_without_it_are_refused(assignments: list[str], words: str, where: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        Run(load_scenario(None, LLAMA, [HOST, *assignments]))
    assert refused.value.where == where


def test_whose_rules_are_simulated_is_said() -> None:
    old = Run(load_scenario(None, LLAMA, [HOST, "engine.version='0.32'"]))
    assert [words for words in old.system.warnings if "offloading connector" in words] == list(
        other_rules("0.32")
    )
    assert other_rules("0.33") == other_rules("0.33.1") == other_rules("0.34") == ()
    assert other_rules("0.22")[0].endswith("not as 0.22's, which stores outputs, too")


def test_a_plan_starts_the_engine_with_them() -> None:
    with_it = serve_line(load_scenario(None, LLAMA, [HOST]))
    without = serve_line(load_scenario(None, LLAMA, ["tiers.host.memory=16GiB"]))
    assert with_it == f"{without} --kv-offloading-size 16"
    assert (
        serve_line(load_scenario(None, LLAMA, ["tiers.host={memory: 0, connector: offloading}"])) == without
    )


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["tiers.host={memory: 16GiB, connector: lmcache}"], "offloading"),
        (["tiers.host={memory: 16GiB, eviction_policy: arc}"], "say connector: offloading"),
        (["tiers.host={memory: 16GiB, connector: offloading, write: back}"], "writes through"),
        (["tiers.host={memory: 16GiB, connector: offloading, dtype: fp8}"], "as they are"),
        (["tiers={host: {memory: 16GiB, connector: offloading}, disk: {memory: 1TB}}"], "leave out disk"),
        (["tiers.host={memory: 1MiB, connector: offloading}"], "smaller than a chunk"),
        ([HOST, "engine.preemption=swap"], "preempts by recomputing, not by swap"),
        ([HOST, "cache.eviction=lfu"], "evicts by lru, not by lfu"),
        ([HOST, "cache.prefix=none"], "turn it on (cache.prefix: hash)"),
        (
            [HOST, GROUPS, "engine.prefix_cache_retention_interval=100"],
            "engine.prefix_cache_retention_interval: prefixes retained every 100 tokens",
        ),
        ([HOST, GROUPS, "engine.version='0.21'"], "does not keep full and sliding groups apart"),
        (
            [HOST, GROUPS, "engine.prefix_cache_retention_interval=48", "tiers.host.blocks_per_chunk=2"],
            "no multiple of a sliding group's chunk of 32 tokens",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(assignments: list[str], says: str) -> None:
    with pytest.raises((KvplanError, SpecError)) as caught:
        run(*assignments)
    told = f"{caught.value.where}: {caught.value.message} {caught.value.hint}"
    assert says in told, told


def test_a_resolved_scenario_is_a_scenario() -> None:
    """With the connector and without: sweeps, plans and audits read what a scenario was resolved to."""
    for part in ({"memory": 1 << 30}, {"memory": 1 << 30, "connector": "offloading"}):
        found = HostTierPart.model_validate(part)
        assert HostTierPart.model_validate(found.model_dump()) == found
