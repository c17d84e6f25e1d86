"""What ``kvplan fit`` suggests holds when it is pasted: the options it names, the simulation it goes on to."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from kvplan.cli.app import run
from kvplan.engine.config import EngineConfig
from kvplan.errors import UsageError
from kvplan.scenario.load import load_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.run import Run
from kvplan.specs.catalog import entries
from kvplan.specs.document import YamlDocument

SAMPLE = [
    "llama-3.1-8b --gpu l4 --ctx 128k",
    "llama-3.1-8b --gpu t4",
    "llama-3.1-8b --gpu h100 --engine sglang --ctx 32k",
    "llama-3.1-8b --gpu a100-40g --engine-version 0.6.4",
    "llama-3.1-8b --gpu rtx-4090 --gpus 2 --tp 1 --max-num-seqs 300 --max-num-batched-tokens 512",
    "llama-3.1-70b --gpu h100 --gpus 3",
    "llama-3.1-70b --gpu h100 --gpus 4 --pp 2 --ctx 16k",
    "llama-3.1-70b --gpu l40s --gpus 4 --tp 1",
    "llama-3.1-70b --gpu a100-80g --engine sglang",
    "deepseek-v3 --gpu h100 --gpus 8",
    "deepseek-v3 --gpu h200 --gpus 8 --ctx 128k --dp-attention --expert-parallel",
    "deepseek-v3 --gpu h200 --gpus 8 --ctx 128k",
    "gemma-3-27b --gpu a100-80g --ctx 128k",
    "mixtral-8x7b --gpu v100 --ctx 8k",
    "qwen3-30b-a3b --gpu mi300x --utilization 0.8",
    "qwen3-4b --gpu h100-pcie --gpus 4 --tp 2 --ctx 64k --weights-dtype fp32",
    "glm-4.7-flash --gpu l40 --gpus 8 --ctx 8k --weights-dtype int4 --utilization 0.5",
    "qwen2.5-1.5b --gpu b200 --gpus 16 --dp-attention",
]


def _fit(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = run(["fit", *shlex.split(command), "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", SAMPLE)
def test_every_suggestion_holds_when_pasted(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, before = _fit(command, capsys)
    assert before["remedies"]
    for way in before["remedies"]:
        code, after = _fit(f"{command} {way['option']}", capsys)
        assert after["fits"] is way["fits"] is (code == 0), way["option"]
        assert after["total_concurrency"] == way["total_concurrency"], way["option"]
        assert after["inputs"]["gpus"] == way["gpus"]
        assert after["total_concurrency"] > before["total_concurrency"] or way["fits"]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (SAMPLE[0], ["--dtype fp8 --weights-dtype fp8", "--gpus 2 --tp 2"]),
        ("llama-3.1-70b --gpu h100 --gpus 3", ["--gpus 3 --tp 1 --pp 3", "--gpus 4 --tp 4"]),
        (
            "deepseek-v3 --gpu h100 --gpus 8",
            ["--weights-dtype int4", "--gpus 16 --tp 16", "--gpus 16 --tp 8 --pp 2"],
        ),
        ("deepseek-v3 --gpu h200 --gpus 8", ["--tp 8 --dp-attention --expert-parallel"]),
    ],
)
def test_the_cheap_answers_are_among_them(
    command: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = _fit(command, capsys)
    assert set(options) <= {way["option"] for way in found["remedies"] if way["fits"]}


def test_ranks_with_sequences_of_their_own_are_added_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", *shlex.split(SAMPLE[10])]) == 0
    out = capsys.readouterr().out
    assert "3.22x concurrency at 131,072 tokens a rank, 25.77x over 8 ranks" in out
    assert "(all ranks and replicas)" in out
    assert "51.55x" in out  # of fp8 KV, over all ranks


def test_tokens_are_of_a_replica_and_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    """The table below counts all of them: beside one replica's tokens every way seemed to double them."""
    assert run(["fit", "qwen3-8b", "--gpu", "l40s", "--gpus", "4", "--tp", "2", "--ctx", "32k"]) == 0
    out = capsys.readouterr().out
    found = re.search(r"([\d,]+) KV tokens a replica, ([\d,]+) over 2 replicas", out)
    assert found is not None
    one, both = (int(text.replace(",", "")) for text in found.groups())
    assert both == 2 * one
    assert "x concurrency at 32,768 tokens a replica, " in out


def _simulated_pool(line: str, capsys: pytest.CaptureFixture[str]) -> int:
    """Tokens or blocks of the pool that the printed command simulates, as the command itself resolves it."""
    words = shlex.split(line)
    assert words[:2] == ["kvplan", "simulate"]
    assert run([*words[1:], "--print-scenario", "--format", "json"]) == 0
    scenario = YamlDocument(json.loads(capsys.readouterr().out), "the command", None)
    config = resolve_deployment(load_scenario(scenario)).config
    return config.num_blocks if isinstance(config, EngineConfig) else config.pool_tokens


@pytest.mark.parametrize(
    "command",
    [
        *SAMPLE,
        "llama-3.1-8b --gpu h100 --block-size 32 --eager --utilization 0.8 --weights-dtype fp8 --dtype fp8",
        "llama-3.1-8b --gpu h100 --engine sglang --block-size 16 --eager --engine-version 0.5",
        "llama-3.1-8b --gpu h100 --engine-version 0.8 --max-num-seqs 64 --weights-dtype fp32",
        "llama-3.1-8b --gpu h100 --weights-dtype fp32 --dtype bf16",
        "gemma-3-27b --gpu h100 --engine-version 0.12",
        "tinyllama-1.1b --gpu b200 --engine sglang --engine-version 0.5.13",
        "llama-3.1-8b --gpu h100 --engine sglang --engine-version 0.5.0",
        "gpt-oss-20b --gpu h100 --engine sglang",
        "qwen3-next-80b-a3b --gpu h100 --tp 4 --engine sglang",
        "deepseek-v3 --gpu h200 --gpus 8 --draft --draft-tokens 2",
        "deepseek-v3 --gpu h200 --gpus 8 --draft --engine sglang",
        "deepseek-v3 --gpu b300 --gpus 8 --tp 8 --dp-attention --expert-parallel --draft",
        "deepseek-v3 --gpu b300 --gpus 8 --tp 8 --dp-attention --expert-parallel --draft --engine sglang",
        "llama-3.1-8b --gpu h100 --tp 2 --dp-attention --draft-model llama-3.2-1b",
        "llama-3.1-8b --gpu h100 --draft-model llama-3.2-1b --draft-tokens 3",
        "gpt-oss-20b --gpu h100 --draft-model llama-3.2-1b --engine sglang",
        "qwen3-next-80b-a3b --gpu h100 --tp 4 --draft",
        "step-3.7-flash --gpu b300 --gpus 8 --draft --draft-tokens 3",
    ],
)
def test_the_simulation_has_the_same_pool(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = _fit(command, capsys)
    if not found["fits"]:
        assert found["simulate"] is None
        return
    pool = "kv_tokens" if found["inputs"]["engine"] == "sglang" else "num_blocks"
    assert _simulated_pool(found["simulate"], capsys) == found[pool]


@pytest.mark.slow
def test_every_model_that_is_simulated_has_the_same_pool(capsys: pytest.CaptureFixture[str]) -> None:
    lines = 0
    for entry in entries("model"):
        code, found = _fit(f"{entry.name} --gpu b300 --gpus 8 --tp 1 --weights-dtype int4", capsys)
        if code == 0 and found["simulate"] is not None:
            assert _simulated_pool(found["simulate"], capsys) == found["num_blocks"], entry.name
            lines += 1
    assert lines > 50


@pytest.mark.slow
def test_what_sglang_is_simulated_with_is_what_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = 0
    for entry in entries("model"):
        code, found = _fit(f"{entry.name} --gpu b300 --gpus 8 --tp 1 --engine sglang --ctx 1024", capsys)
        if code == 0:
            flags = {"model": entry.name, "gpu": "b300", "engine.kind": "sglang", "parallel.replicas": 8,
                     "engine.context_length": 1024, "workload.synthesize": "fixed"}  # fmt: skip
            try:
                Run(load_scenario(None, flags))
            except UsageError:
                assert found["simulate"] is None, entry.name
            else:
                assert found["simulate"] is not None, entry.name
                lines += 1
    assert lines > 50


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("deepseek-v4-flash --gpu b300 --tp 8 --engine sglang", "attention compresses its context"),
        ("jamba-v0.1 --gpu b300 --engine sglang", "no radix cache knows its states"),
        ("mamba-2.8b --gpu h100 --engine sglang", "nothing is kept per token"),
        ("lfm2-1.2b --gpu h100 --engine sglang --engine-version 0.5.10", "states before 0.5.14"),
        ("llama-3.1-70b --gpu t4", "does not fit"),
        ("deepseek-v3 --gpu b300 --gpus 8 --draft --draft-model llama-3.2-1b", "two drafters"),
        (
            "llama-3.1-8b --gpu h100 --tp 2 --dp-attention --draft-model llama-3.2-1b --engine sglang",
            "SGLang's ranks have no other model draft",
        ),
        ("step-3.7-flash --gpu b300 --gpus 8 --draft --draft-tokens 4", "three layers cannot make four"),
        (
            "step-3.7-flash --gpu b300 --gpus 8 --draft --draft-tokens 3 --engine-version 0.27",
            "in turns before 0.28",
        ),
        ("gpt-oss-20b --gpu h100 --tp 2 --dp-attention --engine sglang", "ranks in step have windows"),
        ("gemma-3-4b --gpu h100 --tp 2 --dp-attention", "ranks in step have windows"),
        ("llama-3.1-8b --gpu h100 --gpus 4 --tp 2 --dp-attention", "ranks in step are replicated"),
        ("llama-3.1-8b --gpu b200 --engine sglang --max-num-batched-tokens 3000", "chunks split pages"),
    ],
)
def test_what_is_not_simulated_has_no_line(
    command: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _fit(command, capsys)[1]["simulate"] is None, why


def test_ranks_in_step_of_full_attention_are_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = _fit("llama-3.1-8b --gpu h100 --tp 2 --dp-attention", capsys)
    assert "parallel.dp_attention=true" in found["simulate"]


def test_a_default_of_an_older_version_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = _fit("llama-3.1-8b --gpu h100 --engine-version 0.10.1", capsys)
    assert "async_scheduling" not in found["simulate"]
