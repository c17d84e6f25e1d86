"""``kvplan explain-log --model``: the tokens that kvplan gives the logged pool, as the deployment splits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(text: str, *arguments: str) -> dict[str, Any]:
        path = tmp_path / "start.log"
        path.write_text(text)
        assert run(["explain-log", str(path), "--format", "json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    return ask


PIPELINE = """\
(APIServer pid=7) INFO non-default args: {'model': 'meta-llama/Llama-3.1-8B-Instruct', 'pipeline_parallel_size': 2}
(Worker_PP0 pid=120) INFO [gpu_worker.py:359] Available KV cache memory: 61.90 GiB
(Worker_PP1 pid=121) INFO [gpu_worker.py:359] Available KV cache memory: 60.70 GiB
(EngineCore_DP0 pid=99) INFO [kv_cache_utils.py:1229] GPU KV cache size: 994,496 tokens
(EngineCore_DP0 pid=99) INFO [kv_cache_utils.py:1234] Maximum concurrency for 8,192 tokens per request: 121.40x
"""
"""Half of 32 layers of 4,096 bytes on each stage."""


def test_stages_of_a_pipeline_are_compared_as_such(explain: Any, tmp_path: Path, capsys: Any) -> None:
    comparison = explain(PIPELINE, "--model", "llama-3.1-8b")["comparison"]
    assert (comparison["pp"], comparison["kv_tokens"]) == (2, 994_496)
    assert run(["explain-log", str(tmp_path / "start.log"), "--model", "llama-3.1-8b"]) == 0
    assert "llama-3.1-8b at tp 1, pp 2 in bf16" in capsys.readouterr().out


def test_states_that_sglang_keeps_apart_are_compared_with_the_pool(explain: Any) -> None:
    """Nine bytes of states to ten of tokens, as SGLang shares what it has."""
    log = (
        "[09:00:00] server_args=ServerArgs(model_path='Qwen/Qwen3-Next-80B-A3B-Instruct', tp_size=4)\n"
        "[09:00:31 TP0] Mamba Cache is allocated. max_mamba_cache_size: 640, conv_state size: 0.20GB, ssm_state size: "
        "11.25GB\n"
        "[09:00:31 TP0] KV Cache is allocated. #tokens: 1110000, K size: 6.35 GB, V size: 6.35 GB\n"
    )
    assert abs(explain(log, "--model", "qwen3-next-80b-a3b")["comparison"]["difference"]) < 0.03


@pytest.mark.parametrize(("dp", "heads"), [(1, 1), (2, 2), (4, 4)])
def test_attention_ranks_split_heads_among_their_own_gpus(explain: Any, dp: int, heads: int) -> None:
    """48 layers of K and V of 128: four KV heads on the GPUs of one rank."""
    size = 500_000 * 48 * 128 * 2 * heads / 2**30
    log = (
        "[09:00:00] server_args=ServerArgs(model_path='Qwen/Qwen3-30B-A3B', tp_size=4, "
        f"dp_size={dp}, enable_dp_attention={dp > 1})\n"
        f"[09:00:31 TP0] KV Cache is allocated. #tokens: 500000, K size: {size:.2f} GB, V size: {size:.2f} GB\n"
    )
    comparison = explain(log, "--model", "qwen3-30b-a3b")["comparison"]
    assert comparison["tp"] == 4
    assert abs(comparison["difference"]) < 0.001


SHARED = """\
INFO Initializing a V1 LLM engine (v0.16.0) with config: model='a/b', tensor_parallel_size=8, decode_context_parallel_size=8, kv_cache_dtype={}
INFO Available KV cache memory: 30.0 GiB
INFO GPU KV cache size: 3,667,072 tokens
"""


def test_ranks_that_share_a_request_s_tokens_are_compared_as_such(explain: Any) -> None:
    """30 GiB of 70,272 bytes a token on each of 8."""
    comparison = explain(SHARED.format("auto"), "--model", "deepseek-v3")["comparison"]
    assert abs(comparison["difference"]) < 0.001


@pytest.mark.parametrize("word", ["float8_e4m3fnuz", "fp8_inc", "fp4_e2m1"])
def test_formats_are_known_by_the_engines_words(explain: Any, word: str) -> None:
    assert explain(SHARED.format(word), "--model", "llama-2-7b")["comparison"] is not None


def test_a_format_that_is_not_known_is_asked_for(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "start.log"
    path.write_text(SHARED.format("fp3_of_tomorrow"))
    assert run(["explain-log", str(path), "--model", "deepseek-v3"]) == 2
    assert "name one with --dtype" in capsys.readouterr().err


def test_the_log_s_own_model_is_compared_if_it_is_known(explain: Any) -> None:
    assert explain(PIPELINE)["comparison"]["model"] == "llama-3.1-8b"
    assert explain(PIPELINE.replace("meta-llama/", "/models/x/"))["comparison"] is None
    assert (
        explain(PIPELINE.replace("'pipeline_parallel_size': 2", "'pipeline_parallel_size': 99"))["comparison"]
        is None
    )


@pytest.mark.parametrize("version", ["dev", "0.0.0", "0.1.dev10420+g0a1b2c3"])
def test_builds_that_do_not_know_their_version_are_compared_by_the_newest_rules(
    explain: Any, tmp_path: Path, capsys: Any, version: str
) -> None:
    named = f"INFO vLLM API server version {version}\n"
    told, newest = explain(named + PIPELINE), explain(PIPELINE)
    assert told["comparison"] == {**newest["comparison"], "rules": "0.33"}
    assert newest["comparison"]["rules"] is None
    assert explain(named.replace(version, "0.33.0") + PIPELINE)["comparison"] == newest["comparison"]
    (tmp_path / "start.log").write_text(named + PIPELINE)
    assert run(["explain-log", str(tmp_path / "start.log")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"by the rules of vllm 0.33, as {version} is no release" in text


def test_the_model_s_own_drafting_layers_share_the_pool(explain: Any) -> None:
    """DeepSeek-V3 drafts with one layer more than its 61."""
    log = SHARED.format("auto").replace("model='a/b'", "model='a/b', speculative_config={}")
    drafting = log.format("SpeculativeConfig(method='deepseek_mtp', model='a/b', num_spec_tokens=1)")
    plain, more = (
        explain(text, "--model", "deepseek-v3")["comparison"] for text in (log.format("None"), drafting)
    )
    assert more["kv_tokens"] / plain["kv_tokens"] == pytest.approx(61 / 62, rel=0.001)
    assert not more["without_draft"]


@pytest.mark.parametrize("method", ["qwen3_next_mtp", "ngram"])
def test_every_draft_has_a_state_of_its_own(explain: Any, method: str) -> None:
    """A hybrid's request keeps a state for each draft of a step, and they are of its pool."""

    def tokens(drafts: int) -> int:
        log = (
            "INFO Initializing a V1 LLM engine (v0.33.0) with config: model='Qwen/Qwen3-Next-80B-A3B-Instruct', "
            f"speculative_config=SpeculativeConfig(method='{method}', model='a/b', num_spec_tokens={drafts}), "
            "max_seq_len=8192, tensor_parallel_size=4, kv_cache_dtype=auto\n"
            "INFO Available KV cache memory: 30.0 GiB\nINFO GPU KV cache size: 2,000,000 tokens\n"
        )
        found = explain(log)
        assert found["account"]["draft_tokens"] == drafts
        return int(found["comparison"]["kv_tokens"])

    assert tokens(1) > tokens(2) > tokens(4)


def test_options_may_say_how_many_drafts(explain: Any) -> None:
    log = PIPELINE.replace(
        "'pipeline", "'speculative_config': {'num_speculative_tokens': 5, 'method': 'eagle3'}, 'pipeline"
    )
    assert explain(log)["account"]["draft_tokens"] == 5


def test_a_draft_model_of_an_unknown_size_is_said_to_be_missing(
    explain: Any, tmp_path: Path, capsys: Any
) -> None:
    log = PIPELINE.replace(
        "'pipeline", "'speculative_config': {'model': 'x/y', 'method': 'eagle3'}, 'pipeline"
    )
    assert explain(log)["comparison"]["without_draft"]
    assert run(["explain-log", str(tmp_path / "start.log")]) == 0
    assert "the draft model's layers share the pool" in " ".join(capsys.readouterr().out.split())


def test_options_of_the_comparison_go_with_the_log_s_own_model(
    explain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = explain(PIPELINE, "--gpu", "h100-sxm", "--dtype", "fp8")["comparison"]
    assert (comparison["model"], comparison["gpu"]) == ("llama-3.1-8b", "h100-sxm")
    assert comparison["difference"] == pytest.approx(1.0, abs=0.01)  # twice the tokens
    assert run(["explain-log", str(tmp_path / "start.log"), "--gpu", "h10"]) == 2
    assert "did you mean h100" in capsys.readouterr().err


def test_a_comparison_that_was_asked_for_and_lacks_a_pool_is_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "start.log"
    path.write_text("INFO Available KV cache memory: 54.58 GiB\n")
    assert run(["explain-log", str(path), "--model", "llama-3.1-8b"]) == 0
    assert "not compared with llama-3.1-8b: the log does not say" in capsys.readouterr().err
    assert run(["explain-log", str(path)]) == 0
    assert "not compared" not in capsys.readouterr().err
