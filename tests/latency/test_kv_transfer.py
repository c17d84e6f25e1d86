"""A request's cache on its way, plain and converted."""

from kvplan.latency.kv_transfer import wire_ratio
from kvplan.specs.catalog import load_model


def test_the_ratio_of_two_formats_counts_scales() -> None:
    model = load_model("llama-3.1-8b")
    assert wire_ratio(model, None, "fp8") == 0.5
    assert wire_ratio(model, "fp8", "bf16") == 2.0
    assert 0.25 < wire_ratio(model, "bf16", "int4") < 0.3
