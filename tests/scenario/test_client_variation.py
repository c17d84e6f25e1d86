"""Clients that differ from request to request: off unless given or fitted, drawn by name, no engine's business."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvplan.engine.recorder import RequestRow
from kvplan.errors import SpecError, UnknownName
from kvplan.latency.client import ClientOverhead, client_overhead, drawn
from kvplan.scenario.audit import audit_result
from kvplan.scenario.engine_fit import fit_engine
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_client import client_spread
from kvplan.scenario.fit_document import fit_document
from kvplan.scenario.load import load_scenario
from kvplan.scenario.measured import Measured
from kvplan.scenario.run import Run

REAL: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm", "cache.prefix": "none", "workload.synthesize": "fixed",
    "workload.requests": 120, "workload.prompt_tokens": 512, "workload.output_tokens": 24,
}  # fmt: skip
OPEN = {**REAL, "workload.rate": 3.0}
CLOSED = {**REAL, "workload.max_in_flight": 8}
SPREAD = {"latency.client_spread": 0.5}
VARIED = {**SPREAD, "latency.client_token_s": 4e-6, "latency.api_server_s": 2e-3}


def play(flags: dict[str, Any], engine: str = "fast") -> tuple[dict[str, Any], list[RequestRow]]:
    rows: list[RequestRow] = []
    run = Run(load_scenario(None, {"accuracy.ensemble": 0, **flags}), engine=engine)
    run.execute(on_request=rows.append)
    return run.result(["kvplan", "simulate"]), rows


def test_in_an_open_loop_the_engine_knows_nothing_of_it() -> None:
    plain, rows = play(OPEN)
    varied, same = play({**OPEN, **SPREAD})
    assert rows == same
    assert varied["latency"]["tpot_s"] == plain["latency"]["tpot_s"]
    client = Run(load_scenario(None, {**OPEN, **SPREAD})).clock.client
    for name, moment in (("ttft_s", "first_token_s"), ("e2e_s", "finish_s")):
        seen = sorted(getattr(r, moment) - r.arrival_s + client.of(r.id) for r in rows)
        assert varied["latency"][name]["max"] == pytest.approx(seen[-1])
        assert varied["latency"][name]["mean"] == pytest.approx(math.fsum(seen) / len(seen))
    assert varied["latency"]["ttft_s"]["p99"] > plain["latency"]["ttft_s"]["p99"] + 5e-3
    printed = {item["name"]: item["value"] for item in varied["assumptions"]}
    assert printed["latency.client_spread"] == 0.5
    assert "latency.client_spread" not in {item["name"] for item in plain["assumptions"]}


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_front_end_takes_in_one_request_after_the_other(kind: str) -> None:
    flags = {**REAL, "engine.kind": kind, "workload.requests": 12, "workload.max_in_flight": 12}
    work = {"latency.api_server_s": 4e-3, "latency.client_token_s": 2e-6}
    plain, rows = play(flags)
    behind, later = play({**flags, **work})
    assert rows != later
    assert play({**flags, **work}, "reference")[1] == later
    assert {row.arrival_s for row in later} == {0.0}
    scheduled = sorted(row.scheduled_s for row in later)
    assert all(moment >= (n + 1) * (4e-3 + 512 * 2e-6) - 1e-12 for n, moment in enumerate(scheduled))
    assert behind["latency"]["ttft_s"]["max"] > plain["latency"]["ttft_s"]["max"] + 0.01
    printed = {item["name"]: item["value"] for item in behind["assumptions"]}
    assert (printed["latency.api_server_s"], printed["latency.client_token_s"]) == (4e-3, 2e-6)


def test_replicas_have_a_front_end_each() -> None:
    flags = {**OPEN, "parallel.replicas": 2, "latency.api_server_s": 0.4, "workload.rate": 4.0}
    one, two = (play({**flags, "parallel.replicas": n})[0]["latency"]["ttft_s"]["p50"] for n in (1, 2))
    assert one > 5 * two > 5 * 0.4


def test_who_tries_again_counts_from_when_it_was_sent_first() -> None:
    flags = {**OPEN, "latency.api_server_s": 0.3, "workload.timeout_s": 0.15, "workload.retries": 2}
    rows = play(flags)[1]
    sent = sorted(row.arrival_s for row in play(OPEN)[1])
    assert {row.arrival_s for row in rows} <= set(sent)


def test_draws_follow_from_the_seed_and_the_name() -> None:
    first, again = (play({**OPEN, **VARIED})[0]["latency"] for _ in range(2))
    assert first == again
    assert play({**OPEN, **VARIED, "seed": 1})[0]["latency"]["ttft_s"] != first["ttft_s"]
    normals = [drawn("0", str(index)) for index in range(4000)]
    assert abs(math.fsum(normals)) / 4000 < 0.05
    assert math.fsum(z * z for z in normals) / 4000 == pytest.approx(1.0, abs=0.06)
    client = ClientOverhead(0.01, spread=0.5)
    assert all(client.least_s <= client.of(str(index)) <= 0.01 * math.exp(1.5) for index in range(4000))


@pytest.mark.parametrize(
    "flags",
    [{}, {"engine.kind": "sglang"}, {"workload.timeout_s": 0.4}],
    ids=["vllm", "sglang", "time-outs"],
)
def test_in_a_closed_loop_both_engines_decide_alike(flags: dict[str, Any], tmp_path: Path) -> None:
    document, rows = play({**CLOSED, **VARIED, **flags})
    assert rows == play({**CLOSED, **VARIED, **flags}, "reference")[1]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    assert audit_result(document, sample=60).divergence is None


def test_replicas_are_never_behind_what_their_clients_send() -> None:
    _, rows = play({**CLOSED, **VARIED, "parallel.replicas": 3})
    client = Run(load_scenario(None, {**CLOSED, **VARIED})).clock.client
    ends = sorted(row.finish_s + client.of(row.id) for row in rows)
    sent = sorted(row.arrival_s for row in rows)[8:]
    # Who is sent as number k of those that wait was waited for by the end number k.
    assert sent == ends[: len(sent)]


def test_clients_that_differ_do_not_send_together_for_ever() -> None:
    _, together = play(CLOSED)
    document, apart = play({**CLOSED, "latency.client_spread": 0.5})
    assert len({row.arrival_s for row in together}) < 0.3 * len(together)
    assert len({row.arrival_s for row in apart}) > 0.9 * len(apart)
    reaction = {m["name"]: m["value"] for m in document["strategies"]["clients"]}["reaction"]
    assert reaction == pytest.approx(0.015 * math.exp(0.125), rel=0.1)  # their mean


def test_turns_wait_for_their_own_clients() -> None:
    chat = {**REAL, "workload.synthesize": "chat", "workload.turns": "answered", "workload.rate": 3.0}
    del chat["workload.prompt_tokens"], chat["workload.output_tokens"]
    _, rows = play({**chat, **VARIED})
    assert rows == play({**chat, **VARIED}, "reference")[1]
    assert rows != play(chat)[1]


def test_members_of_an_ensemble_draw_anew() -> None:
    client = ClientOverhead(0.015, 0.007, 0.035, given=False, spread=0.5)
    one, two = (client.member(0.5, number) for number in (0, 1))
    assert one.seconds == two.seconds == pytest.approx(0.0157, rel=0.01)
    assert one.of("7") != two.of("7")
    with_members, _ = play({**OPEN, **VARIED, "accuracy.ensemble": 4})
    low, high = with_members["accuracy"]["intervals"]["ttft_s"]["p99"]
    assert low < with_members["latency"]["ttft_s"]["p99"] < high


@pytest.mark.parametrize(
    ("name", "value"),
    [("client_spread", 2.1), ("client_spread", -0.1), ("client_token_s", 0.5), ("client_token_s", "x")],
)
def test_what_is_no_constant_of_a_client_is_refused(name: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"{name} must be"):
        client_overhead({name: value})


def logged(flags: dict[str, Any], sigma: float) -> EngineLog:
    """What clients with an overhead of their own, 20 ms in the median, would log."""
    _, rows = play(flags)
    rng, found = random.Random(3), []
    for row in rows:
        outside = 0.02 * rng.lognormvariate(0.0, sigma)
        found.append(
            Measured(row.arrival_s, row.prompt_tokens, row.output_tokens,
                     row.first_token_s - row.arrival_s + outside, row.finish_s - row.arrival_s + outside, 0)
        )  # fmt: skip
    return EngineLog("run.csv", "csv", tuple(sorted(found, key=lambda row: row.arrival_s)), ())


def test_a_spread_is_found_where_it_is_and_brings_the_99th_percentile_where_it_was_measured(
    tmp_path: Path,
) -> None:
    flags = {**OPEN, "workload.requests": 300}
    scenario, found, tails = load_scenario(None, flags), {}, {}
    for sigma in (0.0, 0.6):
        log = logged(flags, sigma)
        fit = fit_engine(scenario, log)
        found[sigma] = fit.variation.get("client_spread", 0.0)
        path = tmp_path / "fitted.json"
        path.write_text(json.dumps(fit_document(fit, scenario, log, [])))
        other = {**flags, "seed": 5, "latency.model": "fitted", "latency.name": str(path)}
        real = sorted(row.ttft_s for row in logged({**flags, "seed": 5}, sigma).rows)
        tails[sigma] = play(other)[0]["latency"]["ttft_s"]["p99"] / real[int(0.99 * len(real))]
        other["latency.client_spread"] = 0.0
        constant = play(other)[0]["latency"]["ttft_s"]["p99"] / real[int(0.99 * len(real))]
    assert found[0.0] <= 0.1
    assert found[0.6] == pytest.approx(0.6, abs=0.15)
    assert all(tail == pytest.approx(1.0, abs=0.15) for tail in tails.values())
    assert constant < 0.75


def test_a_spread_that_only_one_half_shows_is_none() -> None:
    row = Measured(0.0, 100, 10, 0.05, 0.5, 0)
    calm = [(replace(row, ttft_s=0.05 + 1e-4 * (i % 7)), row.later(0.02 + 1e-4 * (i % 7))) for i in range(80)]
    wild = [
        (ours, real.later(0.03 * (index % 4 == 2)) if index % 2 == 0 else real)
        for index, (ours, real) in enumerate(calm)
    ]
    assert client_spread(calm, ClientOverhead(0.02)) is None
    assert client_spread(wild, ClientOverhead(0.02)) is None


def test_what_the_engine_lacks_is_not_called_the_clients() -> None:
    """Prompts of many lengths, all simulated a quarter too fast."""
    row = Measured(0.0, 100, 10, 0.05, 9.0, 0)
    pairs = [
        (replace(row, ttft_s=0.75 * ttft), replace(row, ttft_s=ttft + 0.01))
        for ttft in (0.02 + 0.001 * (index * 37 % 200) for index in range(200))
    ]
    assert client_spread(pairs, ClientOverhead(0.01)) is None


def test_a_loop_is_fitted_with_clients_that_differ() -> None:
    """Else what keeps its requests apart is taken for an overhead several times too long."""
    flags = {**CLOSED, "workload.max_in_flight": 16, "workload.prompt_tokens": 1024, "workload.requests": 160}
    scenario = load_scenario(None, flags)
    run = Run(
        load_scenario(None, {**flags, "latency.client_spread": 0.5, "latency.client_overhead_s": 0.012})
    )
    rows: list[RequestRow] = []
    run.execute(on_request=rows.append)
    seen = [
        Measured(r.arrival_s, r.prompt_tokens, r.output_tokens, r.first_token_s - r.arrival_s + outside,
                 r.finish_s - r.arrival_s + outside, 0)
        for r in rows for outside in [run.clock.client.of(r.id)]
    ]  # fmt: skip
    log = EngineLog("run.csv", "csv", tuple(sorted(seen, key=lambda row: row.arrival_s)), (), 16)
    fit = fit_engine(scenario, log)
    assert 0.2 < fit.constants["client_spread"] <= 0.7
    assert fit.constants["client_overhead_s"] == pytest.approx(0.012, rel=0.4)
    assert abs(fit.after["ttft"]["p50"]) < 0.2
    assert abs(fit.after["tpot"]["mean"]) < 0.1


def test_a_misspelt_constant_is_told_those_that_a_client_has() -> None:
    with pytest.raises(UnknownName) as caught:
        client_overhead({"client_overhead": 0.02})
    assert "client_overhead_s" in str(caught.value.hint)
