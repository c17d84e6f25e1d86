"""A request's cache on its way, plain and converted."""

import pytest

from kvplan.errors import UsageError
from kvplan.latency.curve import ISSUE_S, SpecLink
from kvplan.latency.kv_transfer import kv_transfer, wire_ratio
from kvplan.specs.catalog import load_gpu, load_model


def test_the_cache_of_a_request():
    model, link = load_model("llama-3.1-8b"), SpecLink("pcie", 10e-6, 55e9)
    moved = kv_transfer(model, 4096, link)
    assert moved.stored_bytes == moved.wire_bytes == 4096 * 131_072
    assert moved.seconds == moved.wire_s == pytest.approx(10e-6 + 4096 * 131_072 / 55e9)
    scattered = kv_transfer(model, 4096, SpecLink("fast", 10e-6, 1e13), contiguous=False)
    assert scattered.wire_s == pytest.approx(10e-6 + (256 * 32 - 1) * ISSUE_S)


def test_a_quantized_transfer_sends_less_and_pays_for_converting():
    model, gpu, link = load_model("llama-3.1-8b"), load_gpu("h100-sxm"), SpecLink("pcie", 10e-6, 55e9)
    plain, packed = kv_transfer(model, 32_768, link), kv_transfer(model, 32_768, link, wire="fp8", gpu=gpu)
    assert packed.wire_bytes == plain.wire_bytes // 2
    assert packed.convert_s == pytest.approx(2 * 1.5 * plain.stored_bytes / (3.35e12 * 0.8))
    assert packed.seconds < plain.seconds
    same = kv_transfer(model, 32_768, link, wire="bf16", gpu=gpu)
    assert (same.convert_s, same.wire_s) == (0.0, plain.wire_s)
    # Where the link is about as fast as memory, converting is not worth it.
    fast = SpecLink("memory", 0.0, 3e12)
    assert (
        kv_transfer(model, 32_768, fast, wire="fp8", gpu=gpu).seconds
        > kv_transfer(model, 32_768, fast).seconds
    )
    with pytest.raises(UsageError, match="needs the GPU"):
        kv_transfer(model, 4096, link, wire="fp8")


def test_the_ratio_of_two_formats_counts_scales() -> None:
    model = load_model("llama-3.1-8b")
    assert wire_ratio(model, None, "fp8") == 0.5
    assert wire_ratio(model, "fp8", "bf16") == 2.0
    assert 0.25 < wire_ratio(model, "bf16", "int4") < 0.3
