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
    assert f"clients gave up on {totals['timed_out']}." in verdict(Result.model_validate(document)).headline


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
    assert totals["requests"] == 200
    assert totals["timed_out"] == said["lost"] == said["gave_up"] - said["retried"]
    assert totals["finished"] == 200 - said["lost"]
    # What was answered in the end counts from when it was sent at first.
    assert again["latency"]["e2e_s"]["max"] > 2.0
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
            "--longest",
            "120",
            "-j",
            "1",
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


def test_objectives_count_who_gave_up_as_never_served() -> None:
    flags = {**LINEAR, **POOL, **BUSY, "workload.rate": 50.0, "workload.timeout_s": 2.0}
    lax = {"slo.e2e_p99_s": 30.0, "slo.e2e_p50_s": 30.0, "slo.tpot_p99_s": 30.0}
    document, _ = play({**flags, **lax})
    totals = document["totals"]
    assert 0.01 < totals["timed_out"] / totals["requests"] < 0.5
    found = {slo["name"]: slo for slo in document["slo"]}
    assert not found["e2e_p99_s"]["passed"]
    assert found["e2e_p99_s"]["value_s"] is None
    assert found["e2e_p50_s"]["passed"]
    assert found["e2e_p50_s"]["value_s"] > document["latency"]["e2e_s"]["p50"]
    assert found["tpot_p99_s"]["value_s"] == document["latency"]["tpot_s"]["p99"]
    assert "gave up on too many" in verdict(Result.model_validate(document)).headline


def test_no_interval_reaches_beyond_the_time_out() -> None:
    document, _ = play({**REAL, **BUSY, "workload.timeout_s": 3.0, "accuracy.ensemble": 2})
    intervals = document["accuracy"]["intervals"]
    assert all(high <= 3.0 for name in ("ttft_s", "e2e_s") for _, high in intervals[name].values())
    assert document["latency"]["e2e_s"]["p99"] > 2.9


def test_a_client_tries_again_after_its_own_time_out() -> None:
    flags = {
        **REAL, **BUSY, "workload.requests": 1, "workload.prompt_tokens": 50_000, "workload.timeout_s": 2.0,
        "workload.retries": 2, "workload.retry_after_s": 0.25, "latency.client_overhead_s": 0.5,
        "accuracy.ensemble": 0, "cache.prefix": "none",
    }  # fmt: skip
    document, rows = play(flags)
    assert not rows
    assert document["totals"]["requests"] == document["totals"]["timed_out"] == 1
    # Three time-outs, a quarter and half a second between them; the engine hears of the last one 0.5 s early.
    begun = document["series"]["t_s"][0]
    assert document["totals"]["makespan_s"] == pytest.approx(begun + 3 * 2.0 + 0.25 + 0.5 - 0.5, abs=0.05)


def test_waits_do_not_double_without_end() -> None:
    flags = {**LINEAR, **POOL, **BUSY, "workload.requests": 1, "workload.output_tokens": 8000}
    document, rows = play({**flags, "workload.timeout_s": 2.0, "workload.retries": 60})
    assert not rows
    assert metrics(document) == metrics(document) | {"gave_up": 61, "retried": 60, "lost": 1}
    assert document["totals"]["makespan_s"] < 61 * 62.0


def test_a_trace_may_call_requests_as_tries_are_called(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    rows = [
        {"arrival": 0.01 * n, "id": name, "prompt_token_ids": list(range(900)), "output_length": 400}
        for n, name in enumerate(("a", "a~2", "a~2~", "b"))
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {**LINEAR, **POOL, "workload.trace": str(trace), "workload.timeout_s": 1.0, "workload.retries": 3}
    document, _ = play(flags)
    assert metrics(document)["gave_up"] == 16
    assert document["totals"]["timed_out"] == document["totals"]["requests"] == 4


def test_who_needs_every_request_served_says_so() -> None:
    from kvplan.scenario.ladder import check_ladder

    with pytest.raises(UsageError, match="looks ahead") as caught:
        play({**LINEAR, **POOL, **BUSY, "workload.timeout_s": 2.0, "cache.eviction": "belady"})
    assert caught.value.where == "workload.timeout_s"
    with pytest.raises(UsageError, match="all served, once"):
        check_ladder(Run(load_scenario(None, {**LINEAR, **POOL, **BUSY, "workload.timeout_s": 2.0})))


def test_all_of_them_timing_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {**LINEAR, **POOL, **BUSY, "workload.timeout_s": 0.2, "workload.retries": 1}
    assert command(["simulate", *(x for k, v in flags.items() for x in ("--set", f"{k}={v}"))]) == 3
    said = capsys.readouterr().err
    assert "none of the 200 requests" in said
    assert "gave up before" in said
