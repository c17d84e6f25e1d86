"""A step of ranks in step: padded alike where graphs are replayed, and one rank alone is as if it were none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import LatencyModel, StepBatch, Together, together
from kvplan.latency.graphs import Launching
from kvplan.latency.work import step_work
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.weights import stage_weights
from kvplan.specs.catalog import load_model
from kvplan.specs.formats import kv_format

VLLM = Launching(
    kernels=1000, attention=240, pieces=61, full=(1, 2, 4, 8, 16), piecewise=(1, 2, 4, 8, 16, 32),
    op_s=1e-5, graph_s=1e-5,
)  # fmt: skip
SGLANG = Launching(kernels=1000, full=(1, 2, 4, 8, 16), op_s=1e-5, graph_s=1e-5)
PLAIN = Launching(kernels=1000, op_s=1e-5, eager=True)


def decode(requests: int, context: int = 1000) -> StepBatch:
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


def prefill(tokens: int) -> StepBatch:
    return StepBatch(tokens, prefill_chunks=[(0, tokens)], sampled_requests=1)


@pytest.mark.parametrize(
    ("launching", "batches", "each", "whole"),
    [
        (VLLM, [decode(9), decode(3)], 16, 4 * 16),  # idle ranks compute as many
        (VLLM, [prefill(20), decode(3)], 32, 4 * 32),
        (VLLM, [prefill(200), decode(3)], None, 203),  # beyond captured sizes everybody runs their own
        (SGLANG, [decode(9), decode(3)], 16, 4 * 16),
        (SGLANG, [prefill(9), decode(3)], None, 12),  # prompts replay no graph
        (SGLANG, [decode(17), decode(3)], None, 20),
        (PLAIN, [decode(9), decode(3)], None, 12),
    ],
)
def test_all_are_padded_to_the_largest_where_all_replay_a_graph(
    launching: Launching, batches: list[StepBatch], each: int | None, whole: int
) -> None:
    together(batches, 4)
    for batch in batches:
        computed, joint, launch = launching.shared(batch, 4)
        assert (computed, joint) == (each or batch.scheduled_tokens, whole)
        largest = max(item.scheduled_tokens for item in batches)
        decodes = not any(item.prefill_chunks for item in batches)
        assert launch == launching.seconds(largest, decode=decodes)


def clock(kind: str, engine: str, dp: bool, tp: int) -> LatencyModel:
    return Run(
        load_scenario(
            None,
            {
                "model": "qwen3-30b-a3b", "gpu": "h100-sxm", "latency.model": kind, "engine.kind": engine,
                "parallel.tp": tp, "parallel.dp_attention": dp, "workload.synthesize": "chat",
                "workload.requests": 10,
            },
        )
    ).clock.model  # fmt: skip


@pytest.fixture(scope="module", params=[(k, e) for k in ("roofline", "profile") for e in ("vllm", "sglang")])
def clocks(request: pytest.FixtureRequest) -> tuple[LatencyModel, LatencyModel]:
    return clock(*request.param, True, 1), clock(*request.param, False, 1)


@given(requests=st.integers(0, 600), chunk=st.integers(0, 9000), context=st.integers(1, 20_000))
def test_one_rank_alone_takes_as_long_as_an_engine_without_ranks(
    clocks: tuple[LatencyModel, LatencyModel], requests: int, chunk: int, context: int
) -> None:
    of_ranks, plain = clocks
    tokens = requests + chunk
    if not tokens:
        return
    chunks = [(0, chunk)] if chunk else []
    held = requests * context
    batch = StepBatch(tokens, held, requests, held, chunks, requests + len(chunks))
    expected = plain.step_seconds(batch)
    together([batch], 1)
    assert of_ranks.step_seconds(batch) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_parts_are_the_whole_step(kind: str) -> None:
    model = clock(kind, "vllm", True, 4)
    for largest in (16, 300, 5000):
        batch = decode(12)
        batch.together = Together(4, 12 + largest, largest, 12 + largest, largest, True)
        seconds = model.step_seconds(batch)
        assert model.parts(batch).seconds == pytest.approx(seconds)  # type: ignore[attr-defined]
        assert seconds >= decode_alone(model)


def decode_alone(model: LatencyModel) -> float:
    batch = decode(12)
    together([batch], 4)
    return model.step_seconds(batch)


def test_ranks_of_several_gpus_share_tokens_out_before_experts_where_the_bill_keeps_shared_experts_whole() -> (
    None
):
    """As vLLM's ``use_sequence_parallel_moe``: whole shared experts for a part of the tokens, gathered after."""
    model = load_model("deepseek-v3")
    spread = Parallel(tp=8, attention_ranks=2)
    form = kv_format("bf16")
    dealt, cut = (
        step_work(model, parallel=spread, kv_format=form, expert_parallel=each) for each in (True, False)
    )
    for work, ep in ((dealt, 8), (cut, 1)):
        bill = stage_weights(model, tp=8, ep=ep, attention_ranks=2).by_component["shared_experts"]
        read = sum(
            item.count * item.weight_bytes for item in work.linears
            if item.name in ("up_proj", "down_proj") and item.count == 58
        )  # fmt: skip
        assert read == pytest.approx(bill, rel=1e-6)
    assert {item.dealt for item in dealt.linears} == {1, 4}
    assert {item.dealt for item in cut.linears} == {1}
    assert (dealt.own_gathers, cut.own_gathers) == (58, 0)
