"""Clients that wait for answers, as a scenario asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run as command
from kvplan.engine.recorder import RequestRow
from kvplan.errors import SpecError, UsageError
from kvplan.reporting.result import Result
from kvplan.scenario.audit import audit_result
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

LINEAR = {"latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8}
POOL = {"cache.blocks": 3000, "engine.max_num_batched_tokens": 2048, "engine.max_model_len": 16384}
FIXED = {"workload.synthesize": "fixed", "workload.requests": 60, "workload.prompt_tokens": 100,
         "workload.output_tokens": 20}  # fmt: skip
CHAT = {"workload.synthesize": "chat", "workload.requests": 200, "workload.rate": 4.0}
REAL = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}


def play(flags: dict[str, Any]) -> tuple[dict[str, Any], list[RequestRow]]:
    rows: list[RequestRow] = []
    run = Run(load_scenario(None, flags))
    run.execute(on_request=rows.append)
    return run.result(["kvplan", "simulate"]), rows


def metrics(document: dict[str, Any]) -> dict[str, Any]:
    return {metric["name"]: metric["value"] for metric in document["strategies"]["clients"]}


def busiest(rows: list[RequestRow]) -> int:
    return max(sum(o.arrival_s <= row.arrival_s < o.finish_s for o in rows) for row in rows)


def test_requests_without_a_rate_keep_the_limit_full() -> None:
    document, rows = play({**LINEAR, **POOL, **FIXED, "workload.max_in_flight": 4})
    Result.model_validate(document)
    assert busiest(rows) == 4
    said = metrics(document)
    assert set(said) == {"max_in_flight", "in_flight_mean", "reaction"}
    assert said["in_flight_mean"] == pytest.approx(4.0, rel=0.02)
    assert said["reaction"] == 0.0  # a linear clock knows no client


def test_a_rate_bounds_a_limit_that_is_seldom_reached() -> None:
    slow = {**LINEAR, **POOL, **FIXED, "workload.rate": 1.0}
    document, rows = play({**slow, "workload.max_in_flight": 50})
    assert rows == play(slow)[1]
    assert metrics(document)["held_back"] == 0
    busy, _ = play({**LINEAR, **POOL, **FIXED, "workload.rate": 1000.0, "workload.max_in_flight": 2})
    assert metrics(busy)["held_back"] == 58
    assert metrics(busy)["held_back_mean"] > 0.5


def test_more_in_flight_serve_more_and_take_longer_each() -> None:
    found = [play({**REAL, **FIXED, "workload.max_in_flight": limit, "accuracy.ensemble": 0})[0]
             for limit in (1, 4, 16)]  # fmt: skip
    rates = [document["throughput"]["output_tokens_per_s"] for document in found]
    waits = [document["latency"]["tpot_s"]["mean"] for document in found]
    assert rates == sorted(rates)
    assert rates[2] > 5 * rates[0]
    assert waits == sorted(waits)
    # One at a time: nobody waits for anybody, and the client's own time passes between two requests.
    client = metrics(found[0])["reaction"]
    assert client == 0.015
    e2e = found[0]["latency"]["e2e_s"]["mean"]
    assert found[0]["throughput"]["requests_per_s"] == pytest.approx(1 / e2e, rel=3e-3)


def test_turns_wait_for_the_simulated_answers() -> None:
    timed, before = play({**LINEAR, **POOL, **CHAT})
    assert "clients" not in timed["strategies"]
    answered, rows = play({**LINEAR, **POOL, **CHAT, "workload.turns": "answered"})
    assert metrics(answered)["turns"] > 50
    assert len(rows) == len(before) == 200
    slow, later = play({**LINEAR, **POOL, **CHAT, "workload.turns": "answered", "latency.a": 0.2})
    last, first = (max(row.arrival_s for row in found) for found in (later, rows))
    assert last > first + 1.0
    assert max(row.arrival_s for row in play({**LINEAR, **POOL, **CHAT, "latency.a": 0.2})[1]) == max(
        row.arrival_s for row in before
    )
    assert slow["totals"]["finished"] == 200


@pytest.mark.parametrize("more", [{"workload.max_in_flight": 3}, {"workload.turns": "answered"}])
def test_both_engines_agree_and_an_audit_says_so(more: dict[str, Any]) -> None:
    document, _ = play({**LINEAR, **POOL, **CHAT, **more})
    audit = audit_result(document)
    assert audit.passed
    assert audit.requests == 200


def test_members_of_an_ensemble_wait_for_their_own_answers() -> None:
    flags = {**REAL, **FIXED, "workload.max_in_flight": 8, "accuracy.ensemble": 6}
    document, _ = play(flags)
    assert document["accuracy"]["ensemble"] == 6
    low, high = document["accuracy"]["intervals"]["ttft_s"]["p50"]
    # In an open loop a slow member would queue without end; here nobody waits for more than seven others.
    assert high < 4 * document["latency"]["ttft_s"]["p50"]
    assert 0 < low < document["latency"]["ttft_s"]["p50"]


@pytest.mark.parametrize(
    "more",
    [
        {"engine.kind": "sglang"},
        {"parallel.replicas": 2, "routing.policy": "prefix-aware"},
        {"model": "gpt-oss-20b"},
        {"sampling.n": 2},
        {"tiers": {"host": {"memory": "32GiB"}}},
    ],
)
def test_every_kind_of_deployment_keeps_the_limit(more: dict[str, Any]) -> None:
    document, rows = play({**REAL, **FIXED, "workload.max_in_flight": 5, "accuracy.ensemble": 0, **more})
    assert busiest(rows) == 5
    assert document["totals"]["finished"] == 60


def test_separate_prefill_and_decode_keep_the_limit() -> None:
    split = {"disaggregation": {"prefill": {"instances": 1}, "decode": {"instances": 2}}}
    _, rows = play({**REAL, **FIXED, "workload.max_in_flight": 5, "accuracy.ensemble": 0, **split})
    assert busiest(rows) == 5
    assert len(rows) == 60


def test_a_workload_of_single_requests_has_nobody_to_wait() -> None:
    with pytest.raises(UsageError, match="whose answer its sender waited for") as caught:
        play({**LINEAR, **POOL, **FIXED, "workload.turns": "answered"})
    assert caught.value.where == "workload.turns"
    assert "max_in_flight" in (caught.value.hint or "")


def test_the_offline_optimum_goes_with_a_limit_and_not_with_turns() -> None:
    belady = {**LINEAR, **POOL, **CHAT, "cache.eviction": "belady"}
    assert play({**belady, "workload.max_in_flight": 3})[0]["totals"]["finished"] == 200
    with pytest.raises(UsageError, match="an order of their own"):
        play({**belady, "workload.turns": "answered"})


def test_so_many_users_one_session_after_the_other() -> None:
    users = {**LINEAR, **POOL, "workload.synthesize": "chat", "workload.requests": 200,
             "workload.turns": "answered", "workload.max_sessions": 10}  # fmt: skip
    document, rows = play(users)
    assert metrics(document)["max_sessions"] == 10
    assert 0.0 < metrics(document)["full"] < 1.0
    assert len(rows) == 200
    # Nothing else says when they begin: over the mean think time.
    begun = sorted(row.arrival_s for row in rows)
    assert begun[0] == 0.0
    assert begun[9] > 1.0
    assert busiest(rows) <= 10
    more, _ = play({**users, "workload.max_sessions": 40})
    assert more["totals"]["makespan_s"] < document["totals"]["makespan_s"]
    with pytest.raises((SpecError, UsageError), match="'max_sessions' needs 'turns: answered'"):
        load_scenario(None, {**users, "workload.turns": "timed"})


def test_a_load_that_the_workload_cannot_make_is_refused() -> None:
    users = {**LINEAR, **POOL, "workload.synthesize": "chat", "workload.requests": 50,
             "workload.turns": "answered", "workload.max_sessions": 100}  # fmt: skip
    with pytest.raises(UsageError, match="100 sessions at a time, and the workload has"):
        play(users)
    with pytest.raises(UsageError, match="100 requests in flight, and the workload has 60"):
        play({**LINEAR, **POOL, **FIXED, "workload.max_in_flight": 100})
    # Requests with times of their own may stay below a limit.
    assert play({**LINEAR, **POOL, **FIXED, "workload.rate": 5.0, "workload.max_in_flight": 100})


def test_requests_in_flight_do_not_say_how_many_users_there_are() -> None:
    with pytest.raises(UsageError, match="chat has sessions") as caught:
        play({**LINEAR, **POOL, **CHAT, "workload.rate": None, "workload.max_in_flight": 30})
    assert "max_sessions" in str(caught.value.hint)
    document, rows = play({**LINEAR, **POOL, **CHAT, "workload.max_in_flight": 3})
    assert metrics(document)["held_back"] > 0
    assert busiest(rows) == 3


@pytest.mark.parametrize(
    ("name", "value"), [("rate_scale", 2.0), ("arrivals", "constant"), ("burstiness", 0.5)]
)
def test_nothing_arrives_by_a_process_without_a_rate(name: str, value: object) -> None:
    more = {"workload.arrivals": "gamma"} if name == "burstiness" else {}
    with pytest.raises(UsageError, match="changes nothing"):
        play({**LINEAR, **POOL, **FIXED, "workload.max_in_flight": 3, **more, f"workload.{name}": value})


def test_burstiness_is_the_shape_of_a_process_that_has_one() -> None:
    with pytest.raises((SpecError, UsageError), match="arrivals: gamma"):
        load_scenario(None, {**LINEAR, **POOL, **FIXED, "workload.rate": 5.0, "workload.burstiness": 0.5})


def test_an_audit_of_the_first_requests_needs_no_turn_among_them() -> None:
    flags = {**LINEAR, **POOL, **CHAT, "workload.turns": "answered"}
    assert audit_result(play(flags)[0], 1).passed
    users = {**flags, "workload.rate": None, "workload.max_sessions": 10}
    assert audit_result(play(users)[0], 5).passed


def test_a_limit_of_requests_takes_whole_sessions_where_turns_wait(tmp_path: Path) -> None:
    call = {"type": "n", "in": 64, "out": 5, "hash_ids": [1], "api_time": 1.0}
    sessions = [
        {"id": f"s{n}", "block_size": 64, "hash_id_scope": "local",
         "requests": [{**call, "t": 3.0 * turn, "think_time": 2.0} for turn in range(5)]}
        for n in range(4)
    ]  # fmt: skip
    trace = tmp_path / "weka.jsonl"
    trace.write_text("\n".join(map(json.dumps, sessions)))
    flags = {**LINEAR, **POOL, "workload.trace": str(trace), "workload.limit": 10}
    answered, _ = play({**flags, "workload.turns": "answered"})
    assert (metrics(answered)["sessions"], metrics(answered)["turns"]) == (2, 8)


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True])
def test_a_limit_is_a_whole_number_from_one(value: object) -> None:
    with pytest.raises((SpecError, UsageError), match="max_in_flight"):
        load_scenario(None, {**LINEAR, **POOL, **FIXED, "workload.max_in_flight": value})


def test_the_option_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "r.json"
    line = ["simulate", "--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--synthesize", "fixed", "-n", "20",
            "--max-in-flight", "4", "--set", "accuracy.ensemble=0", "-o", str(target)]  # fmt: skip
    assert command(line) == 0
    printed = capsys.readouterr().out
    assert "Max in flight" in printed
    assert "In flight mean" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert json.loads(target.read_text())["scenario"]["workload"]["max_in_flight"] == 4


def test_arrivals_never_step_back() -> None:
    """Found by an attack: after refusals a sum of times came out a last bit before the arrival before it."""
    flags = {
        **LINEAR, "cache.blocks": 800, "engine.max_model_len": 16384, "engine.max_num_seqs": 16,
        "engine.max_num_batched_tokens": 2048, "workload.synthesize": "agentic", "workload.requests": 120,
        "workload.rate": 50.0, "seed": 301, "workload.turns": "answered", "workload.max_sessions": 1,
        "parallel.replicas": 3, "model": "gpt-oss-20b", "gpu": "h100-sxm",
    }  # fmt: skip
    document, _ = play(flags)
    assert document["totals"]["rejected"] > 100
    assert document["series"]["t_s"] == sorted(document["series"]["t_s"])
