"""Every registered model on every registered GPU: a step is timed or refused, never nonsense.

Drawn by hypothesis: model, GPU, tensor parallelism, weight and cache formats, batch. Whatever is accepted takes
a positive, finite time that does not fall when the batch grows.
"""

import math
from functools import cache

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.errors import KvplanError
from kvplan.latency.build import build_latency
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import entries, load_gpu, load_model
from kvplan.specs.formats import kv_format

GPUS, MODELS = (sorted(entry.name for entry in entries(kind)) for kind in ("gpu", "model"))
SLACK = 1 - 1e-9


@cache
def clock(kind, model, gpu, tp, weights, kv, experts):
    """The clock, or None where it is refused with a reason."""
    try:
        return build_latency(
            {"model": kind}, model=load_model(model), gpu=load_gpu(gpu), parallel=Parallel(tp=tp),
            kv_format=kv_format(kv), weights_format=weights, block_size=16, expert_parallel=experts,
        ).model  # fmt: skip
    except KvplanError:
        return None


CLOCKS = st.builds(
    clock, st.just("roofline"), st.sampled_from(MODELS), st.sampled_from(GPUS), st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([None, "fp8", "awq", "nvfp4"]), st.sampled_from(["bf16", "fp8"]), st.booleans(),
)  # fmt: skip
PROFILED = st.builds(
    clock, st.just("profile"), st.sampled_from(MODELS), st.sampled_from(["h100-sxm", "a100-80g"]),
    st.sampled_from([1, 8]), st.sampled_from([None, "fp8", "awq"]), st.sampled_from(["bf16", "fp8"]), st.just(False),
)  # fmt: skip


def decode(requests, context):
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


def prefill(new, before):
    return StepBatch(new, 0, 0, 0, [(before, new)], 1)


def check(model, requests, context, more):
    assume(model is not None)
    small = model.step_seconds(decode(requests, context))
    chunk = model.step_seconds(prefill(requests, context))
    assert 0 < small < math.inf
    assert 0 < chunk < math.inf
    for larger in (decode(requests + more, context), decode(requests, context + more)):
        assert model.step_seconds(larger) >= small * SLACK
    for longer in (prefill(requests + more, context), prefill(requests, context + more)):
        assert model.step_seconds(longer) >= chunk * SLACK


@settings(max_examples=150)
@given(CLOCKS, st.integers(1, 1024), st.integers(1, 1 << 17), st.integers(1, 4096))
def test_every_roofline(model, requests, context, more):
    check(model, requests, context, more)


@settings(max_examples=12)
@given(PROFILED, st.integers(1, 1024), st.integers(1, 1 << 17), st.integers(1, 4096))
def test_every_profile(model, requests, context, more):
    check(model, requests, context, more)


def test_more_ranks_pay_off_where_there_is_work():
    """Four ranks are faster than one on prompts of dense models: collectives never eat the gain."""
    for name in ("llama-3.1-8b", "qwen3-32b", "gemma-3-27b", "llama-3.1-70b"):
        one, four = (clock("roofline", name, "h100-sxm", tp, None, "bf16", False) for tp in (1, 4))
        assert four.step_seconds(prefill(4096, 0)) < 0.6 * one.step_seconds(prefill(4096, 0))
        assert four.step_seconds(decode(64, 2000)) < 0.7 * one.step_seconds(decode(64, 2000))
