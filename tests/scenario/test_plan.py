"""A plan: the fewest replicas of every candidate, and the cheapest that meets every objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import AnswerIsNo, Interrupted, KvplanError, UsageError
from kvplan.reporting.schema.plan import Plan as Document
from kvplan.scenario import outcomes
from kvplan.scenario.axes import parse_axis
from kvplan.scenario.bracket import meets
from kvplan.scenario.candidate import Candidate
from kvplan.scenario.outcomes import simulate_point
from kvplan.scenario.plan import Plan
from kvplan.scenario.pools import pools_of
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
LOOSE = ("slo.ttft_p99_s=60",)
SCENARIO = Scenario.model_validate(
    {"model": "llama-3.1-8b", "gpu": "h100-sxm", "workload": {"synthesize": "chat"}}
)
POOLS = pools_of(SCENARIO)


def figures(met: bool) -> dict[str, Any]:
    lost = dict.fromkeys(("rejected", "timed_out", "unfinished"), 0)
    return {**outcomes.NOT_RUN, "figures": {"slo_met": met, **lost}}


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


@given(need=st.integers(1, 64), before=st.integers(1, 64))
def test_what_met_before_is_tried_first_and_then_one_less(need: int, before: int) -> None:
    first = Candidate(SCENARIO, POOLS, 64)
    first.tried[before,] = figures(met=True)
    candidate = first.again()
    assert candidate.next() == (before,)
    candidate.tried[before,] = figures(before >= need)
    if before >= need and before > 1:
        assert candidate.next() == (before - 1,)


def test_requests_that_are_too_long_are_so_for_any_number_of_replicas() -> None:
    candidate = Candidate(SCENARIO, POOLS, 8)
    found = figures(met=False)
    found["figures"]["rejected"] = 3
    candidate.tried[1,] = found
    assert candidate.next() is None
    assert candidate.shown == (1,)


def test_what_cannot_run_is_not_tried_again() -> None:
    candidate = Candidate(SCENARIO, POOLS, 8)
    candidate.tried[1,] = outcomes.failure(KvplanError("broken"))
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
                assert candidate.passed == (replicas,)
                break
        else:
            assert candidate.passed is None
    needed = {item.passed for item in plan.candidates}
    assert len(needed) > 1, "the candidates differ, or this shows nothing"
    assert plan.best is not None
    assert plan.candidates[plan.best].passed == min(sizes for sizes in needed if sizes)


def test_processes_change_nothing() -> None:
    plans = [planned("cache.blocks=1100,2000", most_gpus=12, flags=SHORT) for _ in range(2)]
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
    assert [item.sizes for item in found.candidates] == [[2], [2]]
    untried = Document.model_validate(planned("cache.blocks=1100,2000").document([]))
    assert not untried.complete
    assert {item.status for item in untried.candidates} == {"not run"}


def test_a_replica_of_too_many_gpus_is_left_out_with_its_reason() -> None:
    plan = planned("parallel.tp=1,8", most_gpus=4)
    plan.execute()
    found = Document.model_validate(plan.document([]))
    assert [item.status for item in found.candidates][1] == "does not fit"
    assert "8 GPUs, more than the 4" in str(found.candidates[1].error)


def test_an_engine_that_would_not_start_is_no_candidate() -> None:
    """As ``kvplan simulate`` says of it: its pool has no room for one request of the longest that it takes."""

    def tried(longest: int | str) -> Sequence[Candidate]:
        real = {"cache.blocks": None, "model": "llama-3.1-8b", "engine.max_model_len": longest}
        plan = planned("gpu=rtx-4090,h100-sxm", flags={**real, "workload.rate": 2}, objectives=LOOSE)
        plan.execute()
        return plan.candidates

    refused, fits = tried("128k")
    assert fits.passed is not None
    assert refused.passed is None
    assert refused.error is not None
    assert refused.error["exit_code"] == AnswerIsNo.exit_code
    assert "no room for one request of 131,072 tokens" in refused.error["message"]
    longest = int(refused.error["hint"].split("max_model_len=")[1].split(",")[0])
    assert tried(longest)[0].passed is not None


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
    assert (long.candidates[0].passed or (0,)) >= (short.candidates[0].passed or (0,))


def test_the_clock_s_band_moves_the_answer_both_ways() -> None:
    flags = ("model=llama-3.1-8b", "gpu=l40s", "latency={model: roofline}")
    plan = planned("parallel.tp=1", objectives=(*OBJECTIVES, *flags), count=500, longest=5000, flags=SHORT)
    plan.execute()
    found = Document.model_validate(plan.document([]))
    assert found.answer is not None
    assert found.range is not None
    low, high = found.range.low, found.range.high
    assert low is not None is not high
    assert low <= (found.answer.sizes or [0]) <= high
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
        (["disaggregation.decode.instances=1,2"], OBJECTIVES, "seeks the number of decode instances itself"),
        (["disaggregation=null,{prefill: {instances: 2}}"], OBJECTIVES, "the number of prefill instances"),
    ],
)
def test_what_cannot_be_planned_is_refused(axes: list[str], objectives: Sequence[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        planned(*axes, objectives=objectives)


def test_all_candidates_wrong_in_their_own_way_is_an_error() -> None:
    with pytest.raises(KvplanError):
        planned("engine.max_num_seqs=-1,text")


def told(
    monkeypatch: pytest.MonkeyPatch, need: Callable[[dict[str, Any], float], int | None], **more: Any
) -> list[tuple[int, int | None, float]]:
    """Points that meet from so many replicas on; returns what was asked: replicas, requests, slower."""
    asked = []

    def simulate(document: dict[str, Any], slower: float = 1.0) -> dict[str, Any]:
        replicas, requests = document["parallel"]["replicas"], document["workload"]["requests"]
        asked.append((replicas, requests, slower))
        least = need(document, slower)
        if least is None:
            return outcomes.failure(KvplanError("not so many"))
        met = replicas >= least
        judged = {
            "name": "ttft_p99_s", "limit_s": 0.6, "value_s": 0.5 if met else 0.7, "passed": met,
            "interval_s": None, "band": [-0.2, 0.3],
        }  # fmt: skip
        found = {
            **POINT, "finished": requests, "slo_met": met, "ttft_p99_s": judged["value_s"],
            "objectives": [judged], **more,
        }  # fmt: skip
        return {**outcomes.NOT_RUN, "figures": found}

    monkeypatch.setattr(outcomes, "simulate_point", simulate)
    return asked


POINT = {
    "rejected": 0, "timed_out": 0, "unfinished": 0, "hit_ratio": 0.5, "ttft_p50_s": 0.1, "tpot_p50_s": 0.01,
    "tpot_p99_s": 0.02, "output_tokens_per_s": 100.0, "preemptions": 0, "evicted_blocks": 0, "moved_bytes": 0,
    "peak_used_blocks": 1, "peak_used_bytes": 16, "makespan_s": 1000.0, "arrivals_s": 1000.0,
    "e2e_p99_s": 1.0, "growth": 1.0, "cost_per_hour": None, "cost_per_million_output_tokens": None,
}  # fmt: skip
"""Of a run that was long enough."""


def test_what_a_short_run_missed_is_tried_again_with_more_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 99th percentile is that of one request: a small candidate may miss by chance, and be the answer."""

    def need(document: dict[str, Any], slower: float) -> int:
        blocks, requests = document["cache"]["blocks"], document["workload"]["requests"]
        return (99 if requests < 1000 else 1) if blocks == 1100 else 2

    told(monkeypatch, need)
    plan = planned("cache.blocks=1100,2000", most_gpus=8, longest=5000)
    plan.execute()
    found = Document.model_validate(plan.document([]))
    assert [item.sizes for item in found.candidates] == [[1], [2]]
    assert found.best == 1


def test_that_none_meets_rests_on_enough_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = told(monkeypatch, lambda document, _: 99 if document["workload"]["requests"] < 900 else 3)
    plan = planned("cache.blocks=1100", most_gpus=8, longest=5000)
    plan.execute()
    assert plan.candidates[0].passed == (3,)
    assert max(requests or 0 for _, requests, _ in asked) < 2000
    never = planned("cache.blocks=1100", most_gpus=8, longest=5000)
    told(monkeypatch, lambda *_: 99)
    never.execute()
    assert never.best is None
    assert never.requests is not None
    assert 1000 <= never.requests < 2000


def test_requests_that_are_never_served_are_not_tried_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = told(monkeypatch, lambda *_: 99, rejected=3)
    planned("cache.blocks=1100", most_gpus=4, longest=5000).execute()
    assert {requests for _, requests, _ in asked} == {60}


def test_a_plan_interrupted_while_it_lengthens_keeps_the_answer_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def need(document: dict[str, Any], slower: float) -> int:
        if document["workload"]["requests"] > 60 and document["cache"]["blocks"] == 2000:
            raise KeyboardInterrupt
        return 2

    told(monkeypatch, need)
    plan = planned("cache.blocks=1100,2000", most_gpus=8, longest=5000)
    with pytest.raises(Interrupted):
        plan.execute()
    found = Document.model_validate(plan.document([]))
    assert not found.complete
    assert [(item.status, item.sizes) for item in found.candidates] == [("meets", [2])] * 2
    assert found.requests == 60


def test_more_replicas_that_cannot_be_simulated_leave_the_figures_of_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told(monkeypatch, lambda document, _: None if document["parallel"]["replicas"] > 1 else 9)
    plan = planned("cache.blocks=1100", most_gpus=8, longest=240)
    plan.execute()
    (item,) = Document.model_validate(plan.document([])).candidates
    assert (item.status, item.sizes) == ("misses", [1])
    assert item.figures is not None
    assert item.error is not None


def test_fewer_replicas_that_cannot_be_simulated_leave_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed, say: what met meets."""
    told(monkeypatch, lambda document, _: None if document["parallel"]["replicas"] == 3 else 3)
    plan = planned("cache.blocks=1100", most_gpus=8)
    plan.execute()
    found = Document.model_validate(plan.document([]))
    assert found.best == 1
    assert (found.candidates[0].status, found.candidates[0].sizes) == ("meets", [4])
    assert found.candidates[0].error is not None
    assert found.range is None


def test_no_interval_is_claimed_where_its_end_cannot_be_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def need(document: dict[str, Any], slower: float) -> int | None:
        if document["parallel"]["replicas"] > 1:
            return None
        return 2 if slower > 1 else 1

    told(monkeypatch, need)
    plan = planned("cache.blocks=1100", most_gpus=8, count=2000)
    plan.execute()
    assert plan.candidates[0].passed == (1,)
    assert plan.range is None


def test_the_interval_has_the_answer_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a faster clock needs more: batches and hits may fall worse."""
    told(monkeypatch, lambda _, slower: 4 if slower < 1 else 3 if slower == 1 else 2)
    plan = planned("cache.blocks=1100", most_gpus=8, count=2000)
    plan.execute()
    assert plan.range is not None
    assert (plan.range["low"], plan.range["high"]) == ([3], [3])


@pytest.mark.parametrize(
    ("axis", "reason"),
    [
        ("workload.rate=1,20", "same workload"),
        ("slo.ttft_p99_s=1,2", "same workload"),
        ("price.gpu_hour=1,2", "same workload"),
        ("seed=1,2", "same workload"),
        ("latency.a=1.0e-3,2.0e-3", "same workload"),
    ],
)
def test_candidates_are_compared_under_the_same_load(axis: str, reason: str) -> None:
    """The cheapest of different loads or objectives is the one of which the least is asked."""
    with pytest.raises(UsageError, match=reason):
        planned(axis)


@pytest.mark.parametrize(
    ("axis", "more", "reason"),
    [
        ("gpu=h100-sxm,h100x", (), "unknown gpu 'h100x'"),
        ("gpu=h100-sxm,h100", (), "the same GPU"),
        ("gpu=h100-sxm,l40s", ("price.gpu_hour=h100-sxm=2",), "no price of l40s"),
        ("gpu=h100-sxm,l40s", ("price.gpu_hour=h100-sxm=2,l40s=1,l41=1",), "unknown gpu 'l41'"),
        ("gpu=h100-sxm", ("model=nope",), "unknown model 'nope'"),
        ("gpu=h100-sxm", ("model='-'",), "standard input can be read once"),
    ],
)
def test_names_are_checked_before_anything_is_simulated(axis: str, more: Sequence[str], reason: str) -> None:
    with pytest.raises(KvplanError, match=reason):
        planned(axis, objectives=(*OBJECTIVES, "model=llama-3.1-8b", *more))


POOLED = "{bytes_per_token: 100, link: ib-ndr}"


def test_the_sizes_of_two_pools_are_what_trying_all_gives() -> None:
    slow = "latency={model: linear, a: 5.0e-3, b: 2.0e-4, c: 1.0e-6}"
    plan = planned(
        "engine.max_num_seqs=2,64",
        objectives=("slo.ttft_p99_s=0.2", "slo.tpot_p99_s=0.0065", f"disaggregation={POOLED}", slow),
        most_gpus=9,
        flags={**SHORT, "engine.max_model_len": 256, "workload.rate": 60},
    )
    plan.execute()
    assert plan.complete
    answers = []
    for candidate in plan.candidates:
        document = candidate.scenario.to_dict()
        found = []
        for prefill in range(1, 9):
            for decode in range(1, 10 - prefill):
                document["disaggregation"]["prefill"]["instances"] = prefill
                document["disaggregation"]["decode"]["instances"] = decode
                if meets(simulate_point(document)):
                    found.append(prefill + decode)
        assert (None if candidate.passed is None else sum(candidate.passed)) == min(found, default=None)
        answers.append(candidate.passed)
        assert len(candidate.tried) < 20
    assert len(set(answers)) > 1, "the candidates differ, or this shows nothing"
    document = Document.model_validate(plan.document(["kvplan", "plan"]))
    assert document.answer is not None
    assert [pool.field.split(".")[1] for pool in document.answer.pools] == ["prefill", "decode"]
    assert document.serve == [None, None]


def test_pools_of_sglang_are_started_as_servers_of_their_kind() -> None:
    scenario = Scenario.model_validate(
        {
            "model": "llama-3.1-8b", "gpu": "h100-sxm", "engine": {"kind": "sglang"},
            "cache": {"prefix": "radix"}, "workload": {"synthesize": "chat"},
            "disaggregation": {
                "prefill": {"chunked_prefill_size": 4096},
                "decode": {
                    "max_running_requests": 16, "num_reserved_decode_tokens": 64, "extra_slots": 4,
                    "enable_radix_cache": True,
                },
            },
        }
    )  # fmt: skip
    prefill, decode = Plan._serve(SimpleNamespace(pools=pools_of(scenario)))  # type: ignore[arg-type]
    assert prefill is not None
    assert decode is not None
    assert prefill.startswith("python -m sglang.launch_server ")
    assert prefill.endswith(" --chunked-prefill-size 4096 --disaggregation-mode prefill")
    assert "--max-running-requests 16" in decode
    assert decode.endswith(
        "--disaggregation-mode decode --disaggregation-decode-retraction-backup cpu_tensor "
        "--num-reserved-decode-tokens 64 --disaggregation-decode-extra-slots 4 "
        "--disaggregation-decode-enable-radix-cache"
    )


def test_pools_of_other_gpus_cost_what_theirs_do() -> None:
    scenario = Scenario.model_validate(
        {
            "model": "llama-3.1-8b", "gpu": "h100-sxm", "parallel": {"tp": 2},
            "disaggregation": {"prefill": {"tp": 4}, "decode": {"gpu": "l40s", "tp": 1}},
            "price": {"gpu_hour": {"h100-sxm": 2.5, "l40s": 0.5}}, "workload": {"synthesize": "chat"},
        }
    )  # fmt: skip
    prefill, decode = pools_of(scenario)
    assert (prefill.gpu, prefill.gpus, prefill.cost) == ("h100-sxm", 4, 10.0)
    assert (decode.gpu, decode.gpus, decode.cost) == ("l40s", 1, 0.5)
    assert decode.serves.gpu == "l40s"
    with pytest.raises(KvplanError, match="unknown gpu 'l41'") as raised:
        pools_of(Scenario.model_validate(
            {**scenario.to_dict(), "disaggregation": {"decode": {"gpu": "l41"}}}
        ))  # fmt: skip
    assert raised.value.where == "disaggregation.decode.gpu"


def test_replicas_and_pools_are_candidates_of_one_plan() -> None:
    plan = planned(f"disaggregation=null,{POOLED}", most_gpus=12)
    plan.execute()
    found = Document.model_validate(plan.document([]))
    assert [len(item.pools) for item in found.candidates] == [1, 2]
    assert {item.status for item in found.candidates} == {"meets"}


def test_warnings_and_assumptions_of_the_runs_are_in_the_document() -> None:
    plan = planned(
        "gpu=h100-sxm",
        flags={
            "model": "phi-3-mini-128k",
            "engine.max_model_len": None,
            "workload.synthesize": "fixed",
            "workload.prompt_tokens": 100,
            "workload.output_tokens": 10,
        },
    )
    plan.execute()
    document = plan.document([])
    assert any("LongRoPE" in text for text in document["candidates"][0]["warnings"])
    assert "engine.max_model_len" in {item["name"] for item in document["assumptions"]}
    assert Document.model_validate(document).answer is not None
