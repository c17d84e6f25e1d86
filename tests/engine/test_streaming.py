"""A front end whose thread hands tokens out: what it costs, and what merging bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.clients import InFlightLimit
from kvplan.engine.config import EngineConfig
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.engine.streaming import Streamer
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request, default_output

STEP_S = 0.01
CONFIG = EngineConfig(
    num_blocks=4000, block_size=16, max_model_len=4096, max_num_seqs=256, max_num_batched_tokens=8192
)


def request(number: int, arrival_s: float = 0.0, output: int = 41) -> Request:
    return Request(
        str(number), arrival_s, ((number * 1000, 10),), 10, default_output(number, output), output
    )  # fmt: skip


def served(
    workload: list[Request],
    output_s: float,
    chunk_s: float,
    *,
    server_s: float = 0.0,
    limit: int | None = None,
) -> tuple[list[RequestRow], Streamer]:
    rows: list[RequestRow] = []
    engine = Replica(CONFIG, LinearLatency(STEP_S, 0.0, 0.0), Recorder(on_request=rows.append, series=False))
    inner: Arrivals = Arrivals(workload)
    front = Streamer(
        inner if limit is None else InFlightLimit(inner, limit, 0.0), lambda _: server_s, output_s, chunk_s
    )
    engine.run(front)
    engine.close()
    return sorted(rows, key=lambda row: int(row.id)), front


def test_alone_every_token_is_late_by_its_own_work() -> None:
    (row,), front = served([request(0)], 0.0005, 0.001)
    assert row.first_token_s == pytest.approx(STEP_S + 0.0015)
    assert row.finish_s == pytest.approx(41 * STEP_S + 0.0015)
    assert (front.outputs, front.chunks) == (41, 41)
    assert front.busy_s == pytest.approx(41 * 0.0015)


def test_a_step_s_streams_are_written_one_after_the_other() -> None:
    rows, _ = served([request(n) for n in range(4)], 0.0, 0.001)
    # First tokens of one step share the middle of their places, last ones have each its own.
    assert [row.first_token_s for row in rows] == pytest.approx([STEP_S + 0.0025] * 4)
    assert [row.finish_s for row in rows] == pytest.approx([41 * STEP_S + 0.001 * (n + 1) for n in range(4)])


def test_what_streams_are_behind_goes_in_one_chunk_and_bounds_how_late_they_are() -> None:
    """40 ms of chunks a round, in steps of 10 ms: four tokens a chunk, and nobody is later than two rounds."""
    rows, front = served([request(n, output=400) for n in range(40)], 0.0, 0.001)
    assert front.outputs / front.chunks == pytest.approx(4.0, rel=0.05)
    assert all(row.finish_s - 400 * STEP_S <= 2 * 0.04 + STEP_S for row in rows)


def test_work_on_outputs_is_not_merged_and_grows_behind() -> None:
    """20 ms of work on every step of 10 ms: as late at the end as the run is long."""
    rows, _ = served([request(n, output=200) for n in range(40)], 0.0005, 0.0)
    assert max(row.finish_s for row in rows) == pytest.approx(200 * 0.02 + STEP_S, rel=0.02)


def test_requests_wait_behind_tokens_and_tokens_behind_requests() -> None:
    late = request(40, arrival_s=1.0005)
    alone, _ = served([late], 0.0, 0.001, server_s=0.005)
    behind, _ = served([*(request(n, output=400) for n in range(40)), late], 0.0, 0.001, server_s=0.005)
    assert alone[0].arrival_s == behind[-1].arrival_s == 1.0005
    assert alone[0].scheduled_s == pytest.approx(1.0055)
    assert behind[-1].scheduled_s > 1.0055 + 0.01
    burst, _ = served(
        [request(0), *(request(n, arrival_s=0.012) for n in range(1, 11))], 0.0, 1e-6, server_s=0.005
    )
    assert burst[0].first_token_s >= 0.012 + 10 * 0.005


def test_a_loop_s_clients_send_when_they_have_seen_the_last_token() -> None:
    rows, _ = served([request(n, output=5) for n in range(3)], 0.0, 0.004, limit=1)
    for before, after in pairwise(rows):
        assert after.arrival_s == pytest.approx(before.finish_s)
    assert rows[0].finish_s == pytest.approx(5 * STEP_S + 0.004)


def test_answers_of_one_token_have_one_time() -> None:
    rows, _ = served([request(n, output=1) for n in range(3)], 1e-4, 1e-3)
    assert all(row.first_token_s == row.finish_s for row in rows)


def test_what_is_over_is_forgotten() -> None:
    _, front = served([request(n, arrival_s=0.5 * n, output=60) for n in range(400)], 0.0, 0.001)
    assert len(front._ended_s) == len(front._written) <= 10_000
    assert not front._sent_s
    assert not front._alive
