"""Markdown, CSV and the terminal: golden text, safety, width."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from kvplan.errors import DataError
from kvplan.reporting.console import _intervals, summary_table
from kvplan.reporting.loading import parse_result
from kvplan.reporting.markdown import escape, markdown_pictures, render_markdown
from kvplan.reporting.result_csv import COLUMNS, result_csv
from kvplan.reporting.tables import Table, series_table

GOLDEN = Path(__file__).parent / "golden"


def _golden(name: str, text: str) -> None:
    """Compare with a committed file; ``KVPLAN_UPDATE_GOLDEN=1`` rewrites it, for review in the diff."""
    path = GOLDEN / name
    if os.environ.get("KVPLAN_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def _console(result, *, encoding: str = "utf-8", width: int = 80, color: bool = False) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(
        file=stream, width=width, force_terminal=color, color_system="truecolor" if color else None,
        highlight=False, emoji=False,
    )  # fmt: skip
    console.print(summary_table(result))
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("variant", ["full", "no_model", "empty", "incomplete", "strategies"])
def test_markdown_is_as_committed(result_document, variant: str):
    _golden(f"{variant}.md", render_markdown(parse_result(result_document(variant)), pictures="report"))


def test_drawings_are_as_committed(result_document):
    pictures = markdown_pictures(parse_result(result_document()), "report")
    for name in ("report-memory.svg", "report-capacity.svg"):
        _golden(name, pictures[name])


def test_csv_is_as_committed(result_document):
    for variant in ("full", "strategies"):
        _golden(f"{variant}.csv", result_csv(parse_result(result_document(variant))))


def test_inputs_are_named_as_the_scenario_names_them(result_document):
    document = result_document()
    document["assumptions"].append({"name": "engine.max_num_seqs", "value": 256, "source": "default"})
    assert "| engine.max_num_seqs | 256 |" in render_markdown(parse_result(document))


def test_summary_is_as_committed(result_document):
    for variant in ("full", "slo_missed", "empty", "strategies"):
        _golden(f"{variant}.txt", _console(parse_result(result_document(variant))))


def test_markdown_links_exactly_its_drawings(any_document):
    result = parse_result(any_document)
    linked = re.findall(r"^!\[.*\]\((.+)\)$", render_markdown(result, pictures="r"), flags=re.M)
    assert linked == list(markdown_pictures(result, "r"))
    assert "](" not in re.sub(r"```.*?```", "", render_markdown(result), flags=re.S)


def test_markdown_tables_are_rectangular(any_document):
    text = render_markdown(parse_result(any_document))
    for block in text.split("\n\n"):
        if block.startswith("| "):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1


def test_markdown_holds_no_html_from_outside(result_document):
    text = render_markdown(parse_result(result_document("hostile")))
    fenced = re.compile(r"```sh\n.*\n```")
    assert fenced.search(text)
    assert "<" not in fenced.sub("", text)
    assert "\x1b" not in text
    assert escape("a|b*c`d[e](f)<g>") == r"a\|b\*c\`d\[e\](f)&lt;g&gt;"


def test_csv_rows_are_whole_and_inert(any_document):
    rows = list(csv.reader(io.StringIO(result_csv(parse_result(any_document)))))
    assert tuple(rows[0]) == COLUMNS
    assert all(len(row) == 5 for row in rows)
    ours = [row for row in rows[1:] if not row[0].startswith(("strategy ", "'"))]
    assert all(row[3] in ("", "true", "false") or float(row[3]) >= 0 for row in ours)
    assert not any(cell[:1] in ("=", "@", "+") for row in rows for cell in row)


def test_csv_text_is_no_spreadsheet_formula(result_document):
    document = result_document()
    document["memory"]["bill"][0]["name"] = "=1+1"
    rows = list(csv.reader(io.StringIO(result_csv(parse_result(document)))))
    assert next(row[1] for row in rows if row[0] == "memory") == "'=1+1"


def test_summary_fits_80_columns(any_document):
    lines = _console(parse_result(any_document)).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines[1:] if not re.search("─", line))


def test_summary_survives_a_terminal_without_utf8(any_document):
    text = _console(parse_result(any_document), encoding="ascii")
    assert text.isascii()


def test_summary_marks_objectives(result_document):
    text = _console(parse_result(result_document("slo_missed")))
    assert "✗ TTFT p99 891 ms, over 500 ms" in text
    assert "✓ TPOT p99 30.8 ms, within 50.0 ms" in text
    assert "x TTFT p99 891 ms" in _console(parse_result(result_document("slo_missed")), encoding="ascii")


def test_summary_reads_no_markup_and_no_escape_codes(result_document):
    text = _console(parse_result(result_document("hostile")))
    assert "[red]|pipe|`code`[/red]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_summary_counts_the_warnings_it_leaves_out(result_document):
    assert "492 more warnings in the result" in _console(parse_result(result_document("crowded")))


def test_colour_is_only_added(result_document):
    result = parse_result(result_document())
    coloured = re.sub(r"\x1b\[[0-9;]*m", "", _console(result, color=True))
    assert coloured == _console(result)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("totals", "steps"), 10**400),
        (("memory", "total_bytes"), 10**400),
        (("totals", "makespan_s"), 1e308),
        (("capacity", 0, "points", 0, "max_concurrency"), 1e308),
        (("capacity", 0, "points", 0, "context_tokens"), 10**400),
    ],
)
def test_impossible_numbers_are_refused(result_document, path, value):
    document = node = result_document()
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(DataError, match="less than or equal"):
        parse_result(document)


def test_names_of_objectives_are_escaped(result_document):
    document = result_document()
    document["slo"][0]["name"] = "<img src=x onerror=alert(1)>|x"
    assert "<img" not in render_markdown(parse_result(document))


def test_summary_says_what_reading_the_trace_had_to_say(result_document):
    document = result_document()
    document["trace"]["notes"] = [
        "reuse unknown: the trace has no block ids",
        "no arrival times\x1b in the trace",
    ]
    text = _console(parse_result(document))
    assert "- Trace: no arrival times\ufffd in the trace" in text
    assert "reuse unknown" not in text


def test_intervals_from_seconds_to_minutes_are_whole_at_80_columns():
    names = ("90% interval", "Mean", "p50", "p90", "p99")
    shown = Table("", names, tuple((name, *["64.3 s–2.07 min"] * 4) for name in ("TTFT", "TPOT", "E2E")))
    console = Console(file=io.StringIO(), width=80)
    console.print(_intervals(shown, lambda text, style="": Text(text), 80))
    text = console.file.getvalue()
    assert text.count("64.3 s–2.07 min") == 12
    assert all(len(line) <= 80 for line in text.splitlines())


def test_inputs_tell_what_was_chosen_from_defaults(result_document):
    from kvplan.reporting.tables import inputs_table

    document = result_document()
    document["scenario"]["engine"] |= {"max_num_seqs": 64}
    document["pool"]["block_size"] = 64
    document["scenario"]["cache"]["block_size"] = 16
    rows = inputs_table(parse_result(document)).rows
    engine = [row[1:] for row in rows if row[0] == "Engine"]
    assert ("kind vllm, version 0.33", "default") in engine
    assert any(value.startswith("max_num_seqs 64") and source == "scenario" for value, source in engine)
    assert ("Seed", "0", "default") in rows
    assert ("Parallelism", "tp 1", "default") in rows
    assert ("Cache", "block_size 64", "effective, from 16") in rows
    document["scenario"]["cache"]["block_size"] = None
    assert ("Cache", "block_size 64", "default") in inputs_table(parse_result(document)).rows


def test_a_name_of_capitals_keeps_them_in_a_sentence(result_document):
    document = result_document()
    names = ("ttft_queue_p50", "moved_blocks", "kv_bytes", "waits")
    document["strategies"] = {
        "links": [{"name": name, "value": 0, "unit": "blocks", "meaning": ""} for name in names]
    }
    assert "Zero: TTFT queue p50, moved blocks, KV bytes, waits" in _console(parse_result(document))


def test_hits_that_nobody_can_know_are_not_zero(result_document):
    from kvplan.reporting.html import render_html

    unknown = parse_result(result_document("no_reuse"))
    assert re.search(r"Prefix hits +not known: the trace does not say what prompts share", _console(unknown))
    assert "not known: the trace does not say" in render_html(unknown)
    text = render_markdown(unknown)
    assert "No hit ratio: the trace does not say what prompts share." in text
    assert "what prompts share is not known" in text
    assert "0.0% of the looked-up" not in text
    assert [row[5] for row in series_table(unknown).rows] == ["–"] * 12
    assert "hit_ratio" not in result_csv(unknown)
    found = result_document("no_reuse")
    found["totals"]["hit_tokens"] = 640  # of a request with itself, once it was preempted
    assert "not known: the trace" not in _console(parse_result(found))
