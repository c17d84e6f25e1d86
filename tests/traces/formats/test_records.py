"""Rows under the names that tools, logs and spreadsheets give them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from kvplan.errors import DataError
from kvplan.traces.request import Request, iterate_tokens

NAMES = [
    ("arrival_s", "prompt_tokens", "output_tokens"),
    ("Arrival Time (s)", "Prompt Tokens", "Output Tokens"),
    ("timestamp [s]", "ContextTokens", "GeneratedTokens"),
    ("start_time_s", "input_length", "output_length"),
    ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    ("request_time_sec", "num_prompt_tokens", "num_generation_tokens"),
    ("submittedAt seconds", "inputTokenCount", "outputTokenCount"),
    ("sent_at_s", "isl", "osl"),
    ("t_s", "in", "out"),
    ("request_created_at_s", "tokens_prompt", "tokens_completion"),
    ("Time Logged (s)", "in_tok", "out_tok"),
    ("event_timestamp_s", "promptTokenCount", "candidatesTokenCount"),
]
ROWS = [(0.0, 374, 44), (1.5, 1396, 109), (4.25, 50, 55)]


def lengths(requests: list[Request]) -> list[tuple[float, int, int]]:
    return [(round(item.arrival_s, 6), item.prompt_tokens, item.output_tokens) for item in requests]


def table(
    names: tuple[str, ...], rows: list[tuple[Any, ...]] = ROWS, mark: str = ",", end: str = "\n"
) -> str:
    return end.join(mark.join(map(str, row)) for row in [names, *rows]) + end


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables(reading, names, mark, end):
    requests, trace = reading("\ufeff" + table(names, mark=mark, end=end), "a.csv")
    assert lengths(requests) == ROWS
    assert not trace.reuse_known
    if trace.format == "records":
        assert any(f"answers from {names[2]!r}" in note for note in trace.report.notes)


@pytest.mark.parametrize("names", NAMES)
def test_objects_lines_and_arrays(reading, names):
    items = [dict(zip(names, row, strict=True)) for row in ROWS]
    lines = "".join(json.dumps(item) + "\n" for item in items)
    nested = [
        {"id": i, "request": {names[0]: a, names[1]: b}, "usage": {names[2]: c}}
        for i, (a, b, c) in enumerate(ROWS)
    ]
    for content in (
        lines, json.dumps(items), json.dumps(items, indent=2), json.dumps({"run": {"requests": items}, "n": 3}),
        json.dumps([items[:1], items[1:]]), "\n".join(json.dumps(item, indent=1) for item in items),
        "".join(json.dumps(item) + "\n" for item in nested),
    ):  # fmt: skip
        requests, _ = reading(content)
        assert lengths(requests) == ROWS, content[:60]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_commas_and_thousands(reading, mark):
    names = ("timestamp (s)", "prompt_tokens", "output_tokens")
    comma = [("0,000", 374, 44), ("1,500", "1.396", 109), ("4,250", 50, 55)]
    requests, trace = reading(table(names, comma, mark), "a.csv")
    assert lengths(requests) == ROWS
    assert "commas as decimal points" in trace.report.notes[0]
    grouped = [("0", 374, 44), ("1.5", '"1,396"', 109), ("4.25", "50", 55)]
    requests, trace = reading(table(names, grouped), "a.csv")
    assert lengths(requests) == ROWS
    assert "commas between thousands" in trace.report.notes[0]
    spaced = [(0.0, 374, 44), (1.5, "1 396", 109), (4.25, "50.0", 55)]
    assert lengths(reading(table(names, spaced, mark), "a.csv")[0]) == ROWS


@pytest.mark.parametrize(
    "rows",
    [
        [("1,500", 374, 44), ("2,750", 396, 109)],  # seconds or thousands of them
        [("0,5", "1,374", 44), ("2,75", 396, 109)],  # both
    ],
)
def test_commas_that_may_be_either_are_refused(reading, rows):
    with pytest.raises(DataError, match="comma") as caught:
        reading(table(("timestamp_s", "prompt_tokens", "output_tokens"), rows, ";"), "a.csv")
    assert "decimal points" in caught.value.hint


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["2024-05-10T13:00:00Z", "2024-05-10T13:00:01.5Z", "2024-05-10T15:00:04.25+02:00"], "as dates"),
        (["2024-05-10 13:00:00", "2024-05-10 13:00:01.500", "2024-05-10 13:00:04.25"], "as dates"),
        (["05/10/2024 1:00:00 PM", "05/10/2024 1:00:01.5 PM", "05/10/2024 1:00:04.25 PM"], "as dates"),
        (["May 10 2024 @ 13:00:00", "May 10 2024 @ 13:00:01.5", "May 10 2024 @ 13:00:04.25"], "as dates"),
        ([1715346000, 1715346001.5, 1715346004.25], "in seconds since 1970"),
        ([1715346000000, 1715346001500, 1715346004250], "in milliseconds since 1970"),
        ([1715346000000000, 1715346001500000, 1715346004250000], "in microseconds since 1970"),
        ([1715346000 * 10**9, 17153460015 * 10**8, 171534600425 * 10**7], "in nanoseconds since 1970"),
    ],
)
def test_dates_and_times_since_1970(reading, times, said):
    rows = [(time, *row[1:]) for time, row in zip(times, ROWS, strict=True)]
    for content in (
        table(("created_at", "input_tokens", "completion_tokens"), rows),
        json.dumps(
            [dict(zip(("timestamp", "input_tokens", "output_tokens"), row, strict=True)) for row in rows]
        ),
        table(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), rows, ";"),
    ):
        requests, trace = reading(content, "a.csv")
        assert lengths(requests) == ROWS
        assert any(said in note for note in trace.report.notes)


def test_dates_of_several_days_whose_day_may_be_the_month_are_refused(reading):
    rows = [("05/10/2024 13:00:00", 5, 5), ("06/10/2024 13:00:00", 5, 5)]
    with pytest.raises(DataError, match="either number may be the day"):
        reading(table(("time", "input_tokens", "output_tokens"), rows), "a.csv")


@pytest.mark.parametrize(
    "name", ["total_output_tokens", "max_output_tokens", "cached_output_tokens", "reasoning_output_tokens"]
)
def test_counts_of_something_else_are_not_the_answers(reading, name):
    with pytest.raises(DataError, match="tokens that answers have"):
        reading(table(("t_s", "input_tokens", name)), "a.csv")


def test_when_an_answer_was_made_is_no_arrival(reading):
    with pytest.raises(DataError, match="no column of arrival times"):
        reading(table(("response_created_at", "input_tokens", "output_tokens")), "a.csv")


def test_a_column_of_milliseconds_that_says_seconds_is_refused(reading):
    rows = [(1715346000000, 5, 5), (1715346000500, 5, 5)]
    with pytest.raises(DataError, match="says seconds, and its numbers are milliseconds since 1970"):
        reading(table(("created_s", "prompt_tokens", "output_tokens"), rows), "a.csv")


def test_two_columns_that_could_be_the_same(reading):
    names = ("arrival_s", "prompt_len", "input_tokens", "output_len")
    same = [(0.0, 5, 5, 1), (1.0, 6, 6, 2)]
    assert lengths(reading(table(names, same), "a.csv")[0]) == [(0.0, 5, 1), (1.0, 6, 2)]
    with pytest.raises(DataError, match="'input_tokens' and 'prompt_len' could both be a prompt's tokens"):
        reading(table(names, [(0.0, 5, 5, 1), (1.0, 6, 7, 2)]), "a.csv")


def test_two_clocks(reading):
    names = ("timestamp", "start_time", "prompt_len", "output_len")
    shifted = [(1715346000.0, 0.0, 5, 1), (1715346001.5, 1.5, 6, 2), (1715346002.0, 2.0, 6, 2)]
    assert [row[0] for row in lengths(reading(table(names, shifted), "a.csv")[0])] == [0.0, 1.5, 2.0]
    with pytest.raises(DataError, match="'start_time' and 'timestamp' could both be the arrival times"):
        reading(table(names, [(0.0, 0.0, 5, 1), (1.5, 9.5, 6, 2), (3.0, 10.0, 6, 2)]), "a.csv")
    # Of one that says arrival, the other says nothing.
    names = ("timestamp", "arrival_time_s", "prompt_len", "output_len")
    found = lengths(reading(table(names, [(7.0, 0.0, 5, 1), (8.5, 1.0, 6, 2)]), "a.csv")[0])
    assert [row[0] for row in found] == [0.0, 1.0]


def test_block_ids_that_are_texts_stand_for_their_own_content_wherever_they_are(reading):
    names = [["a", "b"], ["a", "c"], ["d", "b"], ["b", "a"]]
    items = [
        {"start_ms": 1000 * i, "input_tokens": 32, "output_tokens": 3, "block_hashes": ids}
        for i, ids in enumerate(names)
    ]
    requests, _ = reading("".join(json.dumps(item) + "\n" for item in items), block_size=16)
    content = [list(iterate_tokens(request.prompt)) for request in requests]
    blocks = {}
    for ids, tokens in zip(names, content, strict=True):
        for place, name in enumerate(ids):
            blocks.setdefault(name, set()).add(tuple(tokens[16 * place : 16 * place + 16]))
    assert all(len(found) == 1 for found in blocks.values())
    assert len(set.union(*blocks.values())) == 4


def test_block_ids_under_another_name_and_of_a_size_that_is_found(reading):
    items = [
        {"start_ms": 1000 * i, "input_tokens": 40 + 16 * i, "output_tokens": 3,
         "block_hashes": [f"h{k}" for k in range((40 + 16 * i + 15) // 16)], "conversation_id": f"c{i % 2}"}
        for i in range(30)
    ]  # fmt: skip
    requests, trace = reading("".join(json.dumps(item) + "\n" for item in items))
    assert trace.reuse_known
    assert trace.block_size == 16
    assert requests[1].prompt[0][0] == requests[0].prompt[0][0]
    assert {item.session for item in requests} == {"c0", "c1"}
    assert any("blocks of 16 tokens" in note for note in trace.report.notes)
    # One request of three ids for 40 tokens may have blocks of 16 or more.
    with pytest.raises(DataError, match="how many tokens a block of block_hashes has") as caught:
        reading(json.dumps({**items[0], "input_tokens": 15, "block_hashes": ["h0"]}) + "\n")
    assert "--block-size" in caught.value.hint
    rows = [(i, 40, 3, f'"[{i}, 1, 2]"') for i in range(5)]
    names = ("arrival (s)", "prompt_tokens", "output_tokens", "hash_ids")
    requests, trace = reading(table(names, rows), "a.csv", block_size=16)
    assert trace.reuse_known
    assert len(requests) == 5


def test_token_ids_are_contents(reading):
    items = [
        {"arrival_time_ns": 10**9 * i, "input_toks": 3, "output_toks": 2, "input_tok_ids": [5, 6, 9 + i]}
        for i in range(3)
    ]
    requests, trace = reading("".join(json.dumps(item) + "\n" for item in items))
    assert trace.reuse_known
    assert [item.arrival_s for item in requests] == [0.0, 1.0, 2.0]
    assert requests[0].prompt == ((5, 2), (9, 1))


def test_answers_of_an_api_with_its_usage(reading):
    items = [
        {"id": f"m{i}", "created": 1715346000 + i, "usage": {"prompt_tokens": 9, "completion_tokens": 4,
         "prompt_tokens_details": {"cached_tokens": 0}}}
        for i in range(3)
    ]  # fmt: skip
    assert lengths(reading(json.dumps(items))[0]) == [(float(i), 9, 4) for i in range(3)]
    items = [
        {"timestamp": f"2026-01-05T10:00:0{i}Z", "usage": {"input_tokens": 3, "cache_creation_input_tokens": 100,
         "cache_read_input_tokens": 2000 * i, "output_tokens": 5}}
        for i in range(3)
    ]  # fmt: skip
    requests, trace = reading("".join(json.dumps(item) + "\n" for item in items))
    assert [item.prompt_tokens for item in requests] == [103, 2103, 4103]
    assert "'input_tokens' + 'cache_read_input_tokens'" in trace.report.notes[0]
    items[2]["usage"].update(input_tokens=9000)
    items[1]["usage"].update(input_tokens=9000)
    items[0]["usage"].update(input_tokens=9000)
    with pytest.raises(DataError, match="whether input_tokens counts"):
        reading(json.dumps(items))


def test_results_of_serving_benchmarks(reading):
    result = {"date": "x", "completed": 2, "request_rate": 4.0, "input_lens": [7, 8], "output_lens": [3, 4],
              "ttfts": [0.1, 0.1], "itls": [[0.1], [0.1]], "errors": ["", ""]}  # fmt: skip
    requests, trace = reading(json.dumps({**result, "start_times": [100.5, 101.0]}))
    assert lengths(requests) == [(0.0, 7, 3), (0.5, 8, 4)]
    requests, trace = reading(json.dumps(result))
    assert [item.arrival_s for item in requests] == [0.0, 0.0]
    assert any("no arrival times" in note for note in trace.report.remarks())
    assert "the benchmark's request_rate was 4.0 (--rate)" in trace.report.notes
    aiperf = [
        {"metadata": {"request_start_ns": 10**18 + 5 * 10**8 * i, "benchmark_phase": phase, "x_correlation_id": "a"},
         "metrics": {"input_sequence_length": {"value": 10, "unit": "tokens"},
                     "output_sequence_length": {"value": 5, "unit": "tokens"},
                     "output_token_count": {"value": 3, "unit": "tokens"}}}
        for i, phase in enumerate(("warmup", "profiling", "profiling"))
    ]  # fmt: skip
    requests, trace = reading("".join(json.dumps(item) + "\n" for item in aiperf))
    assert lengths(requests) == [(0.0, 10, 5), (0.5, 10, 5)]
    assert trace.report.dropped["belongs to the warm-up"].count == 1


def test_several_lists_of_requests_are_refused(reading):
    rows = [{"arrival_s": 1, "prompt_tokens": 5, "output_tokens": 5}]
    with pytest.raises(DataError, match=r"2 lists of requests: a\.rows, b"):
        reading(json.dumps({"a": {"rows": rows}, "b": rows}))


def test_dirty_rows_are_counted(reading):
    content = table(
        ("time (s)", "Prompt Tokens", "Output Tokens", "text"),
        [(0, 5, 5, '"a;\nb"'), ("x", 5, 5, "a"), (2, "many", 5, "a"), (3, 5, 0, "a"), (4, 5), (5, 5, 5, "a")],
        ";",
    )
    requests, trace = reading(content, "a.csv")
    assert len(requests) == 2
    assert {reason: entry.count for reason, entry in trace.report.dropped.items()} == {
        "time (s) is not a number": 1,
        "token count is not a whole number": 1,
        "zero output tokens": 1,
        "wrong number of columns": 1,
    }


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_parquet_and_arrow(reading, kind):
    pyarrow = pytest.importorskip("pyarrow")
    from datetime import datetime

    import pyarrow.feather as feather
    import pyarrow.parquet as parquet

    times = [datetime(2024, 5, 10, 13, 0, 0), datetime(2024, 5, 10, 13, 0, 1, 500_000)]
    sheet = pyarrow.table(
        {"created": times, "input_tokens": [5, 6], "output_tokens": [1, 2], "prompt": ["a", "b"]}
    )
    target = io.BytesIO()
    if kind == "parquet":
        parquet.write_table(sheet, target)
    else:
        feather.write_feather(sheet, target)
    requests, trace = reading(target.getvalue(), f"a.{kind}")
    assert lengths(requests) == [(0.0, 5, 1), (1.5, 6, 2)]
    mooncake = pyarrow.table(
        {"timestamp": [0], "input_length": [600], "output_length": [2], "hash_ids": [[1, 2]]}
    )
    target = io.BytesIO()
    parquet.write_table(mooncake, target)
    requests, trace = reading(target.getvalue(), "b.parquet")
    assert trace.format == "mooncake"


def test_texts_without_counts_stay_unread(reading):
    with pytest.raises(DataError, match="not a trace in a known format"):
        reading('{"timestamp_ms": 0, "prompt": "hello", "output": "you"}\n')


def test_sessions_of_turns(reading):
    turns = [{"arrival_time_s": at, "input_tokens": a, "output_tokens": b} for at, a, b in ROWS]
    sessions = [{"session_id": "a", "user": 1, "turns": turns[:2]}, {"session_id": "b", "turns": turns[2:]}]
    for content in (
        json.dumps(sessions), json.dumps({"sessions": sessions}), "".join(json.dumps(item) + "\n" for item in sessions)
    ):  # fmt: skip
        requests, _ = reading(content)
        assert lengths(requests) == ROWS
        assert [item.session for item in requests] == ["a", "a", "b"]


def test_reports_of_runs(reading):
    good = [{"request_start_time": 1.7e9 + at, "prompt_tokens": a, "output_tokens": b} for at, a, b in ROWS]
    bad = [{"request_start_time": 1.7e9, "prompt_tokens": 5, "output_tokens": 0}]
    run = {"requests": {"successful": good, "errored": bad, "incomplete": []}}
    requests, trace = reading(json.dumps({"benchmarks": [run]}))
    assert lengths(requests) == ROWS
    assert "1 requests listed as errored are left out" in trace.report.notes
    with pytest.raises(DataError, match="2 lists of requests"):
        reading(json.dumps({"benchmarks": [run, run]}))


def test_flattened_names_and_frames(reading):
    names = ("start.arrival_s", "attributes.llm.token_count.prompt", "usage.completion_tokens")
    assert len(reading(table(("arrival_s", *names[1:])), "a.csv")[0]) == 3
    frame = {"columns": ["arrival_s", "prompt_tokens", "output_tokens"], "index": [0, 1, 2], "data": ROWS}
    assert lengths(reading(json.dumps(frame))[0]) == ROWS


def test_mooncake_as_a_table_is_in_milliseconds(reading):
    rows = [(0, 600, 5, '"[1, 2]"'), (1500, 600, 5, '"[1, 3]"')]
    requests, trace = reading(
        table(("timestamp", "input_length", "output_length", "hash_ids"), rows), "a.csv", block_size=512
    )
    assert [item.arrival_s for item in requests] == [0.0, 1.5]
    assert "in milliseconds, as Mooncake writes them" in trace.report.notes[0]


def test_columns_that_may_have_been_times_are_named(reading):
    """In a language that nobody here knows: nothing is left out silently."""
    _, trace = reading(table(("Zeitstempel", "Prompt Tokens", "Output Tokens"), mark=";"), "a.csv")
    assert any(
        "no arrival times in the trace ('Zeitstempel' not read)" in note for note in trace.report.notes
    )
    many = ("Prompt Tokens", "Output Tokens", *(f"eins {i}" for i in range(7)))
    _, trace = reading(table(many, [(5, 6, *range(7))]), "a.csv")
    assert any("'eins 3' and 3 more not read" in note for note in trace.report.notes)


def test_a_column_without_a_name_is_neither_session_nor_priority(reading):
    """As pandas writes its index."""
    rows = [(7 + index, *row) for index, row in enumerate(ROWS)]
    requests, _ = reading(table(("", "start_time_s", "input_tokens", "completion_tokens"), rows), "a.csv")
    assert lengths(requests) == ROWS
    assert [(item.session, item.priority) for item in requests] == [(None, 0)] * 3


def test_rows_of_several_models_are_said(reading):
    rows = [(*row, f"m{index % 2}") for index, row in enumerate(ROWS)]
    _, trace = reading(table(("start_time_s", "input_tokens", "completion_tokens", "model"), rows), "a.csv")
    assert "requests of 2 models ('m0', 'm1') are read as one traffic" in trace.report.notes
    rows = [(*row, "m") for row in ROWS]
    _, trace = reading(table(("start_time_s", "input_tokens", "completion_tokens", "model"), rows), "a.csv")
    assert not any("models" in note for note in trace.report.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), ("arrival_s", "prompt_tokens", "output_tokens"),
        ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "form", ["11/20/2026 1:00:{:05.2f} PM", "20.11.2026 13:00:{:05.2f}", "2026-11-20 13:00:{:05.2f}"]
)
def test_published_tables_that_a_spreadsheet_saved_again(reading, names, form):
    requests, _ = reading(table(names, [(form.format(row[0]), *row[1:]) for row in ROWS]), "a.csv")
    assert lengths(requests) == ROWS


def test_rows_that_add_up_calls_of_a_model_are_no_requests(reading) -> None:
    rows = [
        {"id": "c", "run_type": "chain", "start_time": "2024-05-10T00:00:00", "prompt_tokens": 200, "completion_tokens": 40},
        {"id": "a", "run_type": "llm", "start_time": "2024-05-10T00:00:00", "prompt_tokens": 90, "completion_tokens": 30},
        {"id": "b", "run_type": "llm", "start_time": "2024-05-10T00:00:01", "prompt_tokens": 110, "completion_tokens": 10},
    ]  # fmt: skip
    requests, trace = reading("".join(json.dumps(row) + "\n" for row in rows))
    assert lengths(requests) == [(0.0, 90, 30), (1.0, 110, 10)]
    assert list(trace.report.dropped) == ["not a model call (by its run_type)"]


def test_columns_as_pandas_writes_them(reading) -> None:
    """``DataFrame.to_json()``: an object of objects, by the number of the row."""
    names = ("arrival_s", "prompt_tokens", "output_tokens")
    columns = {
        name: {str(number): row[place] for number, row in enumerate(ROWS)} for place, name in enumerate(names)
    }
    requests, _ = reading(json.dumps(columns), "trace.json")
    assert lengths(requests) == ROWS


def test_lengths_with_decimal_points_keep_their_blocks(reading) -> None:
    """Pandas writes whole numbers so, where some row of a column has none."""
    rows = [
        {"timestamp": 1000.0 * n, "input_length": 1024.0, "output_length": 20.0, "hash_ids": [1, 2]}
        for n in range(3)
    ]
    requests, trace = reading("".join(json.dumps(row) + "\n" for row in rows))
    assert lengths(requests) == [(float(n), 1024, 20) for n in range(3)]
    assert trace.report.block_size == 512


def test_parts_of_one_answer_are_one_request(reading) -> None:
    """As coding agents log them: a row a block of the answer, each with the usage of the whole."""
    usage = {"input_tokens": 10, "cache_read_input_tokens": 1000, "output_tokens": 20}
    rows = [
        {
            "type": "assistant", "sessionId": "s", "requestId": request, "timestamp": f"2024-05-10T00:00:0{second}Z",
            "message": {"id": message, "usage": usage},
        }
        for second, (request, message) in enumerate([("a", "m"), ("a", "m"), ("b", "n"), ("c", "n"), ("c", "n")])
    ]  # fmt: skip
    requests, trace = reading("".join(json.dumps(row) + "\n" for row in rows))
    assert lengths(requests) == [(0.0, 1010, 20), (2.0, 1010, 20), (3.0, 1010, 20)]
    assert [entry.lines for entry in trace.report.dropped.values()] == [[2, 5]]


def test_a_column_of_lengths_that_are_mostly_none_is_named(reading) -> None:
    rows = [(float(n), "x" if n % 2 else 10, 5) for n in range(100)]
    with pytest.raises(
        DataError, match="'input_tokens' does not hold a number of tokens in most of the first rows"
    ):
        reading(table(("timestamp_s", "input_tokens", "output_tokens"), rows), "trace.csv")


def test_day_and_time_apart_are_to_be_one_column(reading) -> None:
    rows = [("2024-05-10", f"00:00:0{n}", 10, 5) for n in range(3)]
    with pytest.raises(DataError, match="could both be the arrival times") as refused:
        reading(table(("date", "time", "input_tokens", "output_tokens"), rows), "trace.csv")
    assert "in one column" in (refused.value.hint or "")
