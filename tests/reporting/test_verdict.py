"""The answer in words follows from the figures."""

from __future__ import annotations

import pytest

from kvplan.reporting.cautions import cautions, close_call, unknowns
from kvplan.reporting.loading import parse_result
from kvplan.reporting.verdict import verdict


@pytest.mark.parametrize(
    ("variant", "headline", "tone"),
    [
        ("full", "llama-3.1-8b on h100-sxm serves all 1,000 requests within its latency limits.", "met"),
        ("no_slo", "llama-3.1-8b on h100-sxm serves all 1,000 requests.", "neutral"),
        ("no_model", "The simulated engine serves all 1,000 requests within its latency limits.", "met"),
        ("no_gpu", "llama-3.1-8b serves all 1,000 requests within its latency limits.", "met"),
        (
            "slo_missed",
            "llama-3.1-8b on h100-sxm misses its TTFT p99 limit: 891 ms against 500 ms.",
            "missed",
        ),
        ("empty", "No request was simulated.", "partial"),
        ("incomplete", "The run stopped early: 312 of 1,000 requests finished.", "partial"),
        (
            "rejecting",
            "llama-3.1-8b on h100-sxm serves 982 of 1,000 requests within its latency limits and rejects 18.",
            "partial",
        ),
        ("one_request", "llama-3.1-8b on h100-sxm serves its one request.", "neutral"),
    ],
)
def test_headline(result_document, variant: str, headline: str, tone: str):
    said = verdict(parse_result(result_document(variant)))
    assert said.headline == headline
    assert said.tone == tone


def test_several_misses_are_counted(result_document):
    document = result_document()
    for slo in document["slo"]:
        slo["passed"] = False
    document["gpu"]["count"] = 4
    said = verdict(parse_result(document))
    assert said.headline == "llama-3.1-8b on 4 x h100-sxm misses both its latency limits."


def test_nothing_finished_is_said(result_document):
    document = result_document("no_slo")
    document["totals"] |= {"finished": 0, "rejected": 1000}
    said = verdict(parse_result(document))
    assert said.headline == "llama-3.1-8b on h100-sxm serves none of the 1,000 requests."
    assert said.tone == "missed"
    assert said.detail[0].startswith("None was finished.")
    document["warnings"].append("1,000 requests rejected: needs more blocks than the pool has")
    detail = verdict(parse_result(document)).detail
    assert detail[0].startswith("Every request was turned away: needs more blocks than the pool has.")


def test_every_objective_has_a_chip_with_its_own_outcome(result_document):
    first, second = verdict(parse_result(result_document("slo_missed"))).chips
    assert (first.name, first.relation, first.limit, first.passed) == ("TTFT p99", "over", "500 ms", False)
    assert (second.name, second.relation, second.limit, second.passed) == (
        "TPOT p99",
        "within",
        "50.0 ms",
        True,
    )
    no_value = verdict(parse_result(result_document("empty"))).chips[0]
    assert (no_value.value, no_value.relation, no_value.passed) == ("no value", "limit", False)


def test_detail_gives_hit_ratio_and_percentiles(result_document):
    text = " ".join(verdict(parse_result(result_document())).detail)
    assert "TTFT 891 ms, TPOT 30.8 ms and end to end 16.6 s" in text
    assert "41.4% of the prompt tokens" in text
    assert "84.8% of the KV pool" in text
    silent = result_document("no_reuse")
    assert "Hits in the prefix cache are not known" in " ".join(verdict(parse_result(silent)).detail)
    silent["trace"]["reuse_known"] = True
    assert "No prompt token was found" in " ".join(verdict(parse_result(silent)).detail)


def test_cautions_name_what_this_run_suffers_from(result_document):
    def said(variant: str) -> str:
        return " ".join(cautions(parse_result(result_document(variant))))

    assert "incomplete" in said("incomplete")
    assert "had brought 1,000 requests; the 312 served" in " ".join(
        verdict(parse_result(result_document("incomplete"))).detail
    )
    assert "688 requests unfinished" not in said("incomplete")  # the first caution covers them
    assert "18 requests were rejected and are in no latency" in said("rejecting")
    assert "which prompts share content" in said("no_reuse")
    assert "3 rows of the trace dropped: 2 for “no output tokens” and 1 for" in said("full")
    assert "rests on the slowest request of 1" in said("one_request")


def test_a_limit_inside_the_accuracy_band_is_too_close_to_call(result_document):
    document = result_document()
    document["slo"][0]["limit_s"] = document["slo"][0]["value_s"] * 1.2
    result = parse_result(document)
    assert close_call(result, result.slo[0])
    assert any("TTFT p99 is too close to call" in text for text in cautions(result))
    clear = parse_result(result_document())
    assert not any(close_call(clear, slo) for slo in clear.slo)


def test_the_interval_decides_what_is_too_close_and_the_band_only_without_one(result_document):
    document = result_document()
    slo = document["slo"][0]
    slo["limit_s"] = slo["value_s"] * 1.35  # outside the band of +30 %, inside the interval up to 1.4
    result = parse_result(document)
    assert close_call(result, result.slo[0])
    assert any("90% interval of 624 ms–1.25 s" in text for text in cautions(result))
    document["accuracy"]["intervals"] = None
    assert not close_call(parse_result(document), parse_result(document).slo[0])
    slo["limit_s"] = slo["value_s"] * 1.25
    assert any("accuracy band" in text for text in cautions(parse_result(document)))


def test_client_overhead_is_no_unknown_where_it_is_in_the_figures(result_document):
    document = result_document()
    assert any("are in no latency" in text for text in unknowns(parse_result(document)))
    document["assumptions"].append({"name": "latency.client_overhead_s", "value": 0.015, "source": "assumed"})
    said = unknowns(parse_result(document))
    assert any("15.0 ms a request" in text for text in said)
    assert not any("are in no latency" in text for text in said)


def test_unknowns_depend_on_the_latency_model(result_document):
    assert any("straight line" in text for text in unknowns(parse_result(result_document("no_model"))))
    assert any("datasheet" in text for text in unknowns(parse_result(result_document())))


def test_every_dropped_row_is_accounted_for(result_document):
    document = result_document()
    dropped = {f"reason {n}": n for n in range(1, 6)}
    document["trace"] |= {"dropped": dropped, "rows_read": document["trace"]["requests"] + 15}
    (said,) = [note for note in cautions(parse_result(document)) if "dropped" in note]
    assert said.startswith("15 rows of the trace dropped: 5 for “reason 5”, 4 for")
    assert said.endswith("and 3 for 2 other reasons.")


def drowning(document: dict) -> dict:
    document["totals"] |= {"peak_waiting": 122}
    document["offered"] = {
        "requests": 1000, "prompt_tokens": 12_035_118, "output_tokens": 343_512, "tokens_mean": 12_378.6,
        "tokens_p99": 30_000.0, "requests_per_s": 3.384, "sustained_per_s": 2.031, "saturated": True,
    }  # fmt: skip
    return document


def test_saturation_is_the_headline(result_document):
    said = verdict(parse_result(drowning(result_document("no_slo"))))
    assert said.tone == "partial"
    assert said.headline == (
        "llama-3.1-8b on h100-sxm is saturated: 3.38 requests/s offered, 2.03 sustained; the queue grew to 122."
    )


def test_saturation_stands_beside_the_limits(result_document):
    met = verdict(parse_result(drowning(result_document())))
    assert met.headline.startswith("llama-3.1-8b on h100-sxm is saturated")
    assert met.tone == "partial"
    assert met.detail[0] == "Its latency limits are met in this run, and would not be in a longer one."
    missed = verdict(parse_result(drowning(result_document("slo_missed"))))
    assert missed.tone == "missed"
    assert missed.headline == (
        "llama-3.1-8b on h100-sxm misses its TTFT p99 limit: 891 ms against 500 ms. Saturated: 3.38 requests/s "
        "offered, 2.03 sustained; the queue grew to 122."
    )


def test_stated_bands_do_not_hold_when_saturated(result_document):
    document = drowning(result_document())
    assert not any("do not hold" in note for note in cautions(parse_result(document)))  # an ensemble does
    document["accuracy"]["ensemble"] = 0
    assert any("they do not hold" in note for note in cautions(parse_result(document)))


def test_an_interrupted_run_is_not_called_saturated(result_document):
    said = verdict(parse_result(drowning(result_document("incomplete"))))
    assert said.headline == "The run stopped early: 312 of 1,000 requests finished."


def test_an_engine_that_would_not_start_is_the_headline(result_document):
    document = drowning(result_document())
    document["memory"] |= {"starts": False, "longest_request": 17_872, "max_concurrency_context": 131_072}
    said = verdict(parse_result(document))
    assert said.tone == "missed"
    assert said.headline == (
        "llama-3.1-8b on h100-sxm would not start as configured: its KV pool has no room for one request of "
        "131,072 tokens. Add --set engine.max_model_len=17872, the longest that fits."
    )
    assert said.detail[:2] == (
        "Simulated without that check, it serves all 1,000 requests.",
        "It is saturated: 3.38 requests/s offered, 2.03 sustained; the queue grew to 122.",
    )
    document["memory"]["longest_request"] = 0
    assert "Add" not in verdict(parse_result(document)).headline


def test_few_served_are_no_success(result_document):
    document = result_document("no_slo")
    document["totals"] |= {
        "finished": 8, "rejected": 290, "timed_out": 702, "prompt_tokens": 96_772, "output_tokens": 1_103,
    }  # fmt: skip
    said = verdict(parse_result(document))
    assert said.tone == "missed"
    assert said.headline == (
        "llama-3.1-8b on h100-sxm serves only 8 of 1,000 requests and rejects 290; clients gave up on 702."
    )
    assert said.detail[0].startswith(
        "conversation_trace.jsonl brings 1,000 requests; the 8 served have 96,772 prompt and 1,103 output"
    )
    assert "At the 99th percentile of the 8 that were served:" in said.detail[1]


def test_what_was_offered_is_told_from_what_was_served(result_document):
    document = drowning(result_document("no_slo"))
    document["offered"] |= {"saturated": False, "sustained_per_s": None}
    document["totals"] |= {"finished": 982, "rejected": 18, "prompt_tokens": 11_000_000}
    said = verdict(parse_result(document)).detail[0]
    assert "1,000 requests with 12,035,118 prompt and 343,512 output tokens; 982 were served, with" in said
    assert "11,000,000 prompt" in said


def test_a_limit_met_by_less_than_the_error_is_open(result_document):
    document = result_document()
    document["slo"][0]["limit_s"] = document["slo"][0]["value_s"] * 1.2
    said = verdict(parse_result(document))
    assert said.tone == "partial"
    assert said.headline.endswith("within its latency limits, but TTFT p99 is too close to call.")
    assert [chip.outcome for chip in said.chips] == ["close", "met"]
    document["slo"][0] |= {"limit_s": document["slo"][0]["value_s"] * 0.9, "passed": False}
    said = verdict(parse_result(document))
    assert said.headline.endswith("891 ms against 802 ms, too close to call.")
    assert said.tone == "missed"


def test_a_limit_nobody_reached_says_so(result_document):
    document = result_document()
    document["slo"][0] |= {"value_s": None, "passed": False}
    document["totals"] |= {"finished": 6, "timed_out": 994}
    said = verdict(parse_result(document))
    assert said.chips[0].value == "timed out"
    assert said.headline == (
        "llama-3.1-8b on h100-sxm misses its TTFT p99 limit: clients gave up on too many requests. It serves "
        "only 6 of 1,000 requests; clients gave up on 994."
    )


@pytest.mark.parametrize(("seconds", "short"), [(40.0, True), (9_999.0, False)])
def test_a_run_as_long_as_its_slowest_requests_flatters_its_rate(
    result_document, seconds: float, short: bool
):
    document = result_document("full")
    requests = document["totals"]["requests"]
    document["offered"] = {
        "requests": requests, "prompt_tokens": 1, "output_tokens": 1, "tokens_mean": 2.0, "tokens_p99": 2.0,
        "requests_per_s": (requests - 1) / seconds, "sustained_per_s": None, "saturated": False,
    }  # fmt: skip
    said = cautions(parse_result(document))
    lifetimes = seconds / document["latency"]["e2e_s"]["p99"]
    assert short == (lifetimes < 10)
    assert any("may still have been filling up" in note for note in said) == short


@pytest.mark.parametrize(("dropped", "told"), [(99, False), (112, True), (9000, True)])
def test_a_trace_of_which_a_tenth_was_left_out_says_so_first(result_document, dropped: int, told: bool):
    document = result_document()
    document["trace"] |= {"dropped": {"not a number": dropped}, "rows_read": 1000 + dropped}
    said = verdict(parse_result(document))
    assert any("of the trace's" in line for line in said.beside) is told
    assert said.tone == ("partial" if told else "met")
    if dropped == 9000:
        assert said.beside[0] == (
            "9,000 of the trace's 10,000 rows (90.0%) were left out, for “not a number”: this answers for the "
            "others alone."
        )


@pytest.mark.parametrize(
    "reason", ["not a model call (no gen_ai or llm attributes)", "beyond the request limit"]
)
def test_rows_that_are_no_requests_are_not_missed(result_document, reason: str):
    document = result_document()
    document["trace"] |= {"dropped": {reason: 9000}, "rows_read": 10_000}
    assert not verdict(parse_result(document)).beside


def test_a_burst_is_not_taken_for_a_rate_that_is_served(result_document):
    """All came before the first could be answered: the run ends well, and says nothing of that rate."""
    document = result_document("no_slo")
    document["offered"] = {
        "requests": 1000, "prompt_tokens": 1_000_000, "output_tokens": 200_000, "tokens_mean": 1200.0,
        "tokens_p99": 3000.0, "requests_per_s": 999.0, "sustained_per_s": None, "saturated": False,
    }  # fmt: skip
    document["latency"]["queue_s"] |= {"p50": 54.0, "p90": 100.0, "p99": 110.0, "max": 120.0}
    result = parse_result(document)
    said = verdict(result)
    assert said.tone == "partial"
    assert said.headline == (
        "llama-3.1-8b on h100-sxm serves all 1,000 requests, but as one burst: they came within 1.00 s, and half "
        "of them waited 54.0 s or more for their turn."
    )
    assert any(note.startswith("All requests came within 1.00 s: one burst") for note in cautions(result))
    document["latency"]["queue_s"]["p50"] = 0.5
    assert verdict(parse_result(document)).headline == "llama-3.1-8b on h100-sxm serves all 1,000 requests."
