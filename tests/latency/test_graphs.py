"""Launching: which batches replay which graphs, what eager code adds, and how both clocks feel it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError
from kvplan.latency.build import build_latency
from kvplan.latency.clock import Clock
from kvplan.latency.graphs import (
    ALWAYS_GRAPHS,
    ATTENTION_KERNELS,
    COMPILED_OP_S,
    EAGER_OP_S,
    GRAPH_S,
    LAYER_KERNELS,
    TAIL_KERNELS,
    UNCERTAINTY,
    Launching,
    kernels_of,
    launching,
)
from kvplan.latency.work import step_work
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.serving import Serving, resolve_serving
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format

H100 = load_gpu("h100-sxm")


def serving(kind: str = "vllm", **options: Any) -> Serving:
    return resolve_serving(kind, H100, max_model_len=32_768, **options)


def clock(
    kind: str = "roofline", model: str = "llama-3.2-1b", start: Serving | None = None, **spec: Any
) -> Clock:
    return build_latency(
        {"model": kind, **spec}, model=load_model(model), gpu=H100, parallel=Parallel(),
        kv_format=kv_format("bf16"), weights_format=None, block_size=16, serving=start,
    )  # fmt: skip


def work_of(model: str, tp: int = 1, weights: str | None = None) -> Any:
    return step_work(
        load_model(model), parallel=Parallel(tp=tp), kv_format=kv_format("bf16"), weights_format=weights
    )


def decode(requests: int, context: int = 500) -> StepBatch:
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


def prefill(new: int) -> StepBatch:
    return StepBatch(new, 0, 0, 0, [(0, new)], 1)


def test_a_step_has_four_matrices_and_the_small_kernels_of_a_layer() -> None:
    each = 4 + LAYER_KERNELS + ATTENTION_KERNELS
    assert kernels_of(work_of("llama-3.1-8b")) == TAIL_KERNELS + 32 * each
    assert kernels_of(work_of("llama-3.1-8b", weights="fp8")) == TAIL_KERNELS + 32 * (each + 4)
    assert kernels_of(work_of("llama-3.1-8b", tp=2)) == TAIL_KERNELS + 32 * (each + 2)
    assert kernels_of(work_of("qwen3-30b-a3b")) > kernels_of(work_of("llama-3.1-8b"))


def test_vllm_replays_decode_whole_other_batches_in_pieces_and_the_rest_one_by_one() -> None:
    host = launching(work_of("llama-3.1-8b"), serving(max_num_seqs=256))
    assert (host.full_limit, host.piecewise_limit, host.pieces) == (256, 512, 33)
    assert host.seconds(200, decode=True) == GRAPH_S
    assert host.seconds(200, decode=False) == pytest.approx(33 * GRAPH_S + 4 * 32 * COMPILED_OP_S)
    assert host.seconds(300, decode=True) == host.seconds(300, decode=False)
    assert host.seconds(513, decode=False) == pytest.approx(host.kernels * COMPILED_OP_S)


def test_sglang_replays_decode_only() -> None:
    host = launching(work_of("llama-3.1-8b"), serving("sglang"))
    assert host.piecewise_limit == 0
    assert host.seconds(64, decode=True) == GRAPH_S
    assert host.seconds(64, decode=False) == host.plain_s == pytest.approx(host.kernels * EAGER_OP_S)


def test_eager_launches_every_kernel() -> None:
    host = launching(work_of("llama-3.1-8b"), serving(cuda_graphs=False))
    assert host.eager
    assert host.full_limit == host.piecewise_limit == 0
    assert host.seconds(1, decode=True) == pytest.approx(host.kernels * EAGER_OP_S)
    assert host.padded(7) == 7


@pytest.mark.parametrize(("tokens", "computed"), [(0, 0), (1, 1), (3, 4), (9, 16), (250, 256), (257, 272), (512, 512), (513, 513)])  # fmt: skip
def test_batches_are_padded_to_captured_sizes(tokens: int, computed: int) -> None:
    assert launching(work_of("llama-3.1-8b"), serving(max_num_seqs=256)).padded(tokens) == computed


@given(
    kernels=st.integers(1, 5000), pieces=st.integers(1, 200), seqs=st.integers(1, 2048), graphs=st.booleans(),
    kind=st.sampled_from(["vllm", "sglang"]), op=st.floats(0, 1e-3), first=st.integers(0, 5000),
    second=st.integers(0, 5000),
)  # fmt: skip
def test_launching_never_falls_with_tokens_or_with_a_prefill_among_them(
    kernels: int, pieces: int, seqs: int, graphs: bool, kind: str, op: float, first: int, second: int
) -> None:
    start = serving(kind, max_num_seqs=seqs, cuda_graphs=graphs)
    found = launching(work_of("llama-3.1-8b"), start)
    host = Launching(kernels, min(kernels, 4 * pieces), pieces, found.full, found.piecewise, op, GRAPH_S)
    few, many = sorted((first, second))
    for decoding in (True, False):
        assert host.seconds(few, decode=decoding) <= host.seconds(many, decode=decoding)
    assert host.seconds(few, decode=True) <= host.seconds(few, decode=False)
    assert few <= host.padded(few) <= host.padded(many)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_eager_decoding_of_a_small_model_waits_for_the_host(kind: str) -> None:
    plain, graphs, eager = (
        clock(kind, start=start) for start in (None, serving(), serving(cuda_graphs=False))
    )
    batch = decode(8)
    assert graphs.model.step_seconds(batch) == plain.model.step_seconds(batch)
    host = launching(work_of("llama-3.2-1b"), serving(cuda_graphs=False))
    body = clock(kind, start=serving(cuda_graphs=False), launch_s=0.0).model.step_seconds(batch)
    assert eager.model.step_seconds(batch) > 1.5 * body
    assert eager.model.step_seconds(batch) >= host.plain_s
    # A long prompt hides every launch.
    assert eager.model.step_seconds(prefill(16_384)) == plain.model.step_seconds(prefill(16_384))


def test_an_8b_model_takes_about_8_ms_a_step_without_graphs() -> None:
    eager = clock("profile", "llama-3.1-8b", start=serving(cuda_graphs=False))
    graphs = clock("profile", "llama-3.1-8b", start=serving())
    assert eager.model.step_seconds(decode(1)) == pytest.approx(8.4e-3, rel=0.15)
    assert graphs.model.step_seconds(decode(1)) < 7e-3


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_padding_costs_what_the_larger_batch_costs(kind: str) -> None:
    padded, exact = clock(kind, start=serving()).model, clock(kind).model
    one, next_size = decode(33), decode(40)
    assert exact.step_seconds(one) <= padded.step_seconds(one) <= exact.step_seconds(next_size) * (1 + 1e-12)


def test_parts_name_the_wait() -> None:
    model: Any = clock(start=serving(cuda_graphs=False)).model
    parts = model.parts(decode(8))
    assert parts.waiting_s > 0
    assert parts.seconds == pytest.approx(model.step_seconds(decode(8)), rel=1e-12)
    assert model.parts(prefill(16_384)).waiting_s == 0.0


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_members_of_an_ensemble_span_the_launches_uncertainty(kind: str) -> None:
    eager = clock(kind, start=serving(cuda_graphs=False), step_s=0.0)
    assert eager.perturbed is not None
    base = eager.model.step_seconds(decode(1, 10))
    found = [
        eager.perturbed([0.0, 0.0, 0.0, 0.0, z]).step_seconds(decode(1, 10)) / base for z in (-1.645, 1.645)
    ]
    if kind == "roofline":
        found = [eager.perturbed([0.0, z, 0.0]).step_seconds(decode(1, 10)) / base for z in (-1.645, 1.645)]
    assert found[1] == pytest.approx(UNCERTAINTY, rel=0.15)
    assert found[0] < 1.0


def test_the_result_says_how_kernels_are_launched_and_eager_widens_the_bands() -> None:
    for kind in ("roofline", "profile"):
        graphs, eager = clock(kind, start=serving()), clock(kind, start=serving(cuda_graphs=False))
        named = {item.name: item for item in graphs.assumptions}
        assert "others up to 512 tokens 17 pieces" in named["latency.cuda_graphs"].source
        assert "graphs are off" in {item.name: item for item in eager.assumptions}["latency.launch_s"].source
        assert graphs.bands is not None
        assert eager.bands is not None
        assert eager.bands["tpot"][1] == pytest.approx(1.5 * graphs.bands["tpot"][1])
    assert not ALWAYS_GRAPHS.assumptions()


@pytest.mark.parametrize("value", [-1e-6, 0.02, math.nan, "fast", True])
@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_no_such_launch(kind: str, value: object) -> None:
    with pytest.raises(SpecError) as caught:
        clock(kind, launch_s=value)
    assert caught.value.where == "latency.launch_s"


def test_a_timed_launch_counts_where_it_is_slower_than_assumed() -> None:
    start = serving(cuda_graphs=False)
    work = work_of("llama-3.2-1b")
    assert launching(work, start, timed_op_s=5e-5).op_s == 5e-5
    assert launching(work, start, timed_op_s=4e-6).op_s == EAGER_OP_S
    assert launching(work, start, op_s=1e-6, timed_op_s=5e-5).op_s == 1e-6
