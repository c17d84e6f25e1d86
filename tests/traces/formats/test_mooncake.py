"""The Mooncake reader: exact mapping, aiperf's extensions, and every kind of bad row."""

from __future__ import annotations

import json

import pytest

from kvplan.errors import DataError
from kvplan.traces.request import OUTPUT_BASE, OUTPUT_STRIDE, iterate_tokens
from kvplan.traces.tokenspace import INTERNED_BASE, UNHASHED_BASE, UNKNOWN_BASE


def row(timestamp=0, length=1024, output=5, ids=(0, 1), **more):
    return json.dumps(
        {
            "timestamp": timestamp,
            "input_length": length,
            "output_length": output,
            "hash_ids": list(ids),
            **more,
        }
    )


def lines(*rows: str) -> str:
    return "".join(text + "\n" for text in rows)


SAMPLE = lines(
    *(
        row(timestamp=i * 1500, length=1000 + i, output=10 + i, ids=(0, 100 + i) if i < 25 else (0, 1, 2))
        for i in range(20)
    )
)


def test_sample(reading):
    requests, trace = reading(SAMPLE)
    assert trace.format == "mooncake"
    assert trace.block_size == 512
    assert trace.reuse_known
    assert [r.id for r in requests[:2]] == ["000000", "000001"]
    assert requests[3].arrival_s == 4.5
    assert requests[3].prompt == ((0, 512), (103 * 512, 1003 - 512))
    assert requests[3].output == ((OUTPUT_BASE + 3 * OUTPUT_STRIDE, 13),)


def test_tokens_follow_the_published_mapping(reading):
    ids = [7, 8, 9, 3, 4, 100]
    (request,), _ = reading(lines(row(length=5 * 512 + 17, ids=ids)))
    expected = [ids[j // 512] * 512 + j % 512 for j in range(request.prompt_tokens)]
    assert list(iterate_tokens(request.prompt)) == expected
    assert request.prompt == ((7 * 512, 3 * 512), (3 * 512, 2 * 512), (100 * 512, 17))


def test_times_are_scaled_in_the_stated_order(reading):
    requests, _ = reading(lines(row(timestamp=27483), row(timestamp=30535)), time_scale=0.3, rate_scale=7.0)
    assert [r.arrival_s for r in requests] == [27483 / 1000 * 0.3 / 7.0, 30535 / 1000 * 0.3 / 7.0]


def test_floor_counts_leave_a_tail_of_its_own(reading):
    requests, _ = reading(lines(row(length=600, ids=[4]), row(length=600, ids=[4])))
    assert requests[0].prompt == ((4 * 512, 512), (UNHASHED_BASE, 88))
    assert requests[0].prompt[0] == requests[1].prompt[0]
    assert requests[0].prompt[1] != requests[1].prompt[1]


def test_block_size_is_an_option_or_said_by_the_rows(reading):
    by_option, trace = reading(lines(row(length=33, ids=[1, 2, 5])), block_size=16)
    assert by_option[0].prompt == ((16, 32), (80, 1))
    assert trace.block_size == 16
    by_row, trace = reading(lines(row(length=33, ids=[1, 2, 5], block_size=16)))
    assert by_row[0].prompt == by_option[0].prompt
    assert trace.block_size == 16


def test_wide_and_negative_ids_are_interned_not_cut(reading):
    wide = [2**63 + 5, 2**64 - 1, -3, 5]
    requests, _ = reading(lines(row(length=2048, ids=wide), row(length=2048, ids=wide[::-1])))
    first, second = (list(iterate_tokens(r.prompt))[::512] for r in requests)
    assert first == second[::-1]
    assert len(set(first)) == 4
    assert first[3] == 5 * 512
    assert all(token > INTERNED_BASE for token in first[:3])
    assert max(first) < 2**63


def test_rows_without_ids_make_reuse_unknown(reading):
    text = json.dumps({"timestamp": 5, "input_length": 9, "output_length": 2})
    requests, trace = reading(lines(row(), text))
    assert requests[1].prompt[0][0] >= UNKNOWN_BASE
    assert not trace.reuse_known
    assert "reuse unknown for 1 requests without block ids" in trace.report.remarks()


def test_what_no_field_reads_is_named(reading):
    _, trace = reading(lines(row(priorty=3), row(priority=3)))
    assert trace.report.notes[-1] == "not read: 'priorty'"
    assert not any("not read" in note for note in reading(lines(row(), row(session_id="a")))[1].report.notes)


def test_sessions_with_delays(reading):
    later = {"session_id": "a", "delay": 250.5, "input_length": 9, "output_length": 2}
    orphan = {"session_id": "b", "delay": 1, "input_length": 9, "output_length": 2}
    requests, trace = reading(
        lines(row(timestamp=1000, session_id="a"), json.dumps(later), json.dumps(orphan))
    )
    assert [(r.session, r.arrival_s) for r in requests] == [("a", 1.0), ("a", 1.0 + 0.2505)]
    (reason,) = trace.report.dropped
    assert "delay" in reason


def test_delays_are_scaled_as_times_are_and_thinking_by_the_clock_alone(reading):
    """More requests a second do not make anybody think faster."""
    later = {"session_id": "a", "delay": 250.5, "input_length": 9, "output_length": 2}
    trace = lines(row(timestamp=1000, session_id="a"), json.dumps(later))
    first, second = reading(trace, time_scale=2.0, rate_scale=4.0)[0]
    assert (first.arrival_s, second.arrival_s) == (0.5, 0.5 + 0.2505 / 2)
    assert second.follows == (first.id, 0.501)


BAD_ROWS = {
    "zero output": (row(output=0), "zero output tokens"),
    "zero input": (row(length=0, ids=[]), "zero prompt tokens"),
    "negative input": (row(length=-5), "negative prompt tokens"),
    "too few ids": (row(length=2048, ids=[1]), "number of hash_ids"),
    "too many ids": (row(length=512, ids=[1, 2]), "number of hash_ids"),
    "negative time": (row(timestamp=-1), "arrival time negative"),
    "endless time": (row(timestamp=0).replace('"timestamp": 0', '"timestamp": 1e300'), "arrival time"),
    "infinite time": (row().replace('"timestamp": 0', '"timestamp": 1e999'), "out of range"),
    "NaN time": (row().replace('"timestamp": 0', '"timestamp": NaN'), "not JSON"),
    "text for a number": (row(length="12"), "field missing or mistyped"),
    "boolean for a number": (row(output=True), "field missing or mistyped"),
    "ids of another kind": (row(ids=["a", "b"]), "field missing or mistyped"),
    "an array": ("[1, 2]", "field missing or mistyped"),
    "not JSON": ("{oops}", "not JSON"),
    "a huge prompt": (row(length=10**400), "more than"),
    "a huge priority": (row(priority=10**30), "priority"),
    "a huge answer": (row(output=2**20), "more than"),
    "digits without end": (row().replace("1024", "9" * 5000), ""),
    "nested without end": ('{"x":' + "[" * 100_000, "nested too deeply"),
    "no lengths": ('{"timestamp": 1, "hash_ids": []}', "input_length"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_dropped_and_counted_with_their_line(reading, case):
    bad, reason = BAD_ROWS[case]
    requests, trace = reading(lines(row(), bad, row(timestamp=1)))
    assert [r.id for r in requests] == ["000000", "000002"]
    ((found, entry),) = trace.report.dropped.items()
    assert reason in found
    assert (entry.count, entry.lines) == (1, [2])


@pytest.mark.parametrize("case", BAD_ROWS)
def test_strict_refuses_bad_rows_at_their_line(reading, case):
    with pytest.raises(DataError) as caught:
        reading(lines(row(), BAD_ROWS[case][0]), strict=True)
    assert caught.value.where is not None
    assert caught.value.where.endswith("trace.jsonl:2")


def test_zero_outputs_can_be_clamped(reading):
    requests, trace = reading(lines(row(output=0), row(timestamp=2)), clamp_outputs=True)
    assert requests[0].output_tokens == 1
    assert trace.report.remarks() == ["zero-token outputs raised to 1: 1"]


def test_half_written_last_line_is_reported(reading):
    requests, trace = reading(lines(row(), row(timestamp=1)) + row(timestamp=2)[:40])
    assert len(requests) == 2
    assert trace.report.dropped["half-written last line"].lines == [3]


def test_whole_last_line_without_newline_counts(reading):
    requests, _ = reading(lines(row()) + row(timestamp=2))
    assert len(requests) == 2


def test_blank_lines_and_a_byte_order_mark_are_no_rows(reading):
    requests, trace = reading(b"\xef\xbb\xbf" + lines(row(), "", "  ", row(timestamp=1)).encode())
    assert len(requests) == trace.report.rows == 2


def test_reasons_do_not_grow_without_bound(reading):
    bad = [
        json.dumps({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1] * i + ["x"]})
        for i in range(60)
    ]
    _, trace = reading(lines(row(), *bad))
    assert len(trace.report.dropped) == 1


def test_an_empty_list_of_ids_says_nothing_of_the_content(reading) -> None:
    rows = [
        {"timestamp": 0, "input_length": length, "output_length": 5, "hash_ids": []} for length in (600, 700)
    ]
    requests, trace = reading("".join(json.dumps(row) + "\n" for row in rows))
    assert [item.prompt_tokens for item in requests] == [600, 700]
    assert trace.report.without_ids == 2
