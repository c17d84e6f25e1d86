"""What limits a run follows from what it did, and every step is a command that can be run."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from kvplan.cli import app
from kvplan.reporting.advice import MOST_STEPS, Advice, advice
from kvplan.reporting.command import command, setting_value
from kvplan.reporting.loading import parse_result
from kvplan.reporting.result import Result
from kvplan.scenario.load import load_scenario, parse_assignment
from kvplan.scenario.run import Run

LINEAR = {"latency.model": "linear", "latency.a": 0.01, "latency.b": 2e-5, "latency.c": 1e-8}
FIXED = {
    "workload.synthesize": "fixed", "workload.requests": 300, "workload.prompt_tokens": 512,
    "workload.output_tokens": 64,
}  # fmt: skip
POOL = {"cache.blocks": 3000, "engine.max_model_len": 16384}


def played(flags: dict[str, Any]) -> Result:
    run = Run(load_scenario(None, {**LINEAR, **FIXED, **flags}))
    run.execute()
    return Result.model_validate(run.result(["kvplan", "simulate"]))


def said(flags: dict[str, Any]) -> Advice:
    found = advice(played(flags))
    assert found is not None
    return found


def test_a_limit_on_sequences_is_named_with_how_long_it_held():
    found = said({**POOL, "workload.rate": 30, "engine.max_num_seqs": 8})
    assert found.limit == "The limit on sequences (engine.max_num_seqs)."
    assert "8 requests ran, the most allowed" in found.evidence
    assert found.steps[0].change == "--set engine.max_num_seqs=16"
    two = said({**POOL, "workload.rate": 50, "engine.max_num_seqs": 8, "parallel.replicas": 2})
    assert "16 requests ran" in two.evidence


def test_a_full_pool_is_named():
    found = said({**POOL, "workload.rate": 30, "cache.blocks": 200})
    assert found.limit == "KV memory: requests wait for blocks."
    assert "at least 82% full" in found.evidence


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        ({"cache.blocks": 600}, "cache.blocks"),
        ({"engine.kind": "sglang", "engine.max_total_tokens": 10_000}, "engine.max_total_tokens"),
    ],
)
def test_of_a_pool_that_was_given_neither_another_format_nor_more_gpus_is_tried(
    pool: dict[str, Any], name: str
) -> None:
    """They would leave as many tokens; what helps is what the memory holds."""
    length = "engine.max_model_len" if name == "cache.blocks" else "engine.context_length"
    where = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.rate": 60, length: 4096}
    found = said({**where, **pool})
    assert found.limit == "KV memory: requests wait for blocks."
    assert found.steps[0].change == f"without {name}"
    assert name not in found.steps[0].command
    assert not any("fp8" in step.command or "--tp" in step.command for step in found.steps)
    assert found.steps[1].change.startswith("--set parallel.replicas=")


def test_a_small_step_is_named():
    found = said({**POOL, "workload.rate": 60, "engine.max_num_batched_tokens": 512})
    assert found.limit.startswith("The time of a step")
    assert "prompt tokens" in found.evidence
    assert "of at most 512" in found.evidence


def test_nothing_limits_what_hardly_works():
    found = said({**POOL, "workload.rate": 1})
    assert found.limit.startswith("Nothing")
    assert found.replicas is None
    assert [step.change for step in found.steps] == ["kvplan sweep ... --highest workload.rate=0.25..16"]


def test_a_missed_limit_without_waiting_is_the_steps_own_time():
    found = said({**POOL, "workload.rate": 1, "slo.tpot_p99_s": 0.001})
    assert found.limit.startswith("The time of a step: hardly")


def test_length_is_named_where_most_are_turned_away():
    found = said({**POOL, "workload.rate": 5, "engine.max_model_len": 256})
    assert found.limit == "The length of a request."
    assert "576 tokens on average, 576 at p99; engine.max_model_len is 256" in found.evidence


def test_replicas_are_a_lower_bound_by_the_rates():
    result = played({**POOL, "workload.rate": 30, "engine.max_num_seqs": 8})
    found = advice(result)
    assert found is not None
    assert found.replicas is not None
    assert found.replicas.startswith("At least 3 replicas: ")
    assert "a lower bound" in found.replicas
    assert any(step.change == "--set parallel.replicas=3" for step in found.steps)


def test_room_on_decode_instances_is_named_where_requests_wait_for_it():
    """Not the time of a step: the decode pool promises more than it has in use, and is never full."""
    flags = {
        "engine.kind": "sglang", "cache.prefix": "radix", "engine.max_total_tokens": 6000,
        "engine.context_length": 4096, "workload.rate": 30, "disaggregation.bytes_per_token": 131_072,
    }  # fmt: skip
    found = said(flags)
    assert found.limit == "KV memory of the decode instances: requests wait for room there."
    assert re.search(r"of 300 requests waited for it; \S+ s on average of all, beside ", found.evidence)
    assert found.replicas is not None
    assert re.match(
        r"At least \d times as many instances \(kvplan plan .*sustained by these\.", found.replicas
    )
    assert found.steps == ()


def test_prefill_that_is_waited_for_is_no_want_of_room():
    flags = {
        "engine.kind": "sglang", "cache.prefix": "radix", "engine.max_total_tokens": 600_000,
        "engine.context_length": 4096, "workload.rate": 300, "disaggregation.bytes_per_token": 131_072,
        "disaggregation.decode.instances": 4,
    }  # fmt: skip
    assert said(flags).limit.startswith("The time of a step")


def test_nothing_is_said_of_a_run_that_stopped_or_was_empty(result_document):
    assert advice(parse_result(result_document("incomplete"))) is None
    assert advice(parse_result(result_document("empty"))) is None


def test_every_report_of_any_result_can_be_advised(any_document):
    advice(parse_result(any_document))


@pytest.mark.parametrize(
    "flags",
    [
        ["--gpu", "l4", "--synthesize", "chat", "--rate", "3"],
        ["--gpu", "h100-sxm", "--synthesize", "fixed", "--rate", "30", "--set", "engine.version=0.8.5"],
        ["--gpu", "l4", "--synthesize", "chat", "--rate", "3", "--set", "slo.ttft_p99_s=0.5"],
        ["--gpu", "l4", "--synthesize", "rag", "--max-in-flight", "16", "--set", "engine.max_model_len=32k"],
    ],
)
def test_the_commands_run(flags: list[str], capsys: pytest.CaptureFixture[str]):
    assignments = [flags[i + 1] for i, word in enumerate(flags) if word == "--set"]
    names = {"--gpu": "gpu", "--synthesize": "workload.synthesize", "--rate": "workload.rate",
             "--max-in-flight": "workload.max_in_flight"}  # fmt: skip
    given: dict[str, Any] = {names[w]: flags[i + 1] for i, w in enumerate(flags) if w in names}
    if "workload.max_in_flight" in given:
        given["workload.max_in_flight"] = int(given["workload.max_in_flight"])
    run = Run(load_scenario(None, {"model": "llama-3.1-8b", **given}, assignments, count=60))
    run.execute()
    found = advice(Result.model_validate(run.result(["kvplan"])))
    assert found is not None
    assert found.steps
    for step in found.steps:
        words = shlex.split(step.command)
        if words[1] == "plan":
            assert app.run([*words[1:], "-q", "-j", "1", "--longest", "60", "--most-gpus", "8"]) in (0, 3)
        elif words[1] == "sweep":
            # 3: no load so low meets the objective.
            assert app.run([*words[1:], "-q", "-j", "1", "--longest", "60"]) in (0, 3), step.command
        else:
            # What helps need not be enough for an objective.
            assert app.run([*words[1:], "-q"]) in ((0, 3) if "slo." in step.command else (0,)), step.command
    capsys.readouterr()


def test_a_missed_objective_asks_what_would_meet_it():
    slow = ["slo.tpot_p99_s=0.001", "slo.ttft_p99_s=0.05", "price.gpu_hour=l4=0.5", "engine.max_num_seqs=8"]
    flags = {"model": "llama-3.1-8b", "gpu": "l4", "workload.synthesize": "chat", "workload.rate": "6"}
    run = Run(load_scenario(None, {**flags, "parallel.tp": 2}, slow, count=60))
    run.execute()
    found = advice(Result.model_validate(run.result(["kvplan"])))
    assert found is not None
    assert len(found.steps) <= MOST_STEPS
    (plan,) = [step.command for step in found.steps if step.change == "kvplan plan ..."]
    words = shlex.split(plan)
    assert words[:2] == ["kvplan", "plan"]
    assert "--tp" not in words, "it chooses"
    assert words[words.index("--price") + 1] == "l4=0.5"
    assert "engine.max_num_seqs=8" in words, "an option that plan does not have"
    met = Run(load_scenario(None, flags, ["slo.ttft_p99_s=600"], count=20))
    met.execute()
    served = advice(Result.model_validate(met.result(["kvplan"])))
    assert served is not None
    assert not [step for step in served.steps if step.change.startswith("kvplan plan")]


def test_a_command_keeps_what_is_no_default_and_reads_back():
    scenario = load_scenario(
        None,
        {"model": "llama-3.1-8b", "gpu": "l4", **FIXED, "cache.block_size": 32},
        ["engine.version='0.8'"],
    ).to_dict()
    text = command(scenario, "simulate", {"cache.dtype": "fp8"})
    assert text == (
        "kvplan simulate --model llama-3.1-8b --gpu l4 --dtype fp8 --synthesize fixed --limit 300 --set "
        "cache.block_size=32 --set 'engine.version=\"0.8\"' --set workload.prompt_tokens=512 --set "
        "workload.output_tokens=64"
    )
    assert command({**scenario, "workload": {"trace": "-"}}, "simulate", {}) is None
    assert command({**scenario, "a b": 1}, "simulate", {}) is None
    assert command({**scenario, "model": "x\ny"}, "simulate", {}) is None


@pytest.mark.parametrize(
    "value", ["fp8", "0.33", "yes", "no", True, 3, 0.5, "a: b", "", "1e3", [{"kind": "full"}]]
)
def test_a_value_reads_back_as_it_was(value: object):
    assert parse_assignment(f"x={setting_value(value)}") == ("x", value)


LLAMA = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "accuracy.ensemble": 0, "workload.requests": 120}


def timed(flags: dict[str, Any]) -> tuple[Result, Advice]:
    run = Run(load_scenario(None, {"latency.model": "roofline", **FIXED, **LLAMA, **flags}))
    run.execute()
    result = Result.model_validate(run.result(["kvplan", "simulate"]))
    found = advice(result)
    assert found is not None
    return result, found


def changes(found: Advice) -> list[str]:
    return [step.change for step in found.steps]


def test_prompts_that_wait_for_arithmetic_are_told_so():
    _, found = timed({"workload.prompt_tokens": 4000, "workload.output_tokens": 4, "workload.rate": 60})
    assert found.limit.startswith("The time of a step, bound by arithmetic")
    assert changes(found)[0].startswith("--set parallel.replicas=")
    assert changes(found)[1] == "--set parallel.tp=2"


def test_a_slow_host_is_not_helped_by_more_gpus():
    slow = {
        "latency.step_s": 0.05,
        "engine.async_scheduling": False,
        "slo.tpot_p99_s": 0.01,
        "workload.rate": 2,
    }
    _, found = timed(slow)
    assert found.limit.startswith("The time of a step, bound by the host")
    assert "--set engine.async_scheduling=True" in changes(found)
    assert not any("tp=" in change for change in changes(found))
    # What is on already is not proposed.
    _, found = timed({**slow, "engine.async_scheduling": True})
    assert not any("async" in change for change in changes(found))
    eager = {**slow, "latency.step_s": 0.0, "latency.launch_s": 1e-3, "engine.enforce_eager": True}
    _, found = timed(eager)
    assert changes(found)[0] == "--set engine.enforce_eager=False"


def test_slow_links_are_not_helped_by_more_of_them():
    slow = {"parallel.tp": 2, "latency.link_efficiency": 0.002, "slo.tpot_p99_s": 0.001, "workload.rate": 2}
    _, found = timed(slow)
    assert found.limit.startswith("The time of a step, bound by links")
    assert not any("tp=" in change for change in changes(found))


def test_reading_much_cache_is_helped_by_narrower_formats_where_the_gpu_has_them():
    long = {
        "workload.prompt_tokens": 12_000, "workload.output_tokens": 2000, "workload.requests": 8,
        "workload.rate": 50, "slo.tpot_p99_s": 0.001, "cache.prefix": "none", "engine.max_num_batched_tokens": 32768,
    }  # fmt: skip
    result, found = timed(long)
    assert result.step_time is not None
    assert found.limit.startswith("The time of a step, bound by memory bandwidth")
    assert changes(found)[0] == "--set cache.dtype=fp8"
    # An engine for a V100 has no such cache.
    assert "fp8" in {curve.dtype for curve in result.capacity or ()}


def test_a_format_without_kernels_is_said_and_not_proposed():
    result, _ = timed({"gpu": "v100-32g", "workload.rate": 1, "engine.max_model_len": 4096})
    assert all(curve.dtype != "fp8" for curve in result.capacity or ())
    result, _ = timed(
        {"gpu": "v100-32g", "workload.rate": 1, "engine.max_model_len": 4096, "cache.dtype": "fp8"}
    )
    assert any("no attention kernels for fp8" in text for text in result.warnings)
