"""Scenario files: what they accept, what they refuse and where they say so."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from kvplan.errors import DataError, SpecError, UsageError
from kvplan.scenario.load import dump_scenario, load_scenario, parse_assignment
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.schema.names import CALLED_ELSEWHERE, NOT_SIMULATED
from kvplan.scenario.schema.scenario import Scenario
from kvplan.scenario.workload import open_workload
from kvplan.sizing.capacity import fit_model
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.fields import fields_at

MINIMAL = """\
cache: {blocks: 100}
latency: {model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}
workload: {synthesize: fixed, requests: 10, rate: 5}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return str(path)


def test_defaults_are_the_engines(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path, MINIMAL))
    assert scenario.engine.async_scheduling is True
    assert scenario.engine.scheduler_reserve_full_isl is True
    assert scenario.cache.block_size is None
    assert resolve_deployment(scenario).config.block_size == 16
    assert scenario.seed == 0


DOCUMENTED = """\
model: llama-3.1-8b
gpu: h100-sxm
parallel: {tp: 1, pp: 1, cp: 1, replicas: 1}
cache: {dtype: bf16, block_size: 16, blocks: null, prefix: hash, eviction: lru, host_memory: 0, retention: engine}
engine: {kind: vllm, version: "0.33", max_num_seqs: 256, max_num_batched_tokens: 8192, chunked_prefill: true,
         policy: fcfs, preemption: recompute, async_scheduling: true}
latency: {model: roofline}
workload: {trace: conversation_trace.jsonl, format: auto, limit: null, rate_scale: 1.0}
slo: {ttft_p99_s: 2.0, tpot_p99_s: 0.05}
seed: 0
"""


def test_the_documented_scenario_is_accepted(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path, DOCUMENTED))
    assert scenario.model == "llama-3.1-8b"
    assert scenario.slo.tpot_p99_s == 0.05


@pytest.mark.parametrize("text", ["2e-5", "2E-05", "2.0e-5", "0.00002", "+2e-5", '"2e-5"'])
def test_a_constant_may_be_written_with_an_exponent(tmp_path: Path, text: str) -> None:
    """JSON writes 2e-05, which YAML 1.1 reads as text unless there is a dot."""
    path = write(tmp_path, MINIMAL.replace("2.0e-5", text))
    assert load_scenario(path).latency.parameters() == {"a": 5e-3, "b": 2e-5, "c": 1e-8}
    assert load_scenario(path, None, [f"latency.c={text}"]).latency.parameters()["c"] == 2e-5


def test_so_may_any_other_number(tmp_path: Path) -> None:
    text = MINIMAL.replace("rate: 5", "rate: 5e-05, rate_scale: 1e1") + "slo: {ttft_p99_s: 2e0}\n"
    scenario = load_scenario(write(tmp_path, text + "engine: {watermark: 5e-2}\n"))
    assert (scenario.workload.rate, scenario.workload.rate_scale) == (5e-5, 10.0)
    assert (scenario.slo.ttft_p99_s, scenario.engine.watermark) == (2.0, 0.05)
    with pytest.raises(SpecError, match="integer"):
        load_scenario(write(tmp_path, MINIMAL + "engine: {max_model_len: 1.5e0}\n"))


@pytest.mark.parametrize("text", ["2e", "e-5", "2 e-5", "1e-5s", "nan"])
def test_other_texts_are_no_constants(tmp_path: Path, text: str) -> None:
    assert load_scenario(write(tmp_path, MINIMAL.replace("2.0e-5", text))).latency.parameters()["b"] == text


def test_a_printed_scenario_reads_back_to_itself(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path, MINIMAL), {"workload.rate": "300/min"}, ["seed=7"])
    assert scenario.workload.rate == 5.0
    again = load_scenario(write(tmp_path, dump_scenario(scenario)))
    assert again == scenario


def test_later_settings_win(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "engine: {max_num_seqs: 8}\n")
    assert load_scenario(path).engine.max_num_seqs == 8
    assert load_scenario(path, {"engine.max_num_seqs": 9}).engine.max_num_seqs == 9
    assert (
        load_scenario(path, {"engine.max_num_seqs": 9}, ["engine.max_num_seqs=10"]).engine.max_num_seqs == 10
    )


def test_a_trace_flag_replaces_the_files_synthetic_workload(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path, MINIMAL), {"workload.trace": "x.jsonl"})
    assert scenario.workload.trace == "x.jsonl"
    assert scenario.workload.synthesize is None


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("cache: {blocks: 100\n", ":", "malformed YAML"),
        (MINIMAL + "engine: {max_num_seq: 8}\n", ":4  engine.max_num_seq", "did you mean max_num_seqs"),
        (MINIMAL + "parallel: {tensor_parallel_size: 8}\n", ":4  parallel.tensor_par", "it is called parallel.tp here"),
        (MINIMAL + "engine: {context_length: 8192}\n", ":4  engine.context", "it is called engine.max_model_len here"),
        (MINIMAL + "engine: {kind: sglang, max_num_seqs: 8}\n", ":4  engine.max_num", "it is called engine.max_running_requests here"),
        (MINIMAL + "engine: {kv_cache_dtype: fp8}\n", ":4  engine.kv_cache_dtype", "it is called cache.dtype here"),
        (MINIMAL.replace("blocks: 100", "blocks: 0"), ":1  cache.blocks", "greater than or equal to 2"),
        (MINIMAL.replace("blocks: 100", "blocks: -4"), ":1  cache.blocks", "greater than or equal to 2"),
        (MINIMAL.replace("rate: 5", "rate: .nan"), ":3  workload.rate", "finite"),
        (MINIMAL.replace("rate: 5", "rate: 0"), ":3  workload.rate", "greater than 0"),
        (MINIMAL + "slo: {ttft_p99_s: -1}\n", ":4  slo.ttft_p99_s", "greater than 0"),
        (MINIMAL + "slo: {ttft_p99_s: fast}\n", ":4  slo.ttft_p99_s", "not a duration"),
        (MINIMAL.replace("synthesize: fixed", "trace: a, synthesize: b"), ":3  workload", "exclude each other"),
        ("latency: {model: linear}\nworkload: {synthesize: chat}\n", "", "cache.blocks"),
        (MINIMAL.replace("model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8", "model: roofline"), "", "needs 'model'"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, text: str, place: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        load_scenario(path)
    assert place in (caught.value.where or "")
    assert message in caught.value.message


@pytest.mark.parametrize("field", ["slo.ttft_p99_s", "workload.timeout_s"])
def test_seconds_beyond_what_results_hold_are_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("model: llama-3.1-8b\ngpu: h100\nworkload: {synthesize: chat}\n")
    with pytest.raises(UsageError, match="less than or equal to 1000000000 "):
        load_scenario(str(path), {field: 1e300})


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=1", ".a=2"])
def test_assignments_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_assignment(text)


def test_an_assignment_cannot_descend_into_a_value(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds"):
        load_scenario(write(tmp_path, MINIMAL), {}, ["seed=1", "seed.x=2"])


def test_a_printed_scenario_can_be_changed(tmp_path: Path) -> None:
    """It says of every part it does not have that it is null."""
    printed = write(tmp_path, dump_scenario(load_scenario(write(tmp_path, MINIMAL))))
    again = load_scenario(
        printed, assignments=["tiers.host.memory=64GiB", "cache.pinned.prefixes=[{tokens: 9}]"]
    )
    assert again.tiers is not None
    assert again.tiers.host.memory == 64 << 30
    assert again.cache.pinned is not None


@pytest.mark.parametrize("field", ["routing.policy", "routing.ranks"])
def test_a_misspelt_router_is_refused_even_where_nothing_is_routed(tmp_path: Path, field: str) -> None:
    with pytest.raises(UsageError, match=r"'prefix-awear'; known: .*prefix-aware"):
        load_scenario(write(tmp_path, MINIMAL), assignments=[f"{field}=prefix-awear"])


def test_replicas_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="less than or equal to 4096"):
        load_scenario(write(tmp_path, MINIMAL), assignments=["parallel.replicas=1099511627776"])


@pytest.mark.parametrize(
    "field",
    [
        "disaggregation.bandwidth", "disaggregation.latency", "engine.gpu_memory_utilization",
        "engine.watermark", "slo.ttft_p99_s", "workload.rate", "workload.rate_scale",
    ],
)  # fmt: skip
def test_true_is_no_number(tmp_path: Path, field: str) -> None:
    with pytest.raises(UsageError, match="should be a number") as failure:
        load_scenario(write(tmp_path, MINIMAL), assignments=[f"{field}=yes"])
    assert failure.value.where is not None
    assert field in failure.value.where


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [("limit", 20, "use 'requests'"), ("time_scale", 0.5, ""), ("smooth", True, ""), ("format", "csv", ""),
     ("block_size", 16, ""), ("clamp_outputs", True, "")],
)  # fmt: skip
def test_what_only_a_trace_has_is_refused_for_a_synthetic_workload(
    name: str, value: object, hint: str
) -> None:
    flags = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "chat"}
    with pytest.raises((SpecError, UsageError), match=f"'{name}' belongs to a trace") as caught:
        load_scenario(None, {**flags, f"workload.{name}": value})
    assert hint in str(caught.value)
    # What a scenario says when it is written out whole is what it would be anyway.
    whole = load_scenario(None, flags).to_dict()["workload"]
    assert load_scenario(None, {**flags, **{f"workload.{key}": found for key, found in whole.items()}})


def test_synthetic_lengths_and_arrivals_may_be_distributions() -> None:
    flags = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "fixed"}
    drawn = {"workload.prompt_tokens": "uniform:512-1536", "workload.output_tokens": "lognormal:200,0.5",
             "workload.arrivals": "gamma", "workload.burstiness": 0.25}  # fmt: skip
    scenario = load_scenario(None, {**flags, **drawn})
    assert scenario.workload.prompt_tokens == "uniform:512-1536"
    assert load_scenario(None, {**flags, "workload.prompt_tokens": "2k"}).workload.prompt_tokens == 2048
    found = list(open_workload(scenario.workload, 1).requests())
    lengths = [request.prompt_tokens for request in found]
    assert min(lengths) >= 512
    assert max(lengths) <= 1536
    assert len(set(lengths)) > 100
    gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    # Gamma gaps of shape 1/4 vary twice as much as they are long.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean == pytest.approx(2.0, rel=0.2)
    for name, value, message in (
        ("prompt_tokens", "uniform:9-2", "is not a distribution"), ("prompt_tokens", "lots", "no.* token count"),
        ("output_tokens", 0, "greater than"), ("output_tokens", True, "prompt|output_tokens"),
        ("arrivals", "sometimes", "poisson"),
    ):  # fmt: skip
        with pytest.raises((SpecError, UsageError), match=message):
            load_scenario(None, {**flags, f"workload.{name}": value})


def test_the_names_of_others_lead_to_fields() -> None:
    called = [(name, field) for name, fields in CALLED_ELSEWHERE.items() for field in fields.split(" or ")]
    for name, field in called:
        *parts, last = field.split(".")
        known = list(fields_at(Scenario, tuple(parts)))
        assert last in known
        assert name not in known


@pytest.mark.parametrize("name", NOT_SIMULATED)
def test_options_that_nothing_stands_for_say_what_to_do(name: str) -> None:
    with pytest.raises(UsageError, match="unknown field: ") as refused:
        load_scenario(None, {"cache.blocks": 100, "workload.synthesize": "chat"}, [f"engine.{name}=1"])
    assert refused.value.message.endswith(NOT_SIMULATED[name])


def test_a_trace_that_is_not_there_says_where_names_start(tmp_path: Path) -> None:
    text = MINIMAL.replace("synthesize: fixed, requests: 10, rate: 5", "trace: nowhere.csv")
    with pytest.raises(DataError, match="no such trace file") as caught:
        open_workload(load_scenario(write(tmp_path, text)).workload, 1)
    assert caught.value.hint == f"names start at the current directory, {Path.cwd()}"


@pytest.mark.parametrize(
    ("model", "more", "prefix"),
    [
        ("falcon-mamba-7b", "", "none"),
        ("falcon-mamba-7b", "cache: {prefix: hash}", "hash"),
        ("falcon-mamba-7b", "engine: {kind: sglang}", "radix"),
        ("falcon-mamba-7b", "cache: {groups: [{kind: full}]}", "hash"),
        ("nemotron-h-8b", "", "hash"),
        ("llama-3.1-8b", "", "hash"),
    ],
)
def test_vllm_caches_no_prefixes_of_models_without_attention(
    tmp_path: Path, model: str, more: str, prefix: str
) -> None:
    text = f"model: {model}\ngpu: h100-sxm\nlatency: {{model: roofline}}\nworkload: {{synthesize: chat}}\n{more}\n"
    scenario = load_scenario(write(tmp_path, text))
    assert scenario.cache.prefix == prefix
    again = tmp_path / "again.yaml"
    again.write_text(dump_scenario(scenario))
    assert load_scenario(str(again)) == scenario


@pytest.mark.parametrize(
    ("version", "ahead", "whole"),
    [("0.33", True, True), ("0.18.1", True, False), ("0.13", False, False), ("0.14", True, False)],
)
def test_engines_do_what_their_version_did_unless_told(
    tmp_path: Path, version: str, ahead: bool, whole: bool
) -> None:
    engine = load_scenario(write(tmp_path, f"{MINIMAL}engine: {{version: '{version}'}}\n")).engine
    assert (engine.async_scheduling, engine.scheduler_reserve_full_isl) == (ahead, whole)
    told = f"{MINIMAL}engine: {{version: '{version}', async_scheduling: {str(not ahead).lower()}}}\n"
    assert load_scenario(write(tmp_path, told)).engine.async_scheduling is not ahead


@pytest.mark.parametrize(
    ("model", "version", "prefix"),
    [
        ("nemotron-h-8b", "0.27.1", "none"), ("nemotron-h-8b", "0.28", "hash"),
        ("llama-3.1-8b", "0.25.1", "hash"), ("llama-3.1-8b", "0.7.3", "none"),
    ],
)  # fmt: skip
def test_older_versions_cached_fewer_prefixes(tmp_path: Path, model: str, version: str, prefix: str) -> None:
    lines = (f"model: {model}", "gpu: h100-sxm", "latency: {model: roofline}", "workload: {synthesize: chat}",
             f"engine: {{version: '{version}'}}")  # fmt: skip
    assert load_scenario(write(tmp_path, "\n".join(lines))).cache.prefix == prefix


def test_a_version_needs_no_quotes_on_the_command_line_and_is_never_a_number(tmp_path: Path) -> None:
    assert parse_assignment("engine.version=0.10") == ("engine.version", "0.10")
    assert parse_assignment("engine.version='0.8.5'") == ("engine.version", "0.8.5")
    with pytest.raises(SpecError, match=r"the number 0\.1: put it in quotes"):
        load_scenario(write(tmp_path, MINIMAL + "engine: {version: 0.10}\n"))


def test_no_version_is_refused_even_where_nothing_depends_on_it() -> None:
    with pytest.raises(UsageError, match=r"'0\.33;x' is not an engine version: write it like") as refused:
        load_scenario(None, {"cache.blocks": 100, "workload.synthesize": "chat"}, ["engine.version=0.33;x"])
    assert "engine.version" in str(refused.value.where)


@pytest.mark.parametrize(
    ("engine", "version", "words"),
    [("vllm", "0.99", "newer than 0.33"), ("sglang", "0.4.9", "older than 0.5.1"), ("vllm", "0.10", None)],
)
def test_a_version_of_unknown_rules_is_said(engine: str, version: str, words: str | None) -> None:
    flags = {"model": "llama-3.1-8b", "gpu": "h100", "workload.synthesize": "chat"}
    scenario = load_scenario(None, {**flags, "engine.kind": engine, "engine.version": version})
    said = [text for text in resolve_deployment(scenario).warnings if "whose rules are used" in text]
    assert [words in text for text in said] == ([True] if words else [])


@pytest.mark.parametrize("name", ["SGLang", " sglang ", "SGLANG"])
def test_engines_are_found_however_they_are_written(name: str, tmp_path: Path) -> None:
    """Options mean the fields of the engine that is meant, wherever its name stands."""
    asked = [
        load_scenario(
            write(tmp_path, f"{MINIMAL}engine: {{kind: {name!r}}}\n"), flags={"cache.block_size": 8}
        ),
        load_scenario(write(tmp_path, MINIMAL), flags={"engine.kind": name, "cache.block_size": 8}),
        load_scenario(
            write(tmp_path, MINIMAL), flags={"cache.block_size": 8}, assignments=[f"engine.kind={name}"]
        ),
    ]
    assert {(scenario.engine.kind, scenario.engine.page_size) for scenario in asked} == {("sglang", 8)}
    gpu = load_gpu("h100-sxm")
    assert fit_model(load_model("llama-3.1-8b"), gpu, engine=name).serving.kind == "sglang"
