"""A plan: the fewest replicas of every candidate, and the cheapest that meets every objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import Interrupted, KvplanError, UsageError
from kvplan.reporting.schema.plan import Plan as Document
from kvplan.scenario import outcomes
from kvplan.scenario.axes import parse_axis
from kvplan.scenario.bracket import meets
from kvplan.scenario.candidate import Candidate
from kvplan.scenario.outcomes import simulate_point
from kvplan.scenario.plan import Plan
from kvplan.scenario.schema import Scenario
from kvplan.scenario.sweep import Sweep

CLOCK = "latency={model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-6}"
SHORT = {
    "workload.synthesize": "fixed",
    "workload.prompt_tokens": 200,
    "workload.output_tokens": 20,
    "workload.rate": 200,
}
FLAGS = {
    "cache.blocks": 2000,
    "workload.synthesize": "chat",
    "workload.rate": 60,
    "engine.max_model_len": "16k",
}
OBJECTIVES = ("slo.ttft_p99_s=0.6", "slo.tpot_p99_s=0.05")
SCENARIO = Scenario.model_validate({"model": "m", "gpu": "g", "workload": {"synthesize": "chat"}})


def figures(met: bool) -> dict[str, Any]:
    lost = dict.fromkeys(("rejected", "timed_out", "unfinished"), 0)
    return {"figures": {"slo_met": met, **lost}, "error": None}


def planned(
    *axes: str,
    objectives: Sequence[str] = OBJECTIVES,
    count: int = 60,
    flags: Mapping[str, Any] | None = None,
    **options: Any,
) -> Plan:
    given = {**FLAGS, **(flags or {})}
    kinds = Sweep(
        None, list(map(parse_axis, axes)), flags=given, assignments=[CLOCK, *objectives], count=count
    )
    return Plan(kinds, **{"longest": count, **options})


@given(need=st.integers(1, 600), most=st.integers(1, 512), start=st.integers(1, 512))
def test_the_fewest_that_meet_are_found(need: int, most: int, start: int) -> None:
    candidate = Candidate(SCENARIO, 1, most, start)
    while (number := candidate.next()) is not None:
        assert 1 <= number <= most
        assert number not in candidate.tried
        candidate.tried[number] = figures(number >= need)
    if need <= most:
        assert candidate.passed == need
        assert candidate.missed == (need - 1 or None)
    else:
        assert candidate.passed is None
        assert candidate.missed == most
    assert len(candidate.tried) <= 2 * most.bit_length() + 2


@given(need=st.integers(1, 64), before=st.integers(1, 64))
def test_what_met_before_is_tried_first_and_then_one_less(need: int, before: int) -> None:
    first = Candidate(SCENARIO, 1, 64)
    first.tried[before] = figures(met=True)
    candidate = first.again()
    assert candidate.next() == before
    candidate.tried[before] = figures(before >= need)
    if before >= need and before > 1:
        assert candidate.next() == before - 1


def test_what_cannot_run_is_not_tried_again() -> None:
    candidate = Candidate(SCENARIO, 2, 8)
    candidate.tried[1] = outcomes.failure(KvplanError("broken"))
    assert candidate.next() is None
    assert candidate.error is not None
    assert candidate.passed is None is candidate.figures


def test_the_answer_is_what_trying_all_numbers_gives() -> None:
    plan = planned(
        "cache.blocks=40,200",
        "engine.max_num_seqs=8,64",
        most_gpus=12,
        flags={**SHORT, "engine.max_model_len": 256},
    )
    plan.execute()
    assert plan.complete
    for candidate in plan.candidates:
        document = candidate.scenario.to_dict()
        for replicas in range(1, 13):
            document["parallel"]["replicas"] = replicas
            if meets(simulate_point(document)):
                assert candidate.passed == replicas
                break
        else:
            assert candidate.passed is None
    needed = {item.passed for item in plan.candidates}
    assert len(needed) > 1, "the candidates differ, or this shows nothing"
    assert plan.best is not None
    assert plan.candidates[plan.best].passed == min(number for number in needed if number)


def test_processes_change_nothing() -> None:
    plans = [planned("cache.blocks=1100,2000", most_gpus=12) for _ in range(2)]
    for plan, jobs in zip(plans, (1, 2), strict=True):
        plan.execute(jobs)
    one, two = (plan.document([]) for plan in plans)
    assert {**one, "provenance": None} == {**two, "provenance": None}


def test_money_decides_where_there_are_prices() -> None:
    axes = ("gpu=h100-sxm,l40s", "parallel.tp=1,2")
    prices = ("price.gpu_hour=h100-sxm=10,l40s=0.5",)
    model = "model=llama-3.1-8b"
    cheap = planned(*axes, objectives=(*OBJECTIVES, model, *prices), flags=SHORT)
    few = planned(*axes, objectives=(*OBJECTIVES, model), flags=SHORT)
    for plan in (cheap, few):
        plan.execute()
    documents = [Document.model_validate(plan.document(["kvplan", "plan"])) for plan in (cheap, few)]
    assert documents[0].answer is not None is not documents[1].answer
    assert documents[0].answer.values["gpu"] == "l40s"
    assert (documents[0].currency, documents[1].currency) == ("USD", None)
    costs = [item.figures.cost_per_hour for item in documents[0].candidates if item.figures]
    assert documents[0].answer.figures is not None
    assert documents[0].answer.figures.cost_per_hour == min(cost for cost in costs if cost is not None)


def test_the_document_is_valid_whatever_happened() -> None:
    nothing = planned("cache.blocks=1100,2000", objectives=("slo.tpot_p99_s=1e-6",), most_gpus=2)
    nothing.execute()
    found = Document.model_validate(nothing.document([]))
    assert found.best is None
    assert [item.status for item in found.candidates] == ["misses", "misses"]
    assert [item.replicas for item in found.candidates] == [2, 2]
    untried = Document.model_validate(planned("cache.blocks=1100,2000").document([]))
    assert not untried.complete
    assert {item.status for item in untried.candidates} == {"not run"}


def test_a_replica_of_too_many_gpus_is_left_out_with_its_reason() -> None:
    plan = planned("parallel.tp=1,8", most_gpus=4)
    plan.execute()
    found = Document.model_validate(plan.document([]))
    assert [item.status for item in found.candidates][1] == "does not fit"
    assert "8 GPUs, more than the 4" in str(found.candidates[1].error)


def test_a_candidate_that_is_wrong_does_not_end_the_others() -> None:
    plan = planned("engine.max_num_seqs=64,-1", most_gpus=8)
    plan.execute()
    found = Document.model_validate(plan.document([]))
    assert [item.status for item in found.candidates] == ["meets", "failed"]
    assert found.best == 1


def test_a_short_workload_is_lengthened_until_the_answer_stays() -> None:
    short = planned("cache.blocks=200", count=20, longest=20, flags=SHORT)
    long = planned("cache.blocks=200", count=20, longest=5000, flags=SHORT)
    for plan in (short, long):
        plan.execute()
    assert (short.requests, short.settled) == (20, False)
    assert long.requests is not None
    assert long.requests > 20
    assert long.settled
    assert (long.candidates[0].passed or 0) >= (short.candidates[0].passed or 0)


def test_the_clock_s_band_moves_the_answer_both_ways() -> None:
    flags = ("model=llama-3.1-8b", "gpu=l40s", "latency={model: roofline}")
    plan = planned("parallel.tp=1", objectives=(*OBJECTIVES, *flags), count=500, longest=5000, flags=SHORT)
    plan.execute()
    found = Document.model_validate(plan.document([]))
    assert found.answer is not None
    assert found.range is not None
    low, high = found.range.low, found.range.high
    assert low is not None is not high
    assert low <= (found.answer.replicas or 0) <= high
    assert low < high
    assert found.range.faster < 1 < found.range.slower


def test_an_interrupted_plan_keeps_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate, seen = outcomes.simulate_point, []

    def interrupted(document: dict[str, Any], slower: float) -> dict[str, Any]:
        seen.append(document)
        if len(seen) > 3:
            raise KeyboardInterrupt
        return simulate(document, slower)

    monkeypatch.setattr(outcomes, "simulate_point", interrupted)
    plan = planned("cache.blocks=1100,2000", most_gpus=12)
    with pytest.raises(Interrupted):
        plan.execute()
    found = Document.model_validate(plan.document([]))
    assert not found.complete
    assert all(item.status != "not run" for item in found.candidates)


@pytest.mark.parametrize(
    ("axes", "objectives", "reason"),
    [
        (["cache.blocks=2000"], (), "nothing says what is good enough"),
        (["parallel.replicas=1,2"], OBJECTIVES, "seeks the number of replicas itself"),
        (["parallel={replicas: 2}"], OBJECTIVES, "seeks the number of replicas itself"),
        (["cache.blocks=2000"], (*OBJECTIVES, "disaggregation={bytes_per_token: 100, layers: 2}"), "pools"),
    ],
)
def test_what_cannot_be_planned_is_refused(axes: list[str], objectives: Sequence[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        planned(*axes, objectives=objectives)


def test_all_candidates_wrong_in_their_own_way_is_an_error() -> None:
    with pytest.raises(KvplanError):
        planned("engine.max_num_seqs=-1,text")
