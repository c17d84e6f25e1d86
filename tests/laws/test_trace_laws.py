"""Laws of traces: nothing lost, nothing out of order, what is written is what is read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kvplan.errors import DataError
from kvplan.traces import formats
from kvplan.traces.request import Request, count_tokens, default_output, iterate_tokens, join_runs, runs_of
from kvplan.traces.reuse import content_bound
from kvplan.traces.synthesize import synthesize
from kvplan.traces.tokenspace import BlockIds
from kvplan.traces.trace import Trace, open_trace
from kvplan.traces.workloads import WORKLOADS
from kvplan.traces.write import WRITERS, milliseconds

relaxed = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Few values, so that prompts share prefixes and blocks often.
tokens = st.lists(st.integers(0, 40), min_size=1, max_size=60)
prompts = st.lists(tokens, min_size=1, max_size=12)


def asking(contents: list[list[int]]) -> list[Request]:
    return [
        Request(f"{i:06d}", i * 0.5, runs_of(c), len(c), default_output(i, 1 + len(c) % 7), 1 + len(c) % 7)
        for i, c in enumerate(contents)
    ]


@given(tokens)
def test_runs_say_every_token(content):
    runs = runs_of(content)
    assert list(iterate_tokens(runs)) == content
    assert count_tokens(runs) == len(content)
    assert join_runs(runs) == runs


@given(prompts, st.integers(1, 20))
def test_hits_are_references_less_distinct_blocks(contents, block):
    found = content_bound(asking(contents), block)
    assert found.hit_blocks == found.block_refs - found.unique_blocks
    assert found.block_refs == sum(-(-len(c) // block) for c in contents)
    assert found.hit_tokens <= found.hit_blocks * block
    prefixes = {tuple(c[:end]) for c in contents for end in range(block, len(c) + 1, block)}
    tails = {tuple(c) for c in contents if len(c) % block}
    assert found.unique_blocks == len(prefixes) + len(tails)


@given(prompts, st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_content_bound_does_not_depend_on_the_order(contents, block, rng):
    shuffled = list(contents)
    rng.shuffle(shuffled)
    one, other = content_bound(asking(contents), block), content_bound(asking(shuffled), block)
    assert (one.hit_blocks, one.unique_blocks) == (other.hit_blocks, other.unique_blocks)


@given(st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=30), st.integers(1, 64), st.data())
def test_block_ids_are_one_to_one_with_content(ids, block, data):
    length = data.draw(st.integers((len(ids) - 1) * block + 1, len(ids) * block))
    runs = BlockIds(block).runs(ids, length, 0)
    assert runs is not None
    content = list(iterate_tokens(runs))
    assert len(content) == length
    assert max(content) < 2**63
    starts = content[::block]
    assert [starts.index(s) for s in starts] == [ids.index(h) for h in ids]
    assert all(content[j] == starts[j // block] + j % block for j in range(length))


def written_and_read(
    tmp_path: Path, requests: list[Request], to: str, **options
) -> tuple[list[Request], Trace]:
    text = io.StringIO()
    write: Callable[..., list[str]] = WRITERS[to]
    write(requests, text, **options)
    path = tmp_path / "t"
    path.write_text(text.getvalue())
    trace = open_trace(path)
    return list(trace.requests()), trace


@relaxed
@given(contents=prompts)
def test_tokens_round_trip_is_exact(tmp_path, contents):
    requests = asking(contents)
    assert written_and_read(tmp_path, requests, "tokens")[0] == requests


@relaxed
@given(contents=prompts, block=st.integers(1, 20))
def test_mooncake_round_trip_keeps_everything_blocks_can_say(tmp_path, contents, block):
    requests = asking(contents)
    again, trace = written_and_read(tmp_path, requests, "mooncake", block_size=block)
    assert trace.block_size == block

    def shape(found: list[Request]) -> list[tuple]:
        return [
            (r.id, r.arrival_s, r.prompt_tokens, r.output, r.output_tokens, r.priority, r.session)
            for r in found
        ]

    assert shape(again) == shape(requests)
    assert content_bound(again, block) == content_bound(requests, block)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("to", ["tokens", "mooncake", "csv"])
def test_workloads_round_trip(tmp_path, name, to):
    requests = list(synthesize(name, 40, 10.0, 1))
    again, _ = written_and_read(tmp_path, requests, to, block_size=64)
    if to == "tokens":
        assert again == requests
    for before, after in zip(requests, again, strict=True):
        assert after.arrival_s == pytest.approx(before.arrival_s, rel=1e-15)
        assert (after.prompt_tokens, after.output_tokens) == (before.prompt_tokens, before.output_tokens)
        assert after.session == before.session
    if to == "mooncake":
        assert content_bound(again, 64) == content_bound(requests, 64)


@given(st.integers(0, 2**50))
def test_whole_milliseconds_survive(ms):
    assert milliseconds(ms / 1000) / 1000 == ms / 1000
    assert isinstance(milliseconds(ms / 1000), int)


@given(st.floats(0, 1e9))
def test_any_time_survives_to_the_last_bit_or_two(seconds):
    assert milliseconds(seconds) / 1000 == pytest.approx(seconds, rel=3e-16, abs=1e-300)


def attempted(path: Path, **options) -> tuple[list[Request], Trace | None]:
    """What was read, or nothing when it was refused with an error that says where."""
    refusal = None
    try:
        trace = open_trace(path, **options)
        return list(trace.requests()), trace
    except DataError as error:
        refusal = error
    assert refusal.where
    return [], None


def mooncake_row(draw) -> str:
    good = {
        "timestamp": draw(st.integers(0, 5_000)),
        "input_length": draw(st.integers(1, 1_500)),
        "output_length": draw(st.integers(1, 9)),
    }
    good["hash_ids"] = list(range(-(-good["input_length"] // 512)))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        good[draw(st.sampled_from(sorted(good)))] = draw(
            st.one_of(st.none(), st.text(max_size=3), st.floats(), st.integers(-5, 2**80), st.just([1]))
        )
    text = json.dumps(good)
    if kind == 1:
        text = text[: draw(st.integers(1, len(text)))]
    if kind == 2:
        text = draw(
            st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=9)
        )
    return text


@st.composite
def dirty_files(draw) -> str:
    rows = [mooncake_row(draw) for _ in range(draw(st.integers(1, 15)))]
    return "\n".join(rows) + draw(st.sampled_from(["\n", "", "\n\n", "\r\n"]))


@relaxed
@given(text=dirty_files(), smooth=st.booleans(), sort=st.sampled_from(["window", "full"]))
def test_every_row_is_accounted_for_and_arrivals_do_not_fall(tmp_path, text, smooth, sort):
    path = tmp_path / "dirty.jsonl"
    path.write_bytes(text.encode())
    requests, trace = attempted(path, format="mooncake", smooth=smooth, sort=sort)
    if trace is None:
        return
    report = trace.report
    assert report.rows == sum(1 for line in text.encode().split(b"\n") if line.strip())
    assert report.rows == report.requests + report.dropped_rows
    assert report.requests == len(requests)
    assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(requests))
    assert len({r.id for r in requests}) == len(requests)
    for request in requests:
        assert count_tokens(request.prompt) == request.prompt_tokens >= 1
        assert count_tokens(request.output) == request.output_tokens >= 1


@relaxed
@given(content=st.binary(max_size=400), kind=st.sampled_from(["auto", *formats.names()]))
def test_no_bytes_raise_anything_but_an_error_with_a_place(tmp_path, content, kind):
    path = tmp_path / "noise"
    path.write_bytes(content)
    attempted(path, format=kind)


HEADS = (
    b'{"timestamp": 0, "input_length": 3, "output_length": 2, "hash_ids": [1]}\n',
    b'{"id": "a", "arrival": 0, "prompt_token_ids": [1], "output_length": 1}\n',
    b'{"chat_id": 1, "timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [1]}\n',
    b'{"id": "s", "hash_id_scope": "local", "requests": [{"t": 0, "in": 64, "out": 1, "hash_ids": [1]}]}\n',
    b'{"spans": [{"start_time": "2026-01-01T00:00:00Z", "attributes": {"gen_ai.usage.input_tokens": 1}}]}\n',
    b'{"session_id": "s", "input_tokens_total": 1, "output_tokens": 1, "timing_events": []}\n',
    b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n",
    b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,x,1,1,2,y\n",
    b"arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,3\n",
)


@relaxed
@example(head=HEADS[0], place=76, noise=b"\x80")
@example(head=HEADS[0], place=1, noise=b"\x80")
@given(head=st.sampled_from(HEADS), place=st.integers(0, 100), noise=st.binary(min_size=1, max_size=8))
def test_damaged_traces_of_every_format_are_read_or_refused_in_order(tmp_path, head, place, noise):
    path = tmp_path / "damaged"
    content = head + head
    place = place * len(content) // 100
    path.write_bytes(content[:place] + noise + content[place + len(noise) :])
    requests, trace = attempted(path)
    assert trace is None or trace.report.rows == len(requests) + trace.report.dropped_rows
