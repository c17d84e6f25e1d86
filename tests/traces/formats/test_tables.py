"""The CSV readers: azure, burstgpt and plain lengths."""

from __future__ import annotations

import pytest

from kvplan.errors import DataError
from kvplan.traces.formats.instants import Instants
from kvplan.traces.formats.table import parse_count

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + "\r\n".join(
    f"2023-11-16 18:15:{46 + i // 2:02d}.{6805900 + 1234567 * (i % 2):07d},{374 + i},{44 + i}"
    for i in range(20)
)


def test_azure_sample(reading):
    requests, trace = reading(AZURE, "azure.csv")
    assert trace.format == "azure"
    assert len(requests) == 20  # the last line has no newline
    assert requests[0].arrival_s == 0.0
    assert requests[1].arrival_s == 0.1234567
    assert requests[2].arrival_s == 1.0
    assert (requests[19].prompt_tokens, requests[19].output_tokens) == (393, 63)
    assert not trace.reuse_known
    assert trace.report.remarks() == ["reuse unknown: the trace has no block ids"]
    assert len({r.prompt[0][0] for r in requests}) == 20


def test_azure_2025_counts_images(reading):
    text = "TIMESTAMP,ContextTokens,GeneratedTokens,NumImages\n2025-05-01 00:00:00.0000001,5,6,2\n2025-05-01 00:00:01,5,6,0\n"
    requests, trace = reading(text, "a.csv")
    assert requests[1].arrival_s == 0.9999999
    assert any("1 requests carry images" in note for note in trace.report.remarks())


def test_azure_rows_before_the_first_are_put_in_order(reading):
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 00:00:05,1,1\n2023-11-16 00:00:02.5,2,1\n2023-11-15 23:59:59,3,1\n"
    requests, trace = reading(text, "a.csv")
    assert [(r.prompt_tokens, r.arrival_s) for r in requests] == [(3, 0.0), (2, 3.5), (1, 6.0)]
    assert "arrivals re-sorted: 2 rows" in trace.report.remarks()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("2023-11-16 18:15:46,x,1", "token count is not a whole number"),
        ("2023-11-16 18:15:46,1.5,1", "token count is not a whole number"),
        ("2023-11-16 18:15:46," + "9" * 30 + ",1", "token count is not a whole number"),
        ("yesterday,1,1", "TIMESTAMP"),
        ("2023-13-16 18:15:46,1,1", "TIMESTAMP"),
        ("2023-11-16 25:15:46,1,1", "TIMESTAMP"),
        ("2023-11-16 18:15:46,0,1", "zero prompt tokens"),
        ("2023-11-16 18:15:46,1,0", "zero output tokens"),
        ("2023-11-16 18:15:46,1", "wrong number of columns"),
        ("2023-11-16 18:15:46,1,1,1", "wrong number of columns"),
        ('2023-11-16 18:15:46,"1,1', "not CSV"),
    ],
)
def test_azure_bad_rows(reading, bad, reason):
    requests, trace = reading(AZURE.split("\r\n")[0] + "\n2023-11-16 18:15:46,5,5\n" + bad + "\n", "a.csv")
    assert len(requests) == 1
    ((found, entry),) = trace.report.dropped.items()
    assert reason in found
    assert entry.lines == [3]


def test_half_written_and_damaged_rows(reading):
    text = AZURE.encode() + b"\r\n2023-11-16 18:1\xff,1,1\r\n2023-11-16 18:15"
    _, trace = reading(text, "a.csv")
    assert {reason: entry.lines for reason, entry in trace.report.dropped.items()} == {
        "TIMESTAMP is not YYYY-MM-DD hh:mm:ss.fffffff": [22],
        "half-written last line": [23],
    }


BURST = {
    "v1": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    + "".join(
        f"{5 + 40 * i},{'GPT-4' if i % 3 else 'ChatGPT'},{100 + i},{18 + i},{118 + 2 * i},API log\n"
        for i in range(20)
    ),
    "v3": "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    + "".join(
        f"{5.5 + 40 * i},{i // 2},0.3,GPT-4,{100 + i},{18 + i},{118 + 2 * i},API log\n" for i in range(20)
    ),
}


@pytest.mark.parametrize("version", BURST)
def test_burstgpt_sample(reading, version):
    requests, trace = reading(BURST[version], "b.csv")
    assert trace.format == "burstgpt"
    assert [r.arrival_s for r in requests[:3]] == [0.0, 40.0, 80.0]
    assert (requests[4].prompt_tokens, requests[4].output_tokens) == (104, 22)
    assert requests[5].session == ("2" if version == "v3" else None)
    mixed = any("several models" in note for note in trace.report.remarks())
    assert mixed == (version == "v1")


def test_burstgpt_zero_rows_are_counted(reading):
    text = BURST["v1"] + "900,GPT-4,0,0,0,API log\n901,GPT-4,7,0,7,API log\nnan,GPT-4,7,1,7,API log\n"
    _, trace = reading(text, "b.csv")
    assert {reason: entry.count for reason, entry in trace.report.dropped.items()} == {
        "zero prompt tokens": 1,
        "zero output tokens": 1,
        "arrival time negative, not finite or beyond 1e10 s": 1,
    }


LENGTHS = {
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    + "".join(f"{i * 0.5},{100 + i},{9 + i}\n" for i in range(20)),
    "splitwise": "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    + "".join(f"{i},2,0,{i * 0.5},1,{100 + i},{9 + i}\n" for i in range(20)),
    "kvplan": "arrival_s,prompt_tokens,output_tokens,priority,session\n"
    + "".join(f"{i * 0.5},{100 + i},{9 + i},0,\n" for i in range(20)),
}


@pytest.mark.parametrize("dialect", LENGTHS)
def test_lengths_sample(reading, dialect):
    requests, trace = reading(LENGTHS[dialect], "l.csv")
    assert trace.format == "csv"
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in requests] == [
        (i * 0.5, 100 + i, 9 + i) for i in range(20)
    ]


def test_lengths_without_times(reading):
    text = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n" + "3772,54,3826,69.85\n" * 400
    at_once, trace = reading(text, "l.csv")
    assert {r.arrival_s for r in at_once} == {0.0}
    assert any("no arrival times" in note for note in trace.report.remarks())
    spread, _ = reading(text, "l.csv", rate=20.0, seed=3)
    again, _ = reading(text, "l.csv", rate=20.0, seed=3)
    other, _ = reading(text, "l.csv", rate=20.0, seed=4)
    assert spread == again != other
    assert 400 / spread[-1].arrival_s == pytest.approx(20, rel=0.25)


def test_a_vidur_file_can_be_called_by_its_tool(reading):
    assert len(reading(LENGTHS["vidur"], "l.csv", format="vidur")[0]) == 20


@pytest.mark.parametrize("column", ["TIMESTAMP", "started_at"])
@pytest.mark.parametrize("zones", [("Z", "+02:00"), ("", "")])
def test_times_with_and_without_a_zone_are_noted(reading, column, zones):
    for third, mixed in (("", zones[0] != ""), ("Z", zones[0] == "")):
        times = [f"2023-11-16T18:15:{n:02d}{zone}" for n, zone in enumerate((*zones, third, zones[0]))]
        text = f"{column},ContextTokens,GeneratedTokens\n" + "".join(f"{time},9,2\n" for time in times)
        notes = reading(text, "t.csv")[1].report.remarks()
        assert any("those without were taken for UTC" in note for note in notes) == mixed


def test_a_missing_column_is_named(reading):
    with pytest.raises(DataError, match=r"no column of the tokens that answers have"):
        reading("arrived_at,num_prefill_tokens,other\n1,2,3\n", "l.csv")


def test_instants_to_100_ns_and_zones():
    ticks = Instants().ticks
    assert ticks("2023-11-16 18:15:46.6805901") - ticks("2023-11-16T18:15:46.680590") == 1
    assert ticks("2023-11-16 18:15:46.680590199") == ticks("2023-11-16 18:15:46.6805901")
    assert ticks("2023-11-16T01:30:00+02:00") == ticks("2023-11-15T23:30:00Z")
    assert ticks("2024-03-01 00:00:00") - ticks("2024-02-28 00:00:00") == 2 * 86_400 * 10**7


@pytest.mark.parametrize("text", ["", "1e-3", "1e18", "1e400", "1.5", "٣", "1_000", "0x10", "nan", "9" * 19])
def test_counts_are_plain_whole_numbers(text):
    with pytest.raises(ValueError):
        parse_count(text)


def test_counts():
    assert [parse_count(t) for t in ("374", " 374 ", "374.0", "-2", "+7", "1e3")] == [
        374,
        374,
        374,
        -2,
        7,
        1000,
    ]


@pytest.mark.parametrize("times", ["arrival_s", "timestamp_s"])
def test_columns_that_nothing_is_read_from_are_named(times: str, reading):
    """A name mistyped, or one that is not known, is seen rather than silently without effect."""
    header = f"{times},prompt_tokens,output_tokens,sesion_id,b,c,d,e"
    _, trace = reading(f"{header}\n0,100,10,a,,,,\n1,100,10,a,,,,\n", "t.csv")
    assert "not read: 'sesion_id', 'b', 'c', 'd' and 1 more" in trace.report.remarks()


@pytest.mark.parametrize("name", ["session", "session_id", "conversation_id"])
def test_sessions_are_read_under_any_of_their_names(name: str, reading):
    text = f"arrival_s,prompt_tokens,output_tokens,{name}\n0,100,10,a\n1,100,10,b\n2,100,10,a\n"
    requests, trace = reading(text, "t.csv")
    assert [request.session for request in requests] == ["a", "b", "a"]
    assert not any("not read" in note for note in trace.report.remarks())


def test_lengths_that_are_no_numbers_are_told_from_unknown_columns(reading):
    text = "timestamp,prompt_tokens,completion_tokens\n" + "0,100 tok,ten\n" * 3
    with pytest.raises(DataError, match="'prompt_tokens' and 'completion_tokens' do not hold numbers of tok"):
        reading(text, "t.csv")
