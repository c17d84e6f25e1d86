"""Traces that are not UTF-8: read where the whole file is of one byte a character."""

from __future__ import annotations

import json

import pytest

HEADERS = {
    "csv": "arrival_s,prompt_tokens,output_tokens,session\n",
    "records": "Start (s);prompt tokens;output tokens;session id;Größe\n",
}
CODINGS = ("cp1252", "latin-1", "iso8859-15", "cp1250")


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", HEADERS)
def test_tables_of_single_bytes_are_read(reading, coding, kind):
    mark = ";" if kind == "records" else ","
    end = f"{mark}ö" if kind == "records" else ""
    rows = [f"{i}{mark}1200{mark}10{mark}{'Jürgen' if i % 2 else 'Anna'}{end}\n" for i in range(6)]
    requests, trace = reading((HEADERS[kind] + "".join(rows)).encode(coding), "a.csv")
    assert [item.prompt_tokens for item in requests] == [1200] * 6
    assert [item.session for item in requests] == ["Anna", "Jürgen"] * 3
    assert any("taken for Windows-1252" in note for note in trace.report.notes)


def test_thousands_parted_by_the_space_that_does_not_break(reading):
    text = "start_s;prompt_tokens;output_tokens\n0;1\xa0200;10\n1;12\xa0345;10\n"
    requests, _ = reading(text.encode("cp1252"), "a.csv")
    assert [item.prompt_tokens for item in requests] == [1200, 12345]


@pytest.mark.parametrize("wrap", ["%s\n", "[%s]"])
def test_json_of_single_bytes_is_read(reading, wrap):
    row = {"start_s": 1, "prompt_tokens": 5, "output_tokens": 6, "session_id": "Jürgen"}
    rows = (",\n" if wrap[0] == "[" else "\n").join([json.dumps(row, ensure_ascii=False)] * 3)
    requests, trace = reading((wrap % rows).encode("latin-1"))
    assert [item.session for item in requests] == ["Jürgen"] * 3
    assert any("taken for Windows-1252" in note for note in trace.report.notes)


def test_a_damaged_line_of_utf_8_is_dropped(reading):
    text = (HEADERS["csv"] + "0,5,5,Jürgen\n").encode() + b"1,5,5,J\xfcrgen\n" + b"2,5,5,Anna\n"
    requests, trace = reading(text, "a.csv")
    assert len(requests) == 2
    assert {reason: entry.lines for reason, entry in trace.report.dropped.items()} == {"not UTF-8": [3]}


def test_utf_8_has_no_note(reading):
    _, trace = reading((HEADERS["csv"] + "0,5,5,Jürgen\n").encode(), "a.csv")
    assert not any("Windows-1252" in note for note in trace.report.notes)
