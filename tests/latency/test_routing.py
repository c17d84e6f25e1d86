"""Routed experts: counts against simulated routing, and what expert parallelism does to both clocks."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError, UsageError
from kvplan.latency.build import build_latency
from kvplan.latency.clock import Clock
from kvplan.latency.expert_exchange import DEEPEP
from kvplan.latency.routing import SKEW, Routing
from kvplan.latency.work import step_work
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.serving import resolve_serving
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format


def clock(
    kind: str = "roofline", model: str = "qwen3-30b-a3b", tp: int = 4, ep: bool = True,
    engine: str | None = None, dp: bool = False, **spec: Any,
) -> Clock:  # fmt: skip
    gpu = load_gpu("h100-sxm")
    serving = None if engine is None else resolve_serving(engine, gpu, max_model_len=32_768, tp=tp)
    return build_latency(
        {"model": kind, **spec}, model=load_model(model), gpu=gpu, parallel=Parallel(tp=tp, attention_ranks=tp if dp else 1),
        kv_format=kv_format("bf16"), weights_format=None, block_size=16, serving=serving, expert_parallel=ep,
    )  # fmt: skip


def decode(requests: int, context: int = 500) -> StepBatch:
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


def prefill(new: int) -> StepBatch:
    return StepBatch(new, 0, 0, 0, [(0, new)], 1)


def draw(routing: Routing, tokens: int, rng: random.Random) -> tuple[int, int, float]:
    """(experts of the first rank touched, assignments of the heaviest rank, distinct ranks of a token)."""
    held = routing.total // routing.ranks
    touched: set[int] = set()
    loads = [0] * routing.ranks
    ranks = 0
    for _ in range(tokens):
        chosen = rng.sample(range(routing.total), routing.routed)
        touched.update(expert for expert in chosen if expert < held)
        for expert in chosen:
            loads[expert // held] += 1
        ranks += len({expert // held for expert in chosen})
    return len(touched), max(loads), ranks / tokens


@pytest.mark.parametrize(("total", "routed", "ranks", "tokens"), [(64, 6, 8, 100), (128, 8, 4, 7), (8, 2, 2, 30), (16, 1, 16, 40)])  # fmt: skip
def test_counts_are_those_of_simulated_routing(total: int, routed: int, ranks: int, tokens: int) -> None:
    routing = Routing(total, routed, ranks, skew=0.0)
    rng = random.Random(1)
    found = [draw(routing, tokens, rng) for _ in range(400)]
    touched, heaviest, distinct = (sum(column) / 400 for column in zip(*found, strict=True))
    assert routing.touched(float(tokens)) == pytest.approx(touched, rel=0.02)
    # Counts of few tokens are more skewed than the normal they are taken for.
    assert routing.heaviest(float(tokens)) == pytest.approx(heaviest, rel=0.08)
    assert routing.ranks_per_token() == pytest.approx(distinct, rel=0.02)


@pytest.mark.parametrize(
    ("total", "routed", "ranks", "tokens"),
    [
        (256, 8, 8, 1),
        (256, 8, 8, 8),
        (256, 8, 32, 32),
        (64, 6, 8, 100),
        (8, 2, 8, 1),
        (8, 2, 2, 3),
        (128, 8, 4, 7),
    ],
)
def test_weights_are_waited_for_where_most_experts_are_touched(
    total: int, routed: int, ranks: int, tokens: int
) -> None:
    routing, rng, held, found = Routing(total, routed, ranks, skew=0.0), random.Random(3), total // ranks, 0
    for _ in range(400):
        touched = {expert for _ in range(tokens) for expert in rng.sample(range(total), routed)}
        found += max(sum(1 for expert in touched if expert // held == rank) for rank in range(ranks))
    # Counts of few tokens are more skewed than the normal they are taken for.
    assert routing.most_touched(float(tokens)) == pytest.approx(found / 400, rel=0.12)


def test_expected_distinct_experts_by_hand() -> None:
    routing = Routing(8, 2)
    assert routing.touched(1.0) == pytest.approx(2.0)
    assert Routing(8, 2, skew=0.0).touched(3.0) == pytest.approx(8 * (1 - 0.75**3))
    # q = 3/4, s = 1: q^-1 - 1 = 1/3, so that three tokens miss an expert with probability 1 / (1 + 3/3).
    assert Routing(8, 2, skew=1.0).touched(3.0) == pytest.approx(4.0)
    assert Routing(8, 8).touched(1.0) == 8.0


@pytest.mark.parametrize("skew", [0.25, 0.5, 1.0, 2.0])
def test_popular_experts_leave_others_untouched(skew: float) -> None:
    # A token misses an expert of popularity x with probability exp(-h x); x is gamma distributed with mean 1,
    # and h such that a token chooses k of E on average.
    routing, rng = Routing(128, 8, skew=skew), random.Random(2)
    shape = 1 / skew**2
    drawn = [rng.gammavariate(shape, 1 / shape) for _ in range(60_000)]
    rate = shape * ((1 - 8 / 128) ** (-1 / shape) - 1)
    for tokens in (1, 4, 32, 256):
        touched = 128 * (1 - sum(math.exp(-rate * tokens * x) for x in drawn) / len(drawn))
        assert routing.touched(float(tokens)) == pytest.approx(touched, rel=0.02)


def test_touched_experts_of_an_almost_even_router_are_those_of_an_even_one() -> None:
    for tokens in (1.0, 10.0, 300.0):
        even = Routing(256, 8, skew=0.0).touched(tokens)
        assert Routing(256, 8, skew=1.1e-3).touched(tokens) == pytest.approx(even, rel=1e-5)


@given(
    ranks=st.sampled_from([1, 2, 4, 8, 16]), each=st.integers(1, 32), routed=st.integers(1, 16),
    skew=st.floats(0, 3), first=st.integers(1, 1 << 16), second=st.integers(1, 1 << 16),
)  # fmt: skip
def test_laws_of_counts(ranks: int, each: int, routed: int, skew: float, first: int, second: int) -> None:
    total = ranks * each
    routing = Routing(total, min(routed, total), ranks, skew)
    few, many = sorted((float(first), float(second)))
    assert 0 < routing.touched(few) <= routing.touched(many) <= routing.held
    assert routing.mean(few) <= routing.heaviest(few) * (1 + 1e-12)
    least, most = routing.most_touched(few), routing.most_touched(many)
    assert routing.touched(few) <= least * (1 + 1e-9)
    assert least <= most * (1 + 1e-12)
    assert most <= min(routing.held, routing.heaviest(many)) * (1 + 1e-12)
    assert routing.heaviest(few) <= routing.heaviest(many)
    assert routing.sent(few) <= routing.sent(many) * (1 + 1e-12)
    assert 1 <= routing.ranks_per_token() <= min(ranks, routing.routed) + 1e-9
    even = Routing(total, routing.routed, ranks, 0.0)
    assert even.heaviest(few) <= routing.heaviest(few) * (1 + 1e-12)
    assert routing.touched(few) <= even.touched(few) * (1 + 1e-9)
    # Whatever their popularity, one token touches as many as it chooses.
    assert routing.touched(1.0) == pytest.approx(routing.routed * routing.held / total)
    # What is drawn anew for each token averages out, what lasts does not.
    assert even.imbalance(many) <= even.imbalance(few) * (1 + 1e-12)


def test_one_rank_waits_for_nobody() -> None:
    routing = Routing(128, 8, 1, skew=2.0)
    assert routing.heaviest(100.0) == 800.0
    assert routing.imbalance(100.0) == 1.0
    assert routing.ranks_per_token() == 1.0


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_one_gpu_has_no_collective_with_or_without_expert_parallelism(kind: str) -> None:
    batch = decode(64)
    plain, dealt = (
        clock(kind, tp=1, ep=False),
        clock(kind, tp=1, ep=True, expert_exchange="deepep_low_latency"),
    )
    assert plain.model.step_seconds(batch) == dealt.model.step_seconds(batch)
    if kind == "roofline":
        model: Any = dealt.model
        assert model.parts(batch).collective_s == 0.0


def test_experts_dealt_to_ranks_change_no_bytes_but_make_them_uneven() -> None:
    cut = step_work(load_model("qwen3-30b-a3b"), parallel=Parallel(tp=4), kv_format=kv_format("bf16"))
    dealt = step_work(
        load_model("qwen3-30b-a3b"),
        parallel=Parallel(tp=4),
        kv_format=kv_format("bf16"),
        expert_parallel=True,
    )
    for a, b in zip(cut.experts, dealt.experts, strict=True):
        assert a.routing.held * a.expert_bytes == b.routing.held * b.expert_bytes
        assert a.flops_per_assignment * a.routing.mean(8.0) == b.flops_per_assignment * b.routing.mean(8.0)
        assert a.routing.imbalance(8.0) == 1.0 < b.routing.imbalance(8.0)
    assert dealt.all_reduces == cut.all_reduces
    assert dealt.expert_layers == 0


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_an_uneven_rank_slows_long_prefills(kind: str) -> None:
    even, uneven = clock(kind, routing_skew=0), clock(kind, routing_skew=1.0)
    cut = clock(kind, ep=False, routing_skew=0)
    batch = prefill(16_384)
    assert even.model.step_seconds(batch) < uneven.model.step_seconds(batch)
    # Where every rank has a slice of every expert, each of them moves the rows of all assignments.
    assert even.model.step_seconds(batch) < cut.model.step_seconds(batch)
    assert uneven.model.step_seconds(decode(1)) >= even.model.step_seconds(decode(1))


def test_tokens_sent_to_their_experts_take_two_exchanges_a_layer_instead_of_a_sum() -> None:
    summed, sent = clock(), clock(engine="sglang", expert_exchange="deepep_high_throughput")
    model: Any = sent.model
    work = model.work
    assert work.expert_layers == 48
    assert work.all_reduces == 48
    tokens = 4096
    link = 450e9 * 0.8
    row = 2048 * 2
    routing = work.experts[0].routing
    attention = 48 * (8e-6 + 2 * 3 / 4 * tokens * row / link)
    calls = DEEPEP["deepep_high_throughput"]
    rows = 3 / 4 * row * routing.sent(float(tokens))
    exchange = 48 * sum(call.fixed_s + rows / (450e9 * call.share) for call in calls)
    assert model.parts(prefill(tokens)).collective_s == pytest.approx(attention + exchange, rel=1e-9)
    other: Any = summed.model
    assert other.work.all_reduces == 96
    assert other.parts(prefill(tokens)).collective_s == pytest.approx(2 * attention, rel=1e-9)


def test_a_dense_model_has_no_experts_to_deal() -> None:
    with pytest.raises(UsageError, match="no routed experts"):
        clock(model="llama-3.1-8b")


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"routing_skew": -1}, "latency.routing_skew"),
        ({"routing_skew": math.nan}, "latency.routing_skew"),
        ({"routing_skew": "high"}, "latency.routing_skew"),
        ({"expert_exchange": "pigeons"}, "latency.expert_exchange"),
    ],
)
@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_no_such_routing(kind: str, spec: dict[str, Any], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        clock(kind, **spec)
    assert caught.value.where == where


def test_the_result_says_how_routing_was_assumed() -> None:
    named = {item.name: item for item in clock().assumptions}
    assert named["latency.routing_skew"].value == SKEW
    assert "heaviest of 4 ranks" in named["latency.routing_skew"].source
    assert named["latency.expert_exchange"].value == "all_reduce"
    alone = {item.name: item for item in clock(ep=False).assumptions}["latency.routing_skew"]
    assert "32 tokens touch 104 of 128" in alone.source


def test_a_scenario_deals_experts_to_ranks() -> None:
    base = {
        "model": "qwen3-30b-a3b", "gpu": "h100-sxm", "parallel.tp": 4, "workload.synthesize": "chat",
        "workload.requests": 4, "workload.rate": 1.0, "latency.model": "roofline",
    }  # fmt: skip
    plain = Run(load_scenario(None, base))
    dealt = Run(load_scenario(None, {**base, "parallel.expert_parallel": True}))
    assert dealt.deployment.fit is not None
    assert dealt.deployment.fit.expert_parallel
    batch = prefill(8192)
    assert dealt.clock.model.step_seconds(batch) < plain.clock.model.step_seconds(batch)
    with pytest.raises(UsageError, match="no routed experts"):
        Run(load_scenario(None, {**base, "model": "llama-3.1-8b", "parallel.expert_parallel": True}))


@pytest.mark.parametrize("kind", ["roofline", "profile"])
@pytest.mark.parametrize(
    ("model", "ep", "engine", "dp", "why"),
    [
        ("qwen3-30b-a3b", False, "vllm", False, "without effect: experts are not dealt to ranks"),
        ("llama-3.1-8b", False, "vllm", False, "without effect: the model has no routed experts"),
        ("qwen3-30b-a3b", True, "vllm", False, "without effect: vLLM sums inside a tensor-parallel group"),
        ("qwen3-30b-a3b", True, "vllm", True, "sent to their experts and back; given"),
        ("qwen3-30b-a3b", True, "sglang", False, "sent to their experts and back; given"),
    ],
)
def test_an_exchange_that_does_not_happen_is_said_to_be_said_in_vain(
    kind: str, model: str, ep: bool, engine: str, dp: bool, why: str
) -> None:
    said = clock(kind, model, ep=ep, engine=engine, dp=dp, expert_exchange="deepep_low_latency")
    (found,) = [item for item in said.assumptions if item.name == "latency.expert_exchange"]
    assert found.value == "deepep_low_latency"
    assert why in found.source
    default = clock(kind, model, ep=ep, engine=engine, dp=dp)
    unsaid = [item for item in default.assumptions if item.name == "latency.expert_exchange"]
    assert bool(unsaid) is ep
    alike = said.model.step_seconds(prefill(16384)) == default.model.step_seconds(prefill(16384))
    assert alike is why.startswith("without effect")


@pytest.mark.parametrize("kind", ["roofline", "profile"])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_no_graph_is_replayed_beside_kernels_that_cannot_be_captured(kind: str, engine: str) -> None:
    """vLLM 0.33's ``set_splitting_ops_for_v1``, SGLang 0.5.23's ``_handle_a2a_moe``."""
    ways: dict[str, Any] = {
        way: clock(kind, engine=engine, dp=True, expert_exchange=f"deepep_{way}").model
        for way in ("high_throughput", "low_latency")
    }
    graphs = {way: model.launching for way, model in ways.items()}
    assert graphs["low_latency"].full_limit > 0
    assert graphs["high_throughput"].full_limit == graphs["high_throughput"].piecewise_limit == 0
    (said,) = [item for item in graphs["high_throughput"].assumptions() if item.name == "latency.launch_s"]
    assert f"{'compiled' if engine == 'vllm' else 'eager'} code: graphs are off" in said.source
    one = decode(1)
    assert ways["high_throughput"].step_seconds(one) > graphs["high_throughput"].plain_s
    assert ways["high_throughput"].step_seconds(one) > 1.1 * ways["low_latency"].step_seconds(one)
