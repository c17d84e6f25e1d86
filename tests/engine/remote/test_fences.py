"""Overlapping steps of an engine that loads: no block is free under a step, worked out by hand.

vLLM calls it ``defer_block_free``. Every step takes one second, and two are in flight: a step is planned when the
one before it begins.
"""

from __future__ import annotations

from no_source import NoSource

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.config import EngineConfig
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.remote.replica import RemoteReplica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request


def request(name: str, arrival: float, prompt: int, output: int, priority: int = 0) -> Request:
    first = 10_000 * (1 + sum(map(ord, name)))
    return Request(name, arrival, ((first, prompt),), prompt, ((first + 5_000, output),), output, priority)


def engine(**options: object) -> tuple[RemoteReplica, dict[str, RequestRow], list[str]]:
    rows: dict[str, RequestRow] = {}
    lines: list[str] = []
    recorder = Recorder(on_request=lambda row: rows.update({row.id: row}), on_decision=lines.append)
    settings = {"block_size": 4, "max_model_len": 24, "async_scheduling": True, **options}
    step = LinearLatency(1.0, 0.0, 0.0)
    return RemoteReplica(EngineConfig(**settings), step, recorder, NoSource()), rows, lines  # type: ignore[arg-type]


def test_nobody_is_preempted_under_a_step() -> None:
    replica, rows, lines = engine(num_blocks=7, enable_prefix_caching=False)
    replica.run([request("a", 0.0, 11, 6), request("b", 0.0, 12, 6)])
    # a takes the 12th token of its 3 blocks; b, whose 3 are full, is the last in line and in flight itself: it
    # goes without, and is preempted a step later, when a needs a block and b was not in the step before.
    assert lines[:3] == ["a=11,b=12|0|2|0|", "a=1|0|2|0|", "a=1|2|1|1|b"]
    assert rows["b"].preemptions == 1


def test_who_waits_is_looked_at_where_nobody_could_be_preempted() -> None:
    replica, rows, lines = engine(num_blocks=8, enable_prefix_caching=False, long_prefill_token_threshold=8)
    replica.run([request("a", 0.0, 22, 2), request("b", 0.0, 4, 6), request("c", 0.5, 3, 1)])
    # At 1 the rest of a's prompt needs 2 blocks and 1 is free; b is in flight and stays; c takes that block.
    assert lines[:3] == ["a=8,b=4|4|2|0|", "a=8,b=1|1|2|0|", "c=3|0|3|0|"]
    assert rows["c"].scheduled_s == 1.0


def test_blocks_of_who_gave_up_are_free_when_the_step_in_flight_has_ended() -> None:
    replica, rows, _ = engine(num_blocks=7, enable_prefix_caching=False)
    arrivals = Arrivals([request("a", 0.0, 13, 9), request("b", 2.9, 20, 1)])
    replica.run(Impatient(arrivals, Patience(2.5)))
    # a's client has gone when the step up to 3 ends, but the next one computes a until 4.
    assert rows["b"].scheduled_s == 4.0
    assert "a" not in rows
