"""Published characteristics of the public traces, to the digit. Skips where the data set is absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan.traces.statistics import TraceStatistics, measure_trace
from kvplan.traces.trace import Trace, open_trace

pytestmark = pytest.mark.shared


@pytest.fixture(scope="session")
def traces(shared: Path) -> Path:
    return shared / "data" / "traces"


@pytest.fixture(scope="session")
def anchors(traces: Path) -> dict:
    return json.loads((traces / "anchors.json").read_text())


def described(path: Path, **options) -> tuple[Trace, TraceStatistics]:
    lru = options.pop("lru", False)
    trace = open_trace(path, **options)
    return trace, measure_trace(trace, lru=lru)


def check_reuse(found: TraceStatistics, anchor: dict) -> None:
    assert found.requests == anchor["requests"]
    assert found.input_tokens.total == anchor["input_tokens"]
    for key in ("block_refs", "unique_blocks", "hit_blocks", "hit_tokens", "block_size"):
        assert getattr(found.reuse, key) == anchor[key], key
    assert round(found.reuse.token_hit_ratio, 6) == pytest.approx(anchor["token_hit_ratio"], abs=5e-7)


def test_mooncake_conversation(traces, anchors):
    trace, found = described(traces / "mooncake-conversation" / "conversation_trace.jsonl", lru=True)
    anchor = anchors["mooncake-conversation"]
    assert trace.report.dropped == {}
    check_reuse(found, anchor)
    assert found.output_tokens.total == anchor["output_tokens"]
    assert {str(c): round(ratio, 6) for c, ratio in found.lru.hit_ratio.items()} == anchor["lru"]
    assert (round(found.input_tokens.mean), found.input_tokens.p50, round(found.input_tokens.p99)) == (
        12_035,
        6_909,
        85_400,
    )
    assert (round(found.output_tokens.mean), found.output_tokens.p50, round(found.output_tokens.p99, 1)) == (
        343,
        350,
        1_118.5,
    )
    when = found.timing
    assert (round(when.span_s), round(when.rate_per_s, 2)) == (3_537, 3.40)
    assert (round(when.gap_cv, 2), round(when.dispersion, 1)) == (3.03, 7.9)
    assert (when.distinct_arrivals, when.largest_clump) == (1_180, 28)


def test_mooncake_conversation_smoothed(traces):
    _, found = described(traces / "mooncake-conversation" / "conversation_trace.jsonl", smooth=True)
    assert found.timing.largest_clump == 1
    assert found.timing.gap_cv < 1.5
    assert found.reuse.hit_tokens == 54_063_104


def test_azure_2023(traces):
    trace, found = described(traces / "azure2023-conv" / "AzureLLMInferenceTrace_conv.csv")
    assert (trace.report.rows, found.requests) == (19_366, 19_366)
    assert (round(found.timing.span_s), round(found.timing.rate_per_s, 2)) == (3_502, 5.53)
    assert (round(found.input_tokens.mean), found.input_tokens.p50, found.input_tokens.p99) == (
        1_155,
        1_020,
        4_142,
    )
    assert (round(found.output_tokens.mean), found.output_tokens.p50, found.output_tokens.p99) == (
        211,
        129,
        601,
    )
    assert (round(found.timing.gap_cv, 2), round(found.timing.dispersion, 2)) == (1.09, 1.39)
    assert (found.timing.busiest_minute, found.timing.quietest_minute) == (507, 191)
    assert found.reuse is None


def test_vidur_lengths(traces):
    folder = traces / "vidur-arxiv-summarization"
    trace, found = described(next(folder.glob("*.csv")))
    assert trace.format == "csv"
    assert found.requests == 28_257
    assert (round(found.input_tokens.mean), found.input_tokens.p50, round(found.input_tokens.p99)) == (
        2_588,
        2_730,
        3_933,
    )
    assert (round(found.output_tokens.mean), found.output_tokens.p50, round(found.output_tokens.p99)) == (
        291,
        167,
        3_271,
    )


@pytest.mark.slow
def test_weka_sessions(traces, anchors):
    archive = traces / "weka-cc-v8-dev" / "weka-cc-v8-odd.tar.zst"
    trace, found = described(archive, clamp_outputs=True)
    assert trace.format == "weka"
    check_reuse(found, anchors["weka-cc-v8-dev"])
    assert found.sessions == 350
    # Zero outputs were raised to 1, so the sum of the file is lower by their number.
    assert (
        found.output_tokens.total - trace.report.clamped_outputs == anchors["weka-cc-v8-dev"]["output_tokens"]
    )
    assert (round(found.input_tokens.mean), found.input_tokens.p50, round(found.input_tokens.p99)) == (
        117_235,
        100_802,
        511_604,
    )


def test_tracelab_example(traces):
    trace, found = described(traces / "tracelab-example" / "round_trace.jsonl")
    assert (found.requests, found.sessions) == (19, 2)
    assert (round(found.input_tokens.mean), round(found.output_tokens.mean)) == (27_053, 597)
    assert any("(92.1%)" in note for note in trace.report.remarks())


def test_otel_fixtures(traces):
    folder = traces / "otel-fixtures"
    trace, found = described(folder / "prefix_sharing_example.json")
    assert (trace.format, found.requests) == ("otel", 7)
    with pytest.raises(Exception, match=r"no token counts \(gen_ai.usage"):
        described(folder / "simple_chain.json")


@pytest.mark.slow
def test_servegen_parameters(traces):
    trace, found = described(traces / "servegen-mm-image" / "mm-image.tar.zst", limit=60_000)
    assert trace.format == "servegen"
    assert any("35 clients" in note for note in trace.report.remarks())
    assert found.requests == 60_000


def test_workloads_of_the_recordings(shared):
    for path in sorted((shared / "data" / "golden" / "workloads").glob("*.jsonl")):
        trace, found = described(path)
        assert trace.format == "tokens"
        assert found.requests == len(path.read_text().splitlines())
        assert trace.report.dropped == {}
