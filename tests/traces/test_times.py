"""Times as engineers have them: counted from 1970, in other units, in columns of other names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan.errors import DataError
from kvplan.traces.trace import open_trace

HEADER = "arrival_s,prompt_tokens,output_tokens\n"


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def arrivals(path: Path, **options: float) -> tuple[list[float], list[str]]:
    trace = open_trace(path, **options)  # type: ignore[arg-type]
    found = [request.arrival_s for request in trace.requests()]
    return found, trace.report.remarks()


def test_seconds_since_1970_count_from_the_first_request(tmp_path: Path) -> None:
    rows = "".join(f"{1714550400.5 + i},100,10\n" for i in range(3))
    found, remarks = arrivals(written(tmp_path, "a.csv", HEADER + rows))
    assert found == [0.0, 1.0, 2.0]
    assert any("times count from the first request, which came at 1,714,550,400 s" in r for r in remarks)


def test_milliseconds_since_1970_count_from_the_first_request(tmp_path: Path) -> None:
    row = {"input_length": 100, "output_length": 10}
    text = "".join(json.dumps({"timestamp": 1714550400000 + 500 * i, **row}) + "\n" for i in range(3))
    found, remarks = arrivals(written(tmp_path, "a.jsonl", text))
    assert found == [0.0, 0.5, 1.0]
    assert not any("taken for milliseconds" in remark for remark in remarks)


def test_seconds_taken_for_milliseconds_are_suspected(tmp_path: Path) -> None:
    row = {"input_length": 100, "output_length": 10}
    text = "".join(json.dumps({"timestamp": 1714550400 + i, **row}) + "\n" for i in range(3))
    path = written(tmp_path, "a.jsonl", text)
    assert any("a time scale of 1000" in remark for remark in arrivals(path)[1])
    assert arrivals(path, time_scale=1000.0)[0] == [0.0, 1.0, 2.0]


def test_a_trace_that_starts_a_little_late_keeps_its_times(tmp_path: Path) -> None:
    found, remarks = arrivals(written(tmp_path, "a.csv", HEADER + "590,100,10\n591,100,10\n"))
    assert found == [590.0, 591.0]
    assert not any("count from" in remark for remark in remarks)


def test_a_piece_of_a_longer_trace_counts_from_its_first_request(tmp_path: Path) -> None:
    found, remarks = arrivals(written(tmp_path, "a.csv", HEADER + "86400,100,10\n86401,100,10\n"))
    assert found == [0.0, 1.0]
    assert any("count from the first request, which came at 86,400 s" in remark for remark in remarks)
    assert not any("taken for milliseconds" in remark for remark in remarks)


def test_milliseconds_in_a_table_of_seconds_are_recognised(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", HEADER + "1714550400500,100,10\n1714550401500,100,10\n")
    with pytest.raises(DataError) as failure:
        arrivals(path)
    assert "trace: --time-scale 0.001; simulate: --set workload.time_scale=0.001" in str(failure.value.hint)
    assert arrivals(path, time_scale=0.001)[0] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("unit", "scale"), [("milliseconds", "0.001"), ("microseconds", "1e-06"), ("nanoseconds", "1e-09")]
)
def test_the_scale_of_a_hint_reads_the_times(tmp_path: Path, unit: str, scale: str) -> None:
    per_s = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}[unit]
    rows = "".join(f"{(1_714_550_400 + i) * per_s},100,10\n" for i in range(3))
    path = written(tmp_path, "a.csv", HEADER + rows)
    with pytest.raises(DataError, match="none of the 3 rows") as failure:
        arrivals(path, rate_scale=2.0)
    assert f"a time scale of {scale} reads them" in str(failure.value.hint)
    assert arrivals(path, time_scale=float(scale))[0] == pytest.approx([0.0, 1.0, 2.0], abs=1e-6)


def test_the_scale_of_a_hint_counts_in_the_format_s_unit(tmp_path: Path) -> None:
    row = {"input_length": 100, "output_length": 10}
    text = "".join(json.dumps({"timestamp": (1_714_550_400 + i) * 10**9, **row}) + "\n" for i in range(3))
    path = written(tmp_path, "a.jsonl", text)
    with pytest.raises(DataError) as failure:
        arrivals(path)
    assert "a time scale of 1e-06 reads them" in str(failure.value.hint)
    assert arrivals(path, time_scale=1e-6)[0] == pytest.approx([0.0, 1.0, 2.0], abs=1e-6)


def test_a_rate_that_nobody_has_is_suspected_to_be_of_seconds(tmp_path: Path) -> None:
    rows = [{"timestamp": 3.0 * i, "input_length": 100, "output_length": 10} for i in range(50)]
    path = written(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert any("50 requests in 0.147 s" in remark for remark in arrivals(path)[1])
    assert any("50 requests in 0.147 s" in remark for remark in arrivals(path, rate_scale=2.0)[1])
    assert any("20 requests in 0.057 s" in remark for remark in arrivals(path, limit=20)[1])
    assert not any("taken for milliseconds" in remark for remark in arrivals(path, time_scale=1000.0)[1])


def test_rows_without_times_take_a_rate(tmp_path: Path) -> None:
    rows = [{"input_length": 512, "output_length": 5, "hash_ids": [i]} for i in range(30)]
    rows += [{**rows[0], "session_id": "s"}, {**rows[0], "session_id": "s", "delay": 500}]
    rows += [{**rows[0], "output_length": 0}, {**rows[0], "timestamp": 5}]
    path = written(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found, remarks = arrivals(path, rate=2.0, seed=1)
    assert len(found) == 32
    assert found != sorted({round(time) for time in found})
    assert "no arrival times in the trace: Poisson at 2/s, seed 1" in remarks
    assert arrivals(path, rate=2.0, seed=1)[0] == found
    trace = open_trace(path, rate=2.0)
    turns = [request for request in trace.requests() if request.session == "s"]
    assert turns[1].arrival_s - turns[0].arrival_s == pytest.approx(0.5)
    assert trace.report.dropped["a timestamp, which the first rows do not have"].count == 1
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match='neither "timestamp" nor') as failure:
        arrivals(path)
    assert "--rate" in str(failure.value.hint)


@pytest.mark.parametrize("column", ["id", "model", "sentence", "ttft_ms", "latency_s", "rank"])
def test_other_columns_are_not_taken_for_times(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, "a.csv", HEADER.replace("arrival_s", column) + "1,100,10\n")
    assert arrivals(path)[0] == [0.0]


@pytest.mark.parametrize("column", ["offset_ms", "ms", "clock", "delay_ms"])
def test_times_under_another_name_are_not_taken_for_none(tmp_path: Path, column: str) -> None:
    rows = "1,100,10\n50,100,10\n"
    path = written(tmp_path, "a.csv", HEADER.replace("arrival_s", column) + rows)
    with pytest.raises(DataError, match=f"no column 'arrival_s'.*'{column.lower()}'"):
        arrivals(path)
    assert len(arrivals(path, rate=2.0)[0]) == 2


@pytest.mark.parametrize(
    "column",
    [
        "timestamp", "arrival_time", "start_time", "t", "ts", "Date", "created_at", "created", "sent", "received",
        "when", "T", "Submitted At",
    ],
)  # fmt: skip
def test_times_without_a_unit_are_refused_where_it_cannot_be_told(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, "a.csv", HEADER.replace("arrival_s", column) + "1,100,10\n50,100,10\n")
    with pytest.raises(
        DataError, match=f"the unit of '{column}' cannot be told: 0.041/s in seconds"
    ) as failure:
        arrivals(path)
    assert "_s or " in str(failure.value.hint)
    assert len(arrivals(path, rate=2.0)[0]) == 2
    assert arrivals(path, time_scale=0.001)[0] == [0.0, pytest.approx(0.049)]


@pytest.mark.parametrize("column", ["ts_ms", "Timestamp (ms)", "arrivalTime [ms]", "start time/ms"])
def test_times_in_the_unit_that_their_name_says(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, "a.csv", HEADER.replace("arrival_s", column) + "1,100,10\n50,100,10\n")
    found, remarks = arrivals(path)
    assert found == [0.0, 0.049]
    assert any(f"arrivals from {column!r} in milliseconds, as its name says" in remark for remark in remarks)


def test_a_table_without_times_arrives_at_once(tmp_path: Path) -> None:
    found, remarks = arrivals(
        written(tmp_path, "a.csv", "prompt_tokens,output_tokens,id\n100,10,7\n100,10,8\n")
    )
    assert found == [0.0, 0.0]
    assert any("no arrival times" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("a.csv", "time,prompt,output\n1,a,b\n", "columns arrival_s,prompt_tokens,output_tokens"),
        ("a.json", '[{"timestamp": 1}]', "requests of a known format"),
    ],
)
def test_what_is_not_recognised_says_what_would_be(tmp_path: Path, name: str, text: str, hint: str) -> None:
    with pytest.raises(DataError, match="not a trace in a known format") as failure:
        open_trace(written(tmp_path, name, text))
    assert hint in str(failure.value.hint)


def test_a_rate_for_a_trace_that_has_times_is_said_to_change_nothing(reading) -> None:
    timed = '{"timestamp": 0, "input_length": 9, "output_length": 2}\n{"timestamp": 900, "input_length": 9, "output_length": 2}'
    found, trace = reading(timed, rate=100.0)
    assert [item.arrival_s for item in found] == [0.0, 0.9]
    assert any(
        "the rate changes nothing" in note and "workload.rate_scale" in note for note in trace.report.notes
    )
    _, drawn = reading('{"input_length": 9, "output_length": 2}\n' * 3, rate=100.0)
    assert not any("changes nothing" in note for note in drawn.report.notes)
    _, plain = reading(timed)
    assert not plain.report.notes
