"""Rows whose ids are not of 512-token blocks: dropped, counted, and the size that explains them is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import DataError
from kvplan.traces.formats.granularity import SIZES, Granularity
from kvplan.traces.trace import open_trace


def moon(size: int, lengths: list[int], **more: int) -> str:
    rows = [
        {
            "timestamp": 0,
            "input_length": n,
            "output_length": 1,
            "hash_ids": list(range(-(-n // size))),
            **more,
        }
        for n in lengths
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_some_rows_fit_by_chance_and_the_others_say_their_size(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(moon(16, [7, 1000, 2000, 3333]))
    trace = open_trace(path)
    assert len(list(trace.requests())) == 1
    assert any(
        "read them so (trace: --block-size 16; trace ladder: --trace-block 16; simulate: --set workload.block_size=16)"
        in note
        for note in trace.report.remarks()
    )
    assert len(list(open_trace(path, block_size=16).requests())) == 4


def test_when_no_row_fits_the_hint_names_the_size(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(moon(64, [1000, 3333]))
    with pytest.raises(DataError, match="none of the 2 rows") as refused:
        list(open_trace(path).requests())
    assert refused.value.hint is not None
    assert "--block-size 64" in refused.value.hint


def test_chats_of_another_size_say_it_too(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(moon(256, [7, 5000, 3333], chat_id=1))
    trace = open_trace(path)
    assert len(list(trace.requests())) == 1
    assert any("--block-size 256" in note for note in trace.report.remarks())


def test_rows_that_no_size_explains_get_no_advice(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(moon(16, [1000]) + moon(64, [1000]) + moon(512, [1000]))
    trace = open_trace(path)
    assert len(list(trace.requests())) == 1
    assert not any("--block-size" in note for note in trace.report.remarks())


@given(st.sampled_from(SIZES), st.lists(st.integers(1, 100_000), min_size=1, max_size=20), st.booleans())
def test_the_true_size_is_never_ruled_out(size: int, lengths: list[int], up: bool) -> None:
    seen = Granularity()
    for tokens in lengths:
        seen.see(-(-tokens // size) if up else tokens // size, tokens)
    advice = seen.advice()
    assert advice is None or f"blocks of {size} tokens" in advice


def test_ids_that_are_text_are_no_matter_of_size(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(moon(512, [1000]).replace("[0, 1]", '["0", "1"]'))
    with pytest.raises(DataError, match="none of the 1 rows") as refused:
        list(open_trace(path).requests())
    assert refused.value.hint == "block ids are whole numbers: number the distinct ones from 0"
