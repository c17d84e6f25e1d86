"""Figures of strategies: names and values as people read them, and what several replicas come to together."""

from __future__ import annotations

import io

import pytest

from kvplan.reporting.console import summary_table
from kvplan.reporting.html import render_html
from kvplan.reporting.loading import parse_result
from kvplan.reporting.markdown import render_markdown
from kvplan.reporting.schema.outcome import Metric
from kvplan.reporting.strategies import figure_name, replica_tables, strategies_tables, together


def metric(name: str, value, unit: str = "1") -> Metric:
    return Metric(name=name, value=value, unit=unit, meaning=f"what {name} means")


@pytest.mark.parametrize(
    ("name", "unit", "shown"),
    [
        ("load_s", "s", "Load time"),
        ("to_host_busy_s", "s", "To host busy time"),
        ("moved_bytes", "bytes", "Moved bytes"),
        ("replicas_s", "1", "Replicas s"),
        ("kv_s", "s", "KV time"),
    ],
)
def test_no_figure_is_called_by_the_sign_of_its_unit(name: str, unit: str, shown: str):
    assert figure_name(metric(name, 1, unit)) == shown


@pytest.mark.parametrize(
    ("one", "other", "unit", "shown"),
    [
        (3, 4, "blocks", "7 blocks"),
        (3, 3, "blocks", "3 blocks each"),
        (0, 0, "blocks", "0 blocks"),
        (1 << 30, 1 << 29, "bytes", "1.50 GiB"),
        (0.5, 0.0625, "s", "562 ms"),
        (2, 5, "1", "7"),
        (0.25, 0.5, "1", "25.0% to 50.0%"),
        (0.5, 0, "1", "0 to 50.0%"),
        (0.25, 0.25001, "1", "25.0% each"),
        ("lru", "lru", "", "lru"),
        ("lru", "lfu", "", "lru, lfu"),
        (None, None, "s", "–"),
        (None, 2.0, "s", "–, 2.00 s"),
    ],
)
def test_what_adds_up_is_added_up(one, other, unit: str, shown: str):
    found = list(together([("a 0", [metric("x", one, unit)]), ("a 1", [metric("x", other, unit)])]))
    assert [text for _, text in found] == [shown]


def test_peaks_are_not_added_up():
    sections = [("a 0", [metric("peak_blocks", 30, "blocks")]), ("a 1", [metric("peak_blocks", 4, "blocks")])]
    assert [text for _, text in together(sections)] == ["4 to 30 blocks"]


def replicated(result_document, replicas: int):
    document = result_document()
    document["strategies"] = {
        f"tiers {index}": [
            {"name": "load_s", "value": 0.5 + index, "unit": "s", "meaning": "waited"},
            *({"name": f"none_{i}", "value": 0, "unit": "blocks", "meaning": "nothing"} for i in range(5)),
        ]
        for index in range(replicas)
    }
    return parse_result(document)


def test_replicas_are_one_table_and_each_one_below(result_document):
    result = replicated(result_document, 3)
    (whole,) = strategies_tables(result)
    assert whole.caption == "Tiers, 3 replicas together"
    assert whole.rows[0] == ("Load time", "4.50 s", "waited")
    assert [table.caption for table in replica_tables(result)] == ["Tiers 0", "Tiers 1", "Tiers 2"]
    page, text = render_html(result), render_markdown(result)
    assert page.index("Tiers, 3 replicas together") < page.index("Each replica") < page.index("Tiers 2")
    assert text.index("Tiers, 3 replicas together") < text.index("Tiers 2")


def test_ranks_are_called_so(result_document):
    document = result_document()
    told = [{"name": "slots", "value": 4, "unit": "states", "meaning": ""}]
    document["strategies"] = {"dp_attention": told, "recurrent states 0": told, "recurrent states 1": told}
    result = parse_result(document)
    assert strategies_tables(result)[1].caption == "Recurrent states, 2 ranks together"
    assert "Each rank<" in render_html(result)


def test_ranks_of_prefill_and_decode_pools_are_one_table_a_pool(result_document):
    document = result_document()
    told = [{"name": "slots", "value": 4, "unit": "states", "meaning": ""}]
    names = [
        "disaggregation", "dp_attention prefill 0", "dp_attention prefill 1",
        *(f"recurrent states {rank} prefill {server}" for server in range(2) for rank in range(2)),
        "recurrent states decode 0", "recurrent states decode 1",
    ]  # fmt: skip
    document["strategies"] = dict.fromkeys(names, told)
    assert [table.caption for table in strategies_tables(parse_result(document))] == [
        "Disaggregation",
        "DP attention prefill, 2 instances together",
        "Recurrent states prefill, 4 ranks together",
        "Recurrent states decode, 2 instances together",
    ]


def test_hits_of_a_run_with_tiers_are_said_to_be_those_of_the_gpu(result_document):
    from kvplan.reporting.verdict import verdict

    document = result_document()
    queried = document["totals"]["queried_tokens"]
    share = {"name": "cached_tokens", "unit": "tokens", "meaning": ""}
    document["strategies"] = {f"tiers {n}": [{**share, "value": queried // 4 + n}] for n in (0, 1)}
    with_tiers, without = parse_result(document), parse_result(result_document())
    said = "found in the prefix cache on the GPU, 50.0% there or in a tier below it."
    assert said in " ".join(verdict(with_tiers).detail)
    assert "found in the prefix cache." in " ".join(verdict(without).detail)
    assert "on the GPU, 50.0% with the tiers" in render_html(with_tiers)
    assert "on the GPU" not in render_markdown(without).partition("## Inputs")[0]


def test_one_section_stays_as_it_is(result_document):
    result = replicated(result_document, 1)
    assert [table.caption for table in strategies_tables(result)] == ["Tiers 0"]
    assert replica_tables(result) == []
    assert "Each replica" not in render_html(result)


def test_replicas_with_other_figures_are_kept_apart(result_document):
    document = result_document()
    one = {"name": "a", "value": 1, "unit": "1", "meaning": ""}
    document["strategies"] = {"x 0": [one], "x 1": [one | {"name": "b"}]}
    assert [table.caption for table in strategies_tables(parse_result(document))] == ["X 0", "X 1"]


def test_the_terminal_has_them_together_and_zeros_on_a_line(result_document):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=80, color_system=None).print(summary_table(replicated(result_document, 2)))
    shown = stream.getvalue()
    assert "Tiers, 2 replicas together" in shown
    assert "Tiers 0" not in shown
    assert "  Load time  2.00 s  waited\n" in shown
    assert "  Zero: none 0, none 1, none 2, none 3, none 4\n" in shown
