"""Clients that give up, as a scenario asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run as command
from kvplan.engine.recorder import RequestRow
from kvplan.errors import UsageError
from kvplan.reporting.result import Result
from kvplan.reporting.verdict import verdict
from kvplan.scenario.audit import audit_result
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

LINEAR = {"latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8}
POOL = {"cache.blocks": 3000, "engine.max_num_batched_tokens": 2048, "engine.max_model_len": 16384}
BUSY = {"workload.synthesize": "fixed", "workload.requests": 200, "workload.prompt_tokens": 1000,
        "workload.output_tokens": 50, "workload.rate": 80.0}  # fmt: skip
REAL = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}


def play(flags: dict[str, Any]) -> tuple[dict[str, Any], list[RequestRow]]:
    rows: list[RequestRow] = []
    run = Run(load_scenario(None, flags))
    run.execute(on_request=rows.append)
    document = run.result(["kvplan", "simulate"])
    Result.model_validate(document)
    return document, rows


def metrics(document: dict[str, Any]) -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in document["strategies"]["clients"]}


def test_nobody_is_answered_late_and_everybody_is_counted() -> None:
    patient, _ = play({**LINEAR, **POOL, **BUSY})
    assert patient["latency"]["e2e_s"]["max"] > 2.0
    document, rows = play({**LINEAR, **POOL, **BUSY, "workload.timeout_s": 2.0})
    totals, said = document["totals"], metrics(document)
    assert 0 < totals["finished"] < 200
    assert totals["finished"] + totals["timed_out"] == totals["requests"] == 200
    assert document["latency"]["e2e_s"]["max"] <= 2.0
    assert all(row.finish_s - row.arrival_s <= 2.0 for row in rows)
    assert said["gave_up"] == said["lost"] == totals["timed_out"]
    assert said["timeout"] == 2.0
    assert set(said) == {"timeout", "gave_up", "lost", "in_flight_mean"}
    assert "clients give up" in verdict(Result.model_validate(document)).headline


def test_a_time_out_on_the_first_token_spares_who_has_one() -> None:
    document, rows = play({**LINEAR, **POOL, **BUSY, "workload.first_token_timeout_s": 0.5})
    assert document["totals"]["timed_out"] > 0
    assert document["latency"]["ttft_s"]["max"] <= 0.5
    assert max(row.finish_s - row.first_token_s for row in rows) > 0.5


def test_time_outs_that_nobody_needs_change_nothing() -> None:
    flags = {**LINEAR, **POOL, **BUSY, "workload.rate": 5.0}
    patient, rows = play(flags)
    document, same = play({**flags, "workload.timeout_s": 60.0, "workload.retries": 3})
    assert same == rows
    assert document["totals"] == patient["totals"]
    assert metrics(document)["gave_up"] == metrics(document)["retried"] == 0


def test_tries_are_requests_and_keep_an_engine_late() -> None:
    once, _ = play({**LINEAR, **POOL, **BUSY, "workload.timeout_s": 2.0})
    again, _ = play({**LINEAR, **POOL, **BUSY, "workload.timeout_s": 2.0, "workload.retries": 2})
    said, totals = metrics(again), again["totals"]
    assert totals["requests"] == 200 + said["retried"]
    assert totals["timed_out"] == said["gave_up"] == said["retried"] + said["lost"]
    assert totals["finished"] == 200 - said["lost"]
    assert said["retried"] > 0
    assert totals["makespan_s"] > once["totals"]["makespan_s"]


def test_clients_count_their_own_part_of_the_time() -> None:
    flags = {**REAL, **BUSY, "workload.requests": 40, "workload.timeout_s": 1.0, "accuracy.ensemble": 0}
    document, _ = play(flags)
    assert document["totals"]["finished"] > 0
    assert document["latency"]["e2e_s"]["max"] <= 1.0
    with pytest.raises(UsageError, match="outside the engine") as caught:
        play({**flags, "workload.timeout_s": 0.01})
    assert caught.value.where == "workload.timeout_s"


def test_members_of_an_ensemble_give_up_in_their_own_time() -> None:
    document, _ = play({**REAL, **BUSY, "workload.timeout_s": 3.0, "accuracy.ensemble": 4})
    assert document["accuracy"]["ensemble"] == 4


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"engine.kind": "sglang"},
        {"workload.max_in_flight": 100, "workload.retries": 1},
        {"cache.groups": [{"kind": "full"}, {"kind": "sliding", "window": 256}]},
    ],
)
def test_both_engines_agree_and_an_audit_says_so(more: dict[str, Any]) -> None:
    pool = {"cache.blocks": 3000} if "engine.kind" in more else POOL
    document, _ = play({**LINEAR, **pool, **BUSY, "workload.timeout_s": 1.0, **more})
    assert document["totals"]["timed_out"] > 0
    audit = audit_result(document)
    assert audit.passed, audit
    assert audit.requests == document["totals"]["requests"]


@pytest.mark.parametrize(
    "more",
    [
        {"sampling.n": 2},
        {"disaggregation": {"prefill": {"instances": 1}, "decode": {"instances": 1}}},
    ],
)
def test_strategies_that_hold_on_to_requests_say_so(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="wait for ever") as caught:
        play({**REAL, **BUSY, "workload.timeout_s": 2.0, **more})
    assert caught.value.where == "workload.timeout_s"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"workload.timeout_s": 0.0}, "timeout_s"),
        ({"workload.timeout_s": -1}, "timeout_s"),
        ({"workload.retries": 2}, "nobody gives up"),
        ({"workload.timeout_s": 2, "workload.retries": 101}, "retries"),
        ({"workload.timeout_s": 2, "workload.retry_after_s": 3}, "needs 'retries'"),
        ({"workload.timeout_s": 2, "workload.first_token_timeout_s": 2}, "changes nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_scenario(None, {**LINEAR, **POOL, **BUSY, **flags})


def test_the_command_counts_them_and_a_search_does_not_pass_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "sweep.json"
    flags = {
        **LINEAR,
        **POOL,
        **BUSY,
        "workload.rate": None,
        "workload.requests": 60,
        "workload.timeout_s": 1.0,
    }
    assign = [
        item for key, value in flags.items() if value is not None for item in ("--set", f"{key}={value}")
    ]
    code = command(
        [
            "sweep",
            *assign,
            "--set",
            "slo.ttft_p50_s=30",
            "--highest",
            "workload.rate=1..100",
            "-o",
            str(target),
        ]
    )
    assert code == 0
    document = json.loads(target.read_text())
    late = [p["values"]["workload.rate"] for p in document["points"] if p["figures"]["timed_out"]]
    assert late
    assert document["highest"]["passed"] < min(late)
    assert "timed out" in capsys.readouterr().out
