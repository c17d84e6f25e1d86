"""Rows with something around them: encoded twice, items of an array line by line, objects that are texts."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from kvplan.errors import DataError

ROWS = [{"timestamp_s": i / 2, "prompt_tokens": 100 + i, "completion_tokens": 10 + i} for i in range(6)]
LENGTHS = [(i / 2, 100 + i, 10 + i) for i in range(6)]
LINES = [json.dumps(row) for row in ROWS]
MOONCAKE = [{"timestamp": 500 * i, "input_length": 100 + i, "output_length": 10 + i} for i in range(6)]


def lengths(requests):
    return [(item.arrival_s, item.prompt_tokens, item.output_tokens) for item in requests]


WRAPPED = {
    "commas": ",\n".join(LINES) + ",\n",
    "commas but for the last": ",\n".join(LINES) + "\n",
    "array": "[" + ",\n".join(LINES) + "]\n",
    "array on lines of its own": "[\n" + ",\n".join(LINES) + "\n]\n",
    "array that ends in a comma": "[\n" + ",\r\n".join(LINES) + ",\n]\n",
    "array that ends in a comma on its line": "[" + ",\n".join(LINES) + ",]",
    "encoded twice": "\n".join(map(json.dumps, LINES)),
    "encoded twice, one line": json.dumps(LINES[0]),
    "encoded twice in an array": "[\n" + ",\n".join(map(json.dumps, LINES)) + ",\n]",
}


@pytest.mark.parametrize("how", WRAPPED)
def test_rows_are_found_within_what_is_around_them(reading, how):
    requests, trace = reading(WRAPPED[how])
    assert lengths(requests) == LENGTHS[: len(requests)]
    assert len(requests) == (1 if how.endswith("one line") else 6)
    assert trace.report.dropped_rows == 0


def test_formats_with_rules_of_their_own_are_found_too(reading):
    requests, trace = reading("".join(json.dumps(row) + ",\n" for row in MOONCAKE))
    assert trace.format == "mooncake" or "Mooncake" in " ".join(trace.report.notes)
    assert lengths(requests) == LENGTHS


def test_broken_lines_among_wrapped_ones_are_counted(reading):
    requests, trace = reading(",\n".join([*LINES[:3], '{"timestamp_s": ', *LINES[3:]]))
    assert lengths(requests) == LENGTHS
    assert sum(entry.count for entry in trace.report.dropped.values()) == 1


@pytest.mark.parametrize(
    "text", ['"a"\n"b"\n', '"{"\n"{"\n', "[\n1,\n2,\n]x", '"[1]"\n', "[,\n,\n]", "{,\n{,\n"]
)
def test_other_texts_are_no_rows(reading, text):
    with pytest.raises(DataError):
        reading(text)


def test_objects_written_as_texts_are_looked_through(reading):
    rows = [
        {"start_s": row["timestamp_s"], "usage": json.dumps({"prompt_tokens": row["prompt_tokens"],
         "details": json.dumps({"completion_tokens": row["completion_tokens"]})})}
        for row in ROWS
    ]  # fmt: skip
    assert lengths(reading("\n".join(map(json.dumps, rows)))[0]) == LENGTHS
    table = "start_s,usage\n" + "".join(
        f'{row["start_s"]},"{str(row["usage"]).replace(chr(34), chr(34) * 2)}"\n' for row in rows
    )
    requests, trace = reading(table, "usage.csv")
    assert lengths(requests) == LENGTHS
    assert not any("not read" in note for note in trace.report.notes)


def test_a_prompt_that_is_an_object_says_nothing_that_the_row_says(reading):
    rows = [{"prompt": json.dumps({"prompt_tokens": 9, "timestamp_s": 7}), **row} for row in ROWS]
    assert lengths(reading("\n".join(map(json.dumps, rows)))[0]) == LENGTHS


@pytest.mark.parametrize(
    ("written", "tokens"), [("1e3", 1000), ("1000.0", 1000), ("1.5E+03", 1500), ("12e0", 12)]
)
@pytest.mark.parametrize(
    "row",
    [
        '{"timestamp": %d, "input_length": COUNT, "output_length": 1e1, "hash_ids": [1, 2]}',
        '{"timestamp": %d, "prompt_tokens": "COUNT", "output_tokens": 10.0}',
        '{"arrival": %d, "prompt_token_ids": [1, 2e0], "output_length": COUNT}',
    ],
)  # fmt: skip
def test_whole_numbers_with_exponents_are_counts_in_json(reading, row, written, tokens):
    text = "".join(row.replace("COUNT", written) % (1000 * i) + "\n" for i in range(3))
    options = {"block_size": 1000} if "hash_ids" in row else {}
    if "arrival" not in row and "hash_ids" not in row:
        options = {"rate": 1.0}
    if "hash_ids" in row and tokens < 1001:
        text = text.replace("[1, 2]", "[1]")
    requests, trace = reading(text, **options)
    assert trace.report.dropped_rows == 0
    assert tokens in (requests[0].prompt_tokens, requests[0].output_tokens)


@pytest.mark.parametrize(
    "header", ["arrived_at,num_prefill_tokens,num_decode_tokens", "arrival_s,prompt_tokens,output_tokens"]
)
def test_whole_numbers_with_exponents_are_counts_in_tables(reading, header):
    text = f"{header}\n0,1e3,1000.\n1,1.5E+03,20\n2,1.0005e3,20\n3,1e-1,20\n4,1e99,20\n5,1e400,20\n"
    requests, trace = reading(text, "a.csv")
    assert [item.prompt_tokens for item in requests] == [1000, 1500]
    assert trace.report.dropped_rows == 4


@pytest.mark.parametrize(
    "text",
    [
        "arrival_s,prompt_tokens,output_tokens,priority\n0,5,5,\n1,5,5,0\n2,5,5,high\n",
        "start_s,prompt_tokens,output_tokens,Priority\n0,5,5,0\n1,5,5,high\n",
        '{"start_s": 0, "prompt_tokens": 5, "output_tokens": 5, "priority": "high"}\n',
    ],
)
def test_priorities_in_words_are_refused(reading, text):
    with pytest.raises(DataError, match="priority 'high' is a word") as caught:
        reading(text, "a.csv")
    assert "write 0 for high" in (caught.value.hint or "")
    assert (caught.value.where or "").endswith(str(text.count("\n")))


def test_priorities_in_words_of_typed_rows_say_what_to_write(reading):
    row = '{"timestamp": %d, "input_length": 5, "output_length": 5, "priority": "low"}\n'
    with pytest.raises(DataError) as caught:
        reading("".join(row % i for i in (0, 500)), format="mooncake")
    assert "write 0 for high" in (caught.value.hint or "")


def test_lines_are_as_they_were(reading):
    requests, _ = reading("\n".join(LINES))
    assert lengths(requests) == LENGTHS
    assert all(a.arrival_s < b.arrival_s for a, b in pairwise(requests))


@pytest.mark.parametrize("name", ["timestamp", "start_s", "prompt_tokens", "priority"])
def test_numbers_beyond_floating_point_are_none(reading, name):
    rows = [{"start_s": i, "prompt_tokens": 5, "completion_tokens": 6, "priority": 0} for i in range(3)]
    rows[2][name] = 10**400
    if name == "timestamp":
        rows = [
            {"timestamp" if key == "start_s" else key: value for key, value in row.items()} for row in rows
        ]
        rows[2] = rows[0] | {"timestamp": 10**400}
        rows[1]["timestamp"] = 1_700_000_000
        rows[0]["timestamp"] = 1_700_000_001
    requests, trace = reading("\n".join(map(json.dumps, rows)))
    assert len(requests) == 2
    assert trace.report.dropped_rows == 1


def test_times_beyond_floating_point_are_refused(reading):
    rows = [{"timestamp": 10**400, "prompt_tokens": 5, "completion_tokens": 6}] * 3
    with pytest.raises(DataError, match="neither a number nor a date"):
        reading("\n".join(map(json.dumps, rows)))
