"""What GPUs cost: rent by name, a run's, a million tokens'."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import UnknownName, UsageError
from kvplan.reporting.result import Result
from kvplan.scenario.figures import figures
from kvplan.scenario.load import load_scenario
from kvplan.scenario.outcomes import simulate_point
from kvplan.scenario.rent import rent_of
from kvplan.scenario.run import Run
from kvplan.scenario.schema.price import PricePart, parse_prices

FLAGS = {
    "cache.blocks": 2000,
    "workload.synthesize": "chat",
    "workload.rate": 20,
    "engine.max_model_len": "16k",
}
CLOCK = "latency={model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}"


def result(*assignments: str, flags: dict[str, Any] = FLAGS) -> dict[str, Any]:
    scenario = load_scenario(None, flags, [CLOCK, "accuracy.ensemble=0", *assignments], count=40)
    run = Run(scenario)
    run.execute()
    document = run.result([])
    Result.model_validate(document)
    return document


def test_a_run_costs_its_gpus_for_its_makespan() -> None:
    document = result("price.gpu_hour=2.5", "parallel.replicas=3")
    cost, totals = document["cost"], document["totals"]
    assert (cost["gpus"], cost["per_hour"], cost["currency"]) == (3, 7.5, "USD")
    assert cost["total"] == pytest.approx(7.5 * totals["makespan_s"] / 3600)
    answered = totals["output_tokens"]
    assert cost["per_million_output_tokens"] == pytest.approx(cost["total"] / answered * 1e6)
    whole = answered + totals["prompt_tokens"]
    assert cost["per_million_tokens"] == pytest.approx(cost["total"] / whole * 1e6)
    compared = figures(document, None)
    assert compared["cost_per_hour"] == 7.5
    assert compared["cost_per_million_output_tokens"] == cost["per_million_output_tokens"]


def test_a_price_changes_nothing_else() -> None:
    free, paid = result(), result("price.gpu_hour=2.5")
    assert free["cost"] is None
    for part in ("totals", "latency", "series", "throughput", "step_time"):
        assert free[part] == paid[part]
    assert figures(free, None)["cost_per_hour"] is None


def test_nothing_finished_has_no_cost_a_token() -> None:
    document = result("price.gpu_hour=2", "engine.max_model_len=1", "engine.max_num_batched_tokens=16")
    assert document["totals"]["rejected"] == 40
    assert document["cost"]["per_million_output_tokens"] is None
    assert document["cost"]["per_million_tokens"] is None


def test_every_gpu_has_its_own_price() -> None:
    price = PricePart.model_validate({"gpu_hour": "H100=2.5, a100-80g=1.25", "currency": "EUR"})
    rent = rent_of(price, {"h100-sxm": 4, "a100-80g": 2})
    assert (rent.gpus, rent.per_hour, rent.currency) == (6, 12.5, "EUR")


def test_pools_of_different_gpus_are_added_up() -> None:
    scenario = load_scenario(
        None,
        {"model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "chat"},
        ["disaggregation={prefill: {instances: 2}, decode: {gpu: a100-80g, instances: 3}}",
         "price.gpu_hour={h100-sxm: 2, a100-80g: 1}"],
        count=5,
    )  # fmt: skip
    assert Run(scenario).rent.per_hour == 2 * 2 + 3 * 1


def test_a_gpu_without_a_price_is_said_by_name() -> None:
    price = PricePart.model_validate({"gpu_hour": {"h100-sxm": 2.5}})
    with pytest.raises(UsageError, match="no price of l40s") as caught:
        rent_of(price, {"l40s": 1})
    assert caught.value.where == "price.gpu_hour"
    assert "l40s=PRICE" in str(caught.value.hint)
    with pytest.raises(UsageError, match="a GPU without a name"):
        rent_of(price, {"": 1})


def test_unknown_gpus_and_two_prices_of_one_are_refused() -> None:
    with pytest.raises(UnknownName) as caught:
        rent_of(PricePart.model_validate({"gpu_hour": {"h101": 1}}), {"h100-sxm": 1})
    assert caught.value.where == "price.gpu_hour"
    with pytest.raises(UsageError, match="has a price already"):
        rent_of(PricePart.model_validate({"gpu_hour": {"h100": 1, "h100-sxm": 2}}), {"h100-sxm": 1})


@pytest.mark.parametrize("text", ["", "cheap", "1_0", "a=", "=1", "a=1,", "a=1,a=2", "a=1;b=2=3", "１"])
def test_what_is_no_price(text: str) -> None:
    try:
        parsed = parse_prices(text)
    except UsageError:
        return
    with pytest.raises(ValueError, match="number"):
        PricePart.model_validate({"gpu_hour": parsed})


@pytest.mark.parametrize(
    ("given", "reason"),
    [(0, "greater than 0"), (-1, "greater than 0"), ("inf", "finite"), (True, "number"), ({}, "at least 1"),
     ({"h100": 0}, "greater than 0"), ("nan", "finite|greater")],
)  # fmt: skip
def test_prices_are_positive_numbers(given: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PricePart.model_validate({"gpu_hour": given})


def test_a_sweep_keeps_what_a_point_costs() -> None:
    scenario = load_scenario(None, FLAGS, [CLOCK, "price.gpu_hour=2.5"], count=20).to_dict()
    found = simulate_point(scenario)["figures"]
    assert found is not None
    assert found["cost_per_hour"] == 2.5
    assert found["cost_per_million_output_tokens"] > 0
