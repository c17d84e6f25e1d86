"""The tables of a sweep: every point is a row, numbers have units, text from outside stays text."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
import yaml

from kvplan.reporting.csv import table_csv
from kvplan.reporting.schema.sweep import Sweep
from kvplan.reporting.sweep import (
    GROUPS,
    legend,
    point_table,
    remarks,
    sweep_csv,
)
from kvplan.reporting.sweep_text import sweep_markdown
from kvplan.scenario.figures import FIGURES

FIGURES_OF_ONE = {
    "finished": 98, "rejected": 2, "timed_out": 0, "unfinished": 0, "hit_ratio": 0.3821, "ttft_p50_s": 0.0456, "ttft_p99_s": 1.5,
    "tpot_p50_s": 0.012, "tpot_p99_s": None, "output_tokens_per_s": 512.0, "preemptions": 1234,
    "evicted_blocks": 8_862_419, "moved_bytes": 3 << 30, "peak_used_blocks": 28_000, "peak_used_bytes": None,
    "makespan_s": 60.0, "slo_met": False,
}  # fmt: skip


WRITTEN = {
    "schema": "kvplan.sweep/1", "complete": False, "scenario": {"model": "<i>m</i>"},
    "provenance": {"command": "kvplan sweep", "seed": 0, "inputs": [], "versions": {}},
}  # fmt: skip
"""What a whole document has besides."""


def document() -> dict[str, Any]:
    failure = {
        "code": "usage",
        "message": "<b>no</b> | \x1b[31m",
        "where": "=x",
        "hint": None,
        "exit_code": 2,
    }
    return {
        "axes": [{"key": "cache.blocks", "values": [1, 2]}, {"key": "a.blocks", "values": ["=1+1", None]}],
        "points": [
            {"point": 1, "values": {"cache.blocks": 1, "a.blocks": "=1+1"}, "status": "done",
             "figures": FIGURES_OF_ONE, "error": None},
            {"point": 2, "values": {"cache.blocks": 1, "a.blocks": None}, "status": "failed", "figures": None,
             "error": failure},
            {"point": 3, "values": {"cache.blocks": 2, "a.blocks": "=1+1"}, "status": "failed", "figures": None,
             "error": failure},
            {"point": 4, "values": {"cache.blocks": 2, "a.blocks": None}, "status": "not run", "figures": None,
             "error": None},
        ],
    }  # fmt: skip


def test_a_row_a_point_with_units() -> None:
    table = point_table(document())
    assert table.columns[:3] == ("Point", "cache.blocks", "a.blocks")  # both end alike, so both are whole
    assert table.rows[0] == (
        "1", "1", "=1+1", "38.2%", "45.6 ms", "1.50 s", "12.0 ms", "–", "512", "1,234", "8,862,419 blocks",
        "3.00 GiB", "28,000 blocks",
    )  # fmt: skip
    assert [row[3] for row in table.rows] == ["38.2%", "failed", "failed", "not run"]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_what_is_evicted_compares_between_blocks_of_several_sizes() -> None:
    asked = document()
    asked["points"][0]["figures"] = FIGURES_OF_ONE | {"evicted_bytes": 5 << 30, "peak_used_bytes": 1 << 30}
    table = point_table(asked)
    assert table.rows[0][table.columns.index("Evicted")] == "5.00 GiB"
    assert table.rows[0][table.columns.index("Peak KV")] == "1.00 GiB"


def test_groups_have_all_columns_once() -> None:
    whole = point_table(document()).columns[3:]
    assert whole == tuple(
        name for group in range(len(GROUPS)) for name in point_table(document(), group).columns[3:]
    )
    assert point_table(document(), 0, axes=False).columns[0:2] == ("Point", "Hits")


def test_equal_remarks_are_said_once() -> None:
    assert remarks(document()) == [
        "point 1: not all served: 2 rejected",
        "point 1: a service-level objective is missed",
        "points 2 and 3: failed, =x: <b>no</b> | \ufffd[31m",
        "point 4: not run: the sweep was interrupted",
    ]


def test_csv_is_raw_and_inert() -> None:
    columns, *rows = csv.reader(io.StringIO(sweep_csv(document())))
    assert columns == ["point", "cache.blocks", "a.blocks", "status", *FIGURES, "error"]
    assert all(len(row) == len(columns) for row in rows)
    first = dict(zip(columns, rows[0], strict=True))
    assert first["a.blocks"] == "'=1+1"
    assert first["hit_ratio"] == "0.3821"
    assert first["tpot_p99_s"] == ""
    assert first["slo_met"] == "false"


def test_settings_of_several_fields_are_whole_and_as_a_scenario_file_holds_them() -> None:
    groups = [{"kind": "sliding", "window": 128 * number, "block_size": 16} for number in range(1, 9)]
    cell = next(csv.reader(io.StringIO(table_csv([], [[groups]]).lstrip())))
    assert yaml.safe_load(cell[0].replace(":", ": ")) == groups


@pytest.mark.parametrize("text", ["+4.5%", "-12", "−3"])
def test_numbers_with_a_sign_are_no_formulas(text: str) -> None:
    assert table_csv(["change"], [[text]]) == f"change\n{text}\n"


def test_markdown_holds_no_html_from_outside() -> None:
    text = sweep_markdown(Sweep.model_validate({**document(), **WRITTEN}))
    assert "<" not in text
    assert "\x1b" not in text
    assert text.count("\n| ") == 1 + 1 + 4


def test_the_legend_says_what_a_point_is() -> None:
    assert (
        legend((point["point"], point["values"]) for point in document()["points"])[1]
        == "2: cache.blocks=1, a.blocks=null"
    )


def test_warnings_are_said_once_and_whose_they_are() -> None:
    warned = document()
    for number, texts in enumerate((["slow"], ["slow", "short"], ["slow"])):
        warned["points"][number] |= {
            "figures": {**FIGURES_OF_ONE, "rejected": 0},
            "error": None,
            "warnings": texts,
        }
    assert remarks(warned)[-2:] == ["slow", "point 2: short"]
    warned["points"][0]["warnings"] = []
    assert remarks(warned)[-2:] == ["points 2 and 3: slow", "point 2: short"]
