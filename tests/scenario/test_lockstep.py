"""Scenarios with data-parallel attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run as run_cli
from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel, StepBatch, together
from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import KvplanError
from kvplan.reporting.result import Result
from kvplan.scenario.conservation import check_laws
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

LINEAR = {"latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8}
CHAT = {"workload.synthesize": "chat", "workload.requests": 60, "workload.rate": 20.0}
BARE = {**LINEAR, **CHAT, "cache.blocks": 3000, "parallel.tp": 4,
        "parallel.dp_attention": True}  # fmt: skip


def run_of(flags: dict[str, Any]) -> Run:
    return Run(load_scenario(None, flags))


def test_a_result_keeps_its_contract_and_its_laws() -> None:
    run = run_of(BARE)
    run.execute()
    document = run.result(["kvplan", "simulate"])
    Result.model_validate(document)
    assert all(check.passed for check in check_laws(document))
    assert document["pool"]["num_blocks"] == 4 * 3000
    found = {metric["name"]: metric["value"] for metric in document["strategies"]["dp_attention"]}
    assert found["ranks"] == 4
    assert 0 < found["waited"] < 1


def test_each_rank_has_the_pool_of_a_latent_model_without_copies() -> None:
    """Under plain tensor parallelism every rank copies the latents; now the node holds eight times as many."""
    flags = {
        **LINEAR,
        **CHAT,
        "model": "deepseek-v3",
        "gpu": "h200-sxm",
        "parallel.tp": 8,
        "cache.dtype": "bf16",
    }
    plain = run_of(flags)
    split = run_of({**flags, "parallel.dp_attention": True, "parallel.expert_parallel": True})
    assert isinstance(split.deployment.config, EngineConfig)
    assert len(split.system.instances) == 8
    whole = sum(instance.num_blocks for instance in split.system.instances)
    # Whole attention weights on every rank leave each a little less than it had.
    assert 5 * plain.deployment.config.num_blocks < whole < 8 * plain.deployment.config.num_blocks
    assert split.system.gpus(split.deployment) == {split.deployment.gpu_name: 8}
    assert split.deployment.fit is not None
    assert split.deployment.fit.total_concurrency == 8 * split.deployment.fit.max_concurrency


@pytest.mark.parametrize(
    ("flags", "where", "text"),
    [
        ({"parallel.cp": 2}, "parallel.dp_attention", "one rank"),
        ({"routing.ranks": "vllm"}, "", "routing policy"),
        ({"disaggregation.bytes_per_token": 1, "disaggregation.through": "host"}, "", "go through the host"),
    ],
)
def test_what_is_refused(flags: dict[str, Any], where: str, text: str) -> None:
    base = {
        key: value for key, value in BARE.items() if not ("latency" in flags and key.startswith("latency"))
    }
    with pytest.raises(KvplanError) as caught:
        run_of({**base, **flags}).execute()
    assert text in str(caught.value)
    assert where in str(caught.value)


DEEPSEEK = {"model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8, "parallel.dp_attention": True,
            "parallel.expert_parallel": True, "cache.dtype": "bf16"}  # fmt: skip
QWEN = {**DEEPSEEK, "model": "qwen3-30b-a3b", "gpu": "h100-sxm", "parallel.tp": 4}


def decode(requests: int, context: int) -> StepBatch:
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


@pytest.mark.parametrize("flags", [DEEPSEEK, QWEN, {**QWEN, "latency.model": "profile"}])
def test_ranks_have_their_own_attention_and_work_together_on_experts(flags: dict[str, Any]) -> None:
    split = run_of({**flags, **CHAT}).clock.model
    plain = run_of({**flags, **CHAT, "parallel.dp_attention": False}).clock.model
    ranks = flags["parallel.tp"]

    def beside(others: int, model: LatencyModel) -> float:
        mine = decode(8, 4000)
        together([mine, *[decode(others, 100) for _ in range(ranks - 1)]], ranks)
        return model.step_seconds(mine)

    assert 0.0 < beside(8, split) < beside(512, split)
    # Without it everything is in the step, whatever the other ranks have.
    assert beside(8, plain) == beside(512, plain)
    step = split.step_seconds(decode(8, 4000))
    assert step == beside(8, split)  # others have as much where nobody says
    # The same requests, all of them on every rank: about as long, less for latents, which are not copied.
    assert 0.4 < step / plain.step_seconds(decode(8 * ranks, 4000)) < 1.5


def test_every_clock_simulates_ranks_and_their_laws_hold() -> None:
    for model in ("roofline", "profile"):
        run = run_of({**QWEN, **CHAT, "workload.requests": 30, "latency.model": model})
        run.execute()
        document = run.result(["kvplan", "simulate"])
        Result.model_validate(document)
        assert all(check.passed for check in check_laws(document))
        assert document["accuracy"]["ensemble"] == 8
        assert any("tokens of all ranks together" in item["source"] for item in document["assumptions"])


@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_deepseek_drafts_on_every_rank(
    kind: str, tokens: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is usually served: attention on each of eight GPUs for itself, experts on all, and its own layer
    drafts. In SGLang ranks share the requests that run at a time, of which there are 48 beside drafts."""
    flags = {
        **DEEPSEEK, "engine.kind": kind, "workload.synthesize": "fixed", "workload.requests": 100,
        "workload.rate": 40.0, "workload.prompt_tokens": 1000, "workload.output_tokens": 100,
        "accuracy.ensemble": 0, "speculative.method": "mtp", "speculative.tokens": tokens,
        "speculative.acceptance": 0.8,
    }  # fmt: skip
    said = [word for name, value in flags.items() for word in ("--set", f"{name}={value}")]
    path = tmp_path / "result.json"
    assert run_cli(["simulate", *said, "--output", str(path), "--quiet"]) == 0
    assert "Speculative decoding" in capsys.readouterr().out
    document = json.loads(path.read_text())
    Result.model_validate(document)
    assert all(check.passed for check in check_laws(document))
    assert document["totals"]["finished"] == 100
    found = {metric["name"]: metric["value"] for metric in document["strategies"]["speculative decoding"]}
    most = 1 + sum(0.8**draft for draft in range(1, tokens + 1))
    assert 1.6 < found["acceptance_length"] == pytest.approx(most, rel=0.05)
    if kind == "sglang":
        assumed = {item["name"]: item["value"] for item in document["assumptions"]}
        assert assumed["engine.max_running_requests"] == 6


def test_one_rank_of_a_latent_model_reads_a_share_of_what_all_would() -> None:
    """The reason for it: with plain tensor parallelism every rank reads every latent."""
    long = decode(64, 30_000)
    split = run_of({**DEEPSEEK, **CHAT}).clock.model
    plain = run_of({**DEEPSEEK, **CHAT, "parallel.dp_attention": False}).clock.model
    assert split.step_seconds(decode(8, 30_000)) < 0.8 * plain.step_seconds(long)


SGLANG = {**LINEAR, **CHAT, "engine.kind": "sglang", "cache.blocks": 60_000, "parallel.tp": 4,
          "parallel.dp_attention": True}  # fmt: skip


def test_sglang_deals_its_options_to_ranks() -> None:
    """``handle_data_parallelism`` and ``resolve_max_num_reqs``: chunks and requests are those of all ranks."""
    run = run_of({**SGLANG, "engine.chunked_prefill_size": 4096, "engine.max_running_requests": 50})
    config = run.deployment.config
    assert isinstance(config, SglangConfig)
    assert (config.chunked_prefill_size, config.max_running_requests) == (1024, 12)
    assert config.schedule_conservativeness == 0.3
    assert config.pool_tokens == 60_000
    run.execute()
    document = run.result(["kvplan", "simulate"])
    Result.model_validate(document)
    assert all(check.passed for check in check_laws(document))
    assert document["pool"]["num_blocks"] == 4 * 60_000
    found = {metric["name"]: metric["value"] for metric in document["strategies"]["dp_attention"]}
    assert found["ranks"] == 4
    # SGLang deals in turn: 60 requests are 15 for each.
    assert (found["most_finished"], found["least_finished"]) == (15, 15)
    assumed = {item["name"]: item["value"] for item in document["assumptions"]}
    assert assumed["routing.ranks"] == "round-robin"
    assert assumed["engine.max_running_requests"] == 12


def test_more_ranks_than_requests_leave_each_one() -> None:
    config = run_of({**SGLANG, "engine.max_running_requests": 2}).deployment.config
    assert isinstance(config, SglangConfig)
    assert config.max_running_requests == 1


def test_one_rank_of_sglang_is_its_engine() -> None:
    one = {**SGLANG, "parallel.tp": 1}
    ours, plain = (run_of({**one, "parallel.dp_attention": split}) for split in (True, False))
    documents = []
    for run in (ours, plain):
        run.execute()
        documents.append(run.result(["kvplan", "simulate"]))
    assert ours.deployment.config == plain.deployment.config
    for part in ("totals", "latency"):
        assert documents[0][part] == documents[1][part]


def test_a_latent_model_on_sglang_has_eight_pools() -> None:
    flags = {**LINEAR, **CHAT, "model": "deepseek-v3", "gpu": "h200-sxm", "parallel.tp": 8,
             "weights_dtype": "fp8", "engine.kind": "sglang", "parallel.dp_attention": True}  # fmt: skip
    run = run_of(flags)
    config, fit = run.deployment.config, run.deployment.fit
    assert isinstance(config, SglangConfig)
    assert fit is not None
    assert config.pool_tokens == fit.kv_tokens
    assert config.chunked_prefill_size == 8192 // 8
    assert config.max_running_requests == fit.max_num_seqs


@pytest.mark.parametrize(
    ("model", "drafts", "section"),
    [
        ("qwen3-next-80b-a3b", False, "recurrent states"),
        ("qwen3-next-80b-a3b", True, "recurrent states"),
        ("gpt-oss-120b", False, "sliding windows"),
    ],
)
def test_sglangs_ranks_have_pools_of_their_own(model: str, drafts: bool, section: str) -> None:
    """Each has whole layers with states or windows, and a pool for what they keep."""
    flags = {
        **LINEAR, **CHAT, "engine.kind": "sglang", "model": model, "gpu": "h200-sxm", "parallel.tp": 4,
        "parallel.dp_attention": True, "parallel.expert_parallel": True, "workload.requests": 30,
    }  # fmt: skip
    if drafts:
        flags |= {"speculative.method": "mtp", "speculative.acceptance": 0.7}
    run = run_of(flags)
    run.execute()
    document = run.result(["kvplan", "simulate"])
    Result.model_validate(document)
    assert all(check.passed for check in check_laws(document))
    assert document["totals"]["finished"] == 30
    found = set(document["strategies"])
    assert {f"{section} {rank}" for rank in range(4)} <= found
    assert ("speculative decoding" in found) is drafts
    assumed = {item["name"] for item in document["assumptions"]}
    assert {"max_mamba_cache_size", "engine.sliding_window_size"} & assumed
    assert "parallel.dp_attention" in assumed


GROUPS = {**QWEN, **CHAT, "parallel.tp": 4, "parallel.dp_attention": False, "parallel.attention_ranks": 2}


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("model", ["roofline", "profile"])
def test_ranks_of_several_gpus(kind: str, model: str) -> None:
    """Two ranks of two GPUs: pools of their own, and steps between those of one rank and of four."""
    flags = {
        **GROUPS,
        "engine.kind": kind,
        "latency.model": model,
        "workload.requests": 30,
        "accuracy.ensemble": 0,
    }
    run = run_of(flags)
    run.execute()
    document = run.result(["kvplan", "simulate"])
    Result.model_validate(document)
    assert all(check.passed for check in check_laws(document))
    found = {metric["name"]: metric["value"] for metric in document["strategies"]["dp_attention"]}
    assert found["ranks"] == 2
    assert len(run.system.instances) == 2
    assert run.deployment.sequence_gpus == 2
    fit = run.deployment.fit
    assert fit is not None
    # A rank's two GPUs split the four KV heads, as tp 2 would.
    assert fit.binding.capacity.block_bytes * 2 == run_of({**flags, "parallel.attention_ranks": 4}).deployment.fit.binding.capacity.block_bytes  # type: ignore[union-attr]  # fmt: skip

    def step(ranks: int, requests: int) -> float:
        clock: Any = run_of({**flags, "parallel.attention_ranks": ranks}).clock.model
        return float(clock.parts(decode(requests, 30_000)).decode_s)

    # The same sequences: a rank reads its own over its GPUs, half of all over half of the GPUs.
    one, two, four = (step(ranks, 32 // ranks) for ranks in (1, 2, 4))
    assert two == pytest.approx(one, rel=0.3)
    assert four == pytest.approx(two, rel=0.3)
    summed: Any = run_of(flags).clock.model
    alone: Any = run_of({**flags, "parallel.attention_ranks": 4}).clock.model
    batch = decode(8, 1)
    # Only ranks of several GPUs have something to sum after attention.
    assert summed.parts(batch).collective_s + summed.parts(batch).linear_s > 0
    if model == "roofline":
        assert summed.work.own_reduces == 48
        assert alone.work.own_reduces == 0


def test_sglang_deals_its_options_to_so_many_ranks() -> None:
    flags = {**SGLANG, "parallel.dp_attention": False, "parallel.attention_ranks": 2}
    run = run_of({**flags, "engine.chunked_prefill_size": 4096, "engine.max_running_requests": 50})
    config = run.deployment.config
    assert isinstance(config, SglangConfig)
    assert (config.chunked_prefill_size, config.max_running_requests) == (2048, 25)
    assert config.schedule_conservativeness == 0.3


def test_as_many_ranks_as_gpus_are_the_same_by_either_name() -> None:
    by_name, by_number = run_of({**QWEN, **CHAT}), run_of({**GROUPS, "parallel.attention_ranks": 4})
    assert by_name.deployment.parallel == by_number.deployment.parallel
    batch = decode(8, 4000)
    assert by_name.clock.model.step_seconds(batch) == by_number.clock.model.step_seconds(batch)


def test_one_rank_is_an_engine_without_ranks() -> None:
    one, none = (run_of({**GROUPS, "parallel.attention_ranks": ranks}) for ranks in (1, None))
    assert one.deployment.parallel == none.deployment.parallel
    one.execute()
    assert "dp_attention" not in one.result(["kvplan"])["strategies"]


def test_ranks_that_do_not_divide_the_gpus_are_refused() -> None:
    with pytest.raises(KvplanError, match="no multiple of 3 attention ranks"):
        run_of({**GROUPS, "parallel.attention_ranks": 3})
