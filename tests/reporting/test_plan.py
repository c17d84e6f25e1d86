"""A plan in words, rows and as a page: the answer first, whole without scripts, safe with hostile text."""

from __future__ import annotations

import copy
import csv
import io
import json
from typing import Any

import pytest

from kvplan.errors import DataError
from kvplan.reporting.cost import amount_text, money
from kvplan.reporting.loading import parse_report, parse_result
from kvplan.reporting.plan import (
    commands,
    deployment_text,
    plan_csv,
    plan_markdown,
    plan_remarks,
    plan_table,
    plan_verdict,
    ranked,
)
from kvplan.reporting.plan_page import _chart, render_plan
from kvplan.reporting.scales import ticks
from kvplan.reporting.schema.plan import Plan

OBJECTIVE = {
    "name": "ttft_p99_s", "limit_s": 0.5, "value_s": 0.2, "passed": True, "interval_s": [0.1, 0.6],
    "band": [-0.3, 0.3],
}  # fmt: skip
FIGURES: dict[str, Any] = {
    "finished": 3000, "rejected": 0, "timed_out": 0, "unfinished": 0, "hit_ratio": 0.5, "ttft_p50_s": 0.05,
    "ttft_p99_s": 0.2, "tpot_p50_s": 0.01, "tpot_p99_s": 0.012, "output_tokens_per_s": 800.0,
    "preemptions": 0, "evicted_blocks": 9, "moved_bytes": 0, "peak_used_blocks": 100,
    "peak_used_bytes": 1 << 30, "makespan_s": 60.0, "slo_met": True, "cost_per_hour": 10.0,
    "cost_per_million_output_tokens": 1.25, "objectives": [OBJECTIVE],
}  # fmt: skip
FAILURE = {
    "code": "error",
    "message": "it does not fit",
    "where": "gpu",
    "hint": "a larger one",
    "exit_code": 3,
}


def candidate(number: int, status: str, gpu: str = "h100-sxm", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "candidate": number, "values": {"gpu": gpu, "parallel.tp": 2}, "status": status,
        "pools": [{"field": "parallel.replicas", "gpu": gpu, "gpus": 2}], "sizes": [3], "gpus": 6, "missed": [2],
        "figures": dict(FIGURES), "error": None,
    }  # fmt: skip
    if status not in ("meets", "misses"):
        found |= {"sizes": None, "gpus": None, "missed": None, "figures": None}
    if status == "does not fit":
        found["error"] = FAILURE
    return found | more


def document(**more: Any) -> dict[str, Any]:
    missed = {**FIGURES, "slo_met": False, "objectives": [{**OBJECTIVE, "value_s": 2.0, "passed": False}]}
    return {
        "schema": "kvplan.plan/1",
        "complete": True,
        "axes": [{"key": "gpu", "values": ["h100-sxm", "l40s"]}, {"key": "parallel.tp", "values": [2]}],
        "scenario": {
            "model": "llama-3.1-8b", "gpu": "h100-sxm", "workload": {"synthesize": "chat", "rate": 4.0},
            "slo": {"ttft_p99_s": 0.5}, "price": {"gpu_hour": {"h100-sxm": 2.5, "l40s": 1.0}, "currency": "EUR"},
        },
        "most_gpus": 8,
        "requests": 3000,
        "settled": True,
        "best": 2,
        "range": {"faster": 0.8, "slower": 1.2, "low": [2], "high": [4]},
        "serve": ["vllm serve m --tensor-parallel-size 2"],
        "candidates": [
            candidate(1, "meets", figures={**FIGURES, "cost_per_hour": 15.0}),
            candidate(2, "meets", "l40s"),
            candidate(3, "misses", "l40s", sizes=[4], gpus=8, missed=None, figures=missed),
            candidate(4, "does not fit"),
        ],
        "provenance": {"command": "kvplan plan", "seed": 0, "inputs": [], "versions": {"kvplan": "0.1.0"}},
        **more,
    }  # fmt: skip


def parsed(**more: Any) -> Plan:
    found = parse_report(document(**more))
    assert isinstance(found, Plan)
    return found


def test_the_headline_says_what_to_rent() -> None:
    said = plan_verdict(parsed())
    assert said.headline == (
        "llama-3.1-8b meets every objective on 6 x l40s (3 replicas, tp 2) for 10.00 EUR an hour."
    )
    assert said.tone == "met"
    whole = " ".join(said.detail)
    assert "The cheapest of 2 that do among 4 candidates (gpu and tp) up to 8 GPUs." in whole
    assert "too close to call" in whole
    assert "It takes 2 replicas at the fast end of the clock's band and 4 replicas at its slow end." in whole


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"low": [3], "high": [3]}, "The same number of replicas"),
        ({"low": [1], "high": None}, "It takes 1 replica at the fast end"),
        ({"low": [1], "high": None}, "more than the 8 GPUs allowed at its slow end"),
    ],
)
def test_the_range_in_words(found: dict[str, Any], said: str) -> None:
    plan = parsed(range={"faster": 0.8, "slower": 1.2, **found})
    assert said in " ".join(plan_verdict(plan).detail)


def test_rows_are_ranked_and_say_what_is_missing() -> None:
    plan = parsed()
    assert [item.candidate for item in ranked(plan)] == [2, 1, 3, 4]
    table = plan_table(plan)
    assert "EUR/h" in table.columns
    assert table.rows[0][:4] == ("2", "l40s", "2", "3")
    assert table.rows[2][3:7] == ("> 4", "> 8", "–", "–")
    assert table.rows[3][3:] == ("–",) * 6
    notes = plan_remarks(plan)
    assert any(
        note.startswith("3: misses with 8 GPUs of at most 8: TTFT p99 2.00 s of 500 ms") for note in notes
    )
    assert any(note.startswith("4: gpu: it does not fit (a larger one)") for note in notes)


def test_of_equally_dear_ones_the_one_with_most_headroom_is_best() -> None:
    near = {**OBJECTIVE, "name": "tpot_p99_s", "limit_s": 0.02, "value_s": 0.019}
    first = candidate(1, "meets", figures={**FIGURES, "ttft_p99_s": 0.1, "objectives": [OBJECTIVE, near]})
    second = candidate(2, "meets", figures={**FIGURES, "ttft_p99_s": 0.3})
    plan = parsed(candidates=[first, second], best=2)
    assert [item.candidate for item in ranked(plan)] == [2, 1]
    with pytest.raises(DataError, match="2 is cheaper"):
        parsed(candidates=[first, second], best=1)


def test_doubts_are_said() -> None:
    plan = parsed(settled=False, complete=False)
    said = plan_verdict(plan)
    assert said.tone == "partial"
    assert "on at least 6 x l40s" in said.headline
    notes = " ".join(plan_remarks(plan))
    assert "stopped early" in notes
    assert "a larger --longest would tell" in notes
    short = copy.deepcopy(document())
    short["candidates"][1]["figures"]["finished"] = 200
    assert "rest on the slowest 2 requests" in " ".join(plan_remarks(Plan.model_validate(short)))


def test_an_order_that_vllm_does_not_evict_in_has_no_command_and_the_plan_says_why() -> None:
    scenario = {**document()["scenario"], "cache": {"eviction": "lfu"}}
    found = parsed(scenario=scenario, serve=[None])
    assert any("in no other order: no command for lfu" in note for note in plan_remarks(found))
    assert not any(why.startswith("Start") for why, _ in commands(found))
    assert "no other order" not in " ".join(plan_remarks(parsed()))
    scenario = {**scenario, "engine": {"kind": "sglang"}, "cache": {"eviction": "fifo"}}
    notes = " ".join(plan_remarks(parsed(scenario=scenario, serve=[None])))
    assert "SGLang's command line, in this version, knows nothing: no command for fifo" in notes


def test_nothing_that_meets_is_said_first() -> None:
    misses = [candidate(1, "misses", missed=None), candidate(2, "does not fit")]
    plan = parsed(candidates=misses, best=None, range=None, settled=None, serve=[])
    said = plan_verdict(plan)
    assert said.headline.startswith("llama-3.1-8b: none of 2 candidates")
    assert said.tone == "missed"
    assert commands(plan) == []
    assert "1: misses with 6 GPUs of at most 8" in plan_remarks(plan)
    assert render_plan(plan).count("<h1") == 1


def test_commands_start_and_simulate_the_best() -> None:
    (_, serve), (_, simulate) = commands(parsed())
    assert serve == "vllm serve m --tensor-parallel-size 2"
    assert "--gpu l40s --tp 2" in simulate
    assert "--set parallel.replicas=3" in simulate
    assert "--limit 3000" in simulate
    assert "--price h100-sxm=2.5,l40s=1" in simulate


def pooled() -> Plan:
    """A plan of replicas and of two pools, of which the pools are the cheaper."""
    pools = [
        {"field": "disaggregation.prefill.instances", "gpu": "h100-sxm", "gpus": 2},
        {"field": "disaggregation.decode.instances", "gpu": "l40s", "gpus": 1},
    ]
    best = candidate(2, "meets", pools=pools, sizes=[1, 4], gpus=6, missed=[1, 3])
    dearer = candidate(1, "meets", figures={**FIGURES, "cost_per_hour": 15.0})
    for item, part in ((best, {"link": "ib-ndr"}), (dearer, None)):
        item["values"] = {"disaggregation": part}
    return parsed(
        axes=[{"key": "disaggregation", "values": [None, {"link": "ib-ndr"}]}], candidates=[dearer, best],
        range={"faster": 0.8, "slower": 1.2, "low": [1, 3], "high": [2, 5]},
        serve=["vllm serve p", "vllm serve d"],
    )  # fmt: skip


def test_pools_are_called_by_their_names() -> None:
    plan = pooled()
    said = plan_verdict(plan)
    assert "2 x h100-sxm and 4 x l40s (1 prefill instance, 4 decode instances" in said.headline
    assert "1 prefill instance and 3 decode instances at the fast end" in " ".join(said.detail)
    assert deployment_text(plan.candidates[0]) == "6 x h100-sxm (3 replicas)", "what is left out is not named"
    table = plan_table(plan)
    assert table.columns[2:6] == ("Replicas", "Prefill", "Decode", "GPUs")
    assert [row[2:6] for row in table.rows] == [("–", "1", "4", "6"), ("3", "–", "–", "6")]
    starts = dict(commands(plan))
    assert (starts["Start each prefill instance"], starts["Start each decode instance"]) == (
        "vllm serve p", "vllm serve d",
    )  # fmt: skip
    simulate = starts["Simulate all of it, with a report"]
    assert "--set disaggregation.decode.instances=4" in simulate
    assert "router" not in simulate, "what is usual is not repeated"
    rows = list(csv.DictReader(io.StringIO(plan_csv(plan))))
    assert [row["replicas"] for row in rows] == ["3", ""]
    assert [(row["gpus_per_decode_instance"], row["decode_instances"]) for row in rows] == [
        ("", ""),
        ("1", "4"),
    ]
    assert "1 prefill instance of 2 GPUs and 4 decode instances of 1 GPU" in render_plan(plan)


def test_csv_has_raw_numbers_and_no_formulas() -> None:
    plan = parsed()
    rows = list(csv.DictReader(io.StringIO(plan_csv(plan))))
    assert [row["candidate"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[1]["best"] == "true"
    hostile = copy.deepcopy(document())
    hostile["candidates"][0]["values"]["gpu"] = "=cmd()"
    assert "'=cmd()" in plan_csv(Plan.model_validate(hostile))


def test_hostile_text_stays_text() -> None:
    hostile = copy.deepcopy(document())
    evil = "</script><script>alert(1)</script>\x1b[31m"
    hostile["scenario"]["model"] = evil
    hostile["candidates"][1]["values"]["gpu"] = evil
    hostile["candidates"][3]["error"] = {**FAILURE, "message": evil}
    hostile["serve"] = [evil]
    hostile["scenario"]["price"]["currency"] = evil
    hostile["provenance"]["command"] = evil
    plan = Plan.model_validate(hostile)
    page = render_plan(plan)
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "<script>" not in plan_markdown(plan).replace(f"```sh\n{commands(plan)[0][1]}\n```", "")
    assert "\x1b" not in plan_markdown(plan)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"best": 3}, "meets nothing"),
        ({"best": 9}, "meets nothing"),
        ({"best": 1}, "2 is cheaper"),
        ({"best": None}, "2 is cheaper"),
        ({"candidates": []}, "at least 1"),
        ({"candidates": [candidate(1, "not run", error=FAILURE)], "best": None}, "contradicts its error"),
        ({"candidates": [candidate(1, "failed")], "best": None}, "contradicts its error"),
        ({"candidates": [candidate(1, "meets", figures=None)], "best": 1}, "contradicts its figures"),
        ({"candidates": [candidate(1, "meets", gpus=5)], "best": 1}, "do not have 5"),
        ({"candidates": [candidate(2, "meets")], "best": 1}, "is numbered 2"),
        ({"axes": [{"key": "gpu", "values": ["a"]}]}, "not those of the axes"),
        ({"most_gpus": 0}, "greater than"),
        ({"most_gpus": 10**400}, "less than"),
        ({"surprise": 1}, "unknown key"),
        ({"candidates": [candidate(1, "meets", sizes=[3, 1])], "best": 1}, "not those of the pools"),
        ({"serve": []}, "0 commands for 1 pools"),
        ({"range": {"faster": 0.8, "slower": 1.2, "low": [1, 1], "high": None}}, "range is not one of"),
    ],
)
def test_documents_that_contradict_themselves_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_report(document(**change))


def test_a_plan_is_no_result() -> None:
    with pytest.raises(DataError) as caught:
        parse_result(document())
    assert "kvplan report shows it" in str(caught.value.hint)


def test_what_is_read_is_what_is_written() -> None:
    plan = parsed()
    assert parse_report(json.loads(json.dumps(plan.document()))) == plan


@pytest.mark.parametrize("limit", [10**400, 1e308, -5, True, "x", [1]])
def test_limits_of_a_scenario_from_elsewhere_break_no_page(limit: object) -> None:
    hostile = document()
    hostile["scenario"]["slo"]["ttft_p99_s"] = limit
    assert "limit 500 ms" in render_plan(Plan.model_validate(hostile))


def test_what_ended_the_search_of_a_candidate_with_figures_is_said() -> None:
    found = parsed(candidates=[
        candidate(1, "meets", error=FAILURE), candidate(2, "misses", missed=None, error=FAILURE),
    ], best=1)  # fmt: skip
    notes = plan_remarks(found)
    assert "1: fewer replicas could not be simulated: gpu: it does not fit (a larger one)" in notes
    assert "2: more replicas could not be simulated: gpu: it does not fit (a larger one)" in notes


def test_what_fits_nowhere_or_fails_misses_no_objective() -> None:
    nothing: dict[str, Any] = {"best": None, "range": None, "settled": None, "serve": []}
    fits = parsed(candidates=[candidate(1, "does not fit")], **nothing)
    assert plan_verdict(fits).headline == (
        "llama-3.1-8b fits on none of 1 candidate (gpu and tp) up to 8 GPUs."
    )
    fails = parsed(candidates=[candidate(1, "failed", error=FAILURE)], **nothing)
    assert (
        plan_verdict(fails).headline == "llama-3.1-8b: none of 1 candidate (gpu and tp) could be simulated."
    )


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "0"), (0.5, "0.50"), (0.402, "0.402"), (0.0421, "0.0421"), (2.5, "2.50"), (1234.5, "1,234.50"),
     (1e6, "1,000,000"), (1e30, "1.00e+30"), (1e-300, "1.00e-300"), (0.999, "0.999"), (0.9999, "1.00")],
)  # fmt: skip
def test_amounts_of_money(amount: float, text: str) -> None:
    assert amount_text(amount) == text
    assert money(amount, "USD") == f"{text} USD"


def simulated(engine: dict[str, Any], values: dict[str, Any], **scenario: Any) -> str:
    """The command that simulates a best candidate of these values."""
    found = document(best=1)
    found["scenario"] |= {"engine": engine, **scenario}
    found["axes"] = [{"key": key, "values": [value]} for key, value in values.items()]
    found["candidates"] = [candidate(1, "meets", values=values)]
    return dict(commands(Plan.model_validate(found)))["Simulate all of it, with a report"]


def test_the_command_is_of_the_engine_that_was_planned() -> None:
    assert "--engine sglang" in simulated({"kind": "sglang"}, {"gpu": "l40s"})
    assert "--engine" not in simulated({"kind": "vllm"}, {"gpu": "l40s"})
    assert "--engine sglang" in simulated({"kind": "vllm"}, {"engine.kind": "sglang"})


@pytest.mark.parametrize("value", [None, {"disk": {"memory": 5}}])
def test_the_command_has_nothing_of_the_first_candidate_that_is_varied(value: object) -> None:
    """The plan's scenario is the first candidate's; a varied part of it is another in the best."""
    said = simulated({"kind": "vllm"}, {"tiers": value}, tiers={"host": {"memory": 1 << 34}})
    assert "host" not in said
    assert ("disk" in said) == (value is not None)


def warned(**more: Any) -> Plan:
    whole = document(**more)
    for item, texts in zip(whole["candidates"], (["slow"], ["short", "slow"], ["slow"], []), strict=True):
        item["warnings"] = texts
    found = parse_report(whole)
    assert isinstance(found, Plan)
    return found


def test_warnings_of_the_runs_are_said_once_and_whose_they_are() -> None:
    said = plan_remarks(warned())
    assert said.count("slow") == 1  # of every candidate that was simulated
    assert "candidate 2: short" in said
    assert "- slow" in plan_markdown(warned()).splitlines()
    page = render_plan(warned())
    assert "<li>slow</li>" in page
    assert "<li>candidate 2: short</li>" in page


def test_the_page_says_what_the_answer_assumes() -> None:
    assumption = {"name": "cache.blocks", "value": 28_670, "source": "what the bill leaves <b>"}
    page = render_plan(parsed(assumptions=[assumption]))
    assert "28,670" in page
    assert "what the bill leaves &lt;b&gt;" in page
    assert "assumes" not in render_plan(parsed())


def test_who_turns_requests_away_is_not_said_to_need_more_replicas() -> None:
    whole = document()
    whole["candidates"][2]["figures"]["rejected"] = 44
    plan = parse_report(whole)
    assert isinstance(plan, Plan)
    assert "3: misses with any number of replicas: " in "\n".join(plan_remarks(plan))
    row = next(row for row in plan_table(plan).rows if row[0] == "3")
    assert not any(cell.startswith(">") for cell in row)


def test_there_are_no_half_gpus() -> None:
    whole = document(best=1)
    whole["scenario"].pop("price")
    for item in whole["candidates"]:
        if item["figures"]:
            item["figures"]["cost_per_hour"] = None
    whole["candidates"][1] |= {"sizes": [1], "gpus": 2, "missed": None}
    whole["best"] = 2
    plan = parse_report(whole)
    assert isinstance(plan, Plan)
    figure = _chart(plan, "ttft_p99_s")
    assert figure is not None
    assert all(value == round(value) for value, _ in ticks(figure.x))
    assert "1 replica of 2 GPUs" in render_plan(plan)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"link": "ib-ndr", "prefill": {"router": "round-robin", "kv_role": "kv_both"}}, ["'disaggregation={}'"]),
        ({"link": "ib-hdr", "streaming": "whole"}, ["disaggregation.link=ib-hdr"]),
        ({"lanes": 4, "decode": {"tp": 2}}, ["disaggregation.lanes=4", "disaggregation.decode.tp=2"]),
    ],
)  # fmt: skip
def test_of_a_disaggregation_only_what_is_unusual_is_said(part: dict[str, Any], said: list[str]) -> None:
    line = simulated({"kind": "vllm"}, {"gpu": "l40s"}, disaggregation=part)
    assert [f"--set {item}" in line for item in said] == [True] * len(said)
    assert line.count("disaggregation") == len(said)
