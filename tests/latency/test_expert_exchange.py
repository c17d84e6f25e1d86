"""How tokens reach experts on other ranks: from the links, as measured, and what a step pays for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.errors import UsageError
from kvplan.latency.build import build_latency
from kvplan.latency.clock import Clock
from kvplan.latency.expert_exchange import exchange_seconds, linked, measured
from kvplan.latency.fit.profile_file import read_profile
from kvplan.latency.kernel_set import KernelSet
from kvplan.latency.link import exchange_of
from kvplan.latency.profile import profile_path
from kvplan.latency.routing import EXCHANGES
from kvplan.latency.work import StepWork, step_work
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.serving import resolve_serving
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format


def clock(kind: str = "roofline", **spec: Any) -> Clock:
    """Of SGLang, whose ranks send tokens inside a tensor-parallel group, too; launches cost nothing."""
    serving = resolve_serving("sglang", load_gpu("h100-sxm"), max_model_len=32_768, tp=4)
    return build_latency(
        {"model": kind, "launch_s": 0.0, **spec}, serving=serving, model=load_model("qwen3-30b-a3b"), gpu=load_gpu("h100-sxm"),
        parallel=Parallel(tp=4), kv_format=kv_format("bf16"), weights_format=None, block_size=16,
        expert_parallel=True,
    )  # fmt: skip


def prefill(new: int) -> StepBatch:
    return StepBatch(new, 0, 0, 0, [(0, new)], 1)


@pytest.mark.parametrize("way", ["all_gather", "deepep_high_throughput", "deepep_low_latency"])
def test_the_profile_pays_the_measured_exchange_instead_of_its_measured_sums(way: str) -> None:
    kernels = KernelSet(read_profile(profile_path("h100-sxm")), "h100-sxm", engine="sglang")
    summed, sent = clock("profile"), clock("profile", expert_exchange=way)
    ours: Any = clock(expert_exchange=way).model
    tokens = np.array([4096.0])
    sums, pair = kernels.all_reduce(), measured(kernels, way)
    assert sums is not None
    summing = float(sums.predict({"ranks": np.array([4.0]), "bytes": tokens * 2048 * 2}).seconds[0])
    assert len(pair) == 2
    routing = ours.work.experts[0].routing
    rows = routing.copies(way, tokens)
    each = routing.routed if way == "deepep_low_latency" else routing.ranks_per_token()
    shape = {
        "ranks": np.array([4.0]), "bytes": tokens * 2048 * 2, "row_bytes": np.array([2048 * 2.0]),
        "tokens": rows / each, "copies": np.array([each * 3 / 4]),
    }  # fmt: skip
    exchange = sum(float(kernel.seconds(shape)[0]) for kernel in pair)
    gap = sent.model.step_seconds(prefill(4096)) - summed.model.step_seconds(prefill(4096))
    assert gap == pytest.approx(48 * (exchange - summing), rel=1e-6)


def test_beyond_a_node_no_measured_exchange_holds() -> None:
    kernels = KernelSet(read_profile(profile_path("h100-sxm")), "h100-sxm", engine="vllm")
    model = load_model("qwen3-235b-a22b")
    tokens = np.array([512.0])
    for ranks in (8, 16):
        work = step_work(
            model, parallel=Parallel(tp=ranks, attention_ranks=ranks), kv_format=kv_format("bf16"),
            expert_parallel=True,
        )  # fmt: skip
        exchange = exchange_of(load_gpu("h100-sxm"), latency_s=8e-6, efficiency=0.8, ranks=ranks)
        assert exchange is not None
        fixed, per_byte = linked(work, exchange)
        plain = fixed + per_byte * 512 * model.hidden_size * 2
        found = float(exchange_seconds(work, exchange, kernels, tokens)[0])
        assert (found == pytest.approx(plain)) == (ranks == 16)


@given(st.sampled_from(EXCHANGES[1:]), st.integers(0, 12))
def test_exchanges_take_longer_with_more_tokens_and_wider_rows(way: str, octave: int) -> None:
    exchange = exchange_of(load_gpu("h100-sxm"), latency_s=8e-6, efficiency=0.8, ranks=8)
    assert exchange is not None
    kernels = KernelSet(read_profile(profile_path("a100-80g")), "a100-80g")
    narrow, wide = (
        step_work(
            load_model(name), parallel=Parallel(tp=8, attention_ranks=8), kv_format=kv_format("bf16"),
            expert_parallel=True, expert_exchange=way,
        )
        for name in ("qwen3-30b-a3b", "qwen3-235b-a22b")
    )  # fmt: skip
    tokens = np.array([1.0, 2.0]) * 2**octave
    less, more = exchange_seconds(narrow, exchange, kernels, tokens)
    assert 0.0 < less < more
    assert less < exchange_seconds(wide, exchange, kernels, tokens)[0]


def test_data_parallel_attention_always_sends_tokens() -> None:
    def work(way: str | None) -> StepWork:
        return step_work(
            load_model("deepseek-v3"), parallel=Parallel(tp=8, attention_ranks=8),
            kv_format=kv_format("bf16"), expert_parallel=True, expert_exchange=way,
        )  # fmt: skip

    assert work(None).expert_layers == 58
    assert work(None).expert_ranks == 8
    assert work(None).expert_exchange == "all_gather"
    assert work("deepep_low_latency").expert_exchange == "deepep_low_latency"
    with pytest.raises(UsageError, match="tokens alone") as caught:
        work("all_reduce")
    assert caught.value.where == "latency.expert_exchange"


def test_ranks_of_vllm_multiply_their_own_tokens_and_those_of_sglang_each_others() -> None:
    def work(engine: str) -> StepWork:
        return step_work(
            load_model("deepseek-v3"), parallel=Parallel(tp=8, attention_ranks=8),
            kv_format=kv_format("bf16"), expert_parallel=True, engine=engine,
        )  # fmt: skip

    apart, together = work("vllm"), work("sglang")
    wide, narrow = (
        {(item.name, item.inputs): item for item in one.linears if item.name in ("up_proj", "down_proj")}
        for one in (apart, together)
    )
    assert not any(item.joint for item in wide.values())
    assert all(item.joint for item in narrow.values())
    up = [sum(i.outputs * i.count for i in one.values() if i.name == "up_proj") for one in (wide, narrow)]
    assert up[0] == 8 * up[1]
    assert apart.head.outputs == 8 * together.head.outputs
    # Dense layers sum over SGLang's ranks; vLLM's meet at experts alone.
    assert (apart.all_reduces, together.all_reduces) == (0, 3)
    assert apart.experts == together.experts
