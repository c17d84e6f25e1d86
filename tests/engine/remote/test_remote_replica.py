"""Single loads, step by step, against times worked out by hand."""

from __future__ import annotations

import math

import pytest

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.impatient import Impatient
from kvplan.engine.live import LiveRequest
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.remote.replica import RemoteReplica
from kvplan.engine.remote.source import UNKNOWN, NeverArrives
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

STEP = LinearLatency(1.0, 0.0, 0.0)
"""Every step takes one second."""


class Prompts:
    """Has the prompts of some requests, so many tokens of each, for so many seconds."""

    def __init__(self, tokens: dict[str, int], seconds: float) -> None:
        self.tokens, self.seconds = tokens, seconds

    def lookup(self, request: LiveRequest, start: int) -> int:
        return self.tokens.get(request.request.id, 0) - start

    def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
        return now + self.seconds


def request(name: str, arrival: float, prompt: int, output: int, priority: int = 0) -> Request:
    first = 10_000 * (1 + sum(map(ord, name)))
    return Request(name, arrival, ((first, prompt),), prompt, ((first + 5_000, output),), output, priority)


def engine(source: Prompts, **options: object) -> tuple[RemoteReplica, dict[str, RequestRow], list[str]]:
    rows: dict[str, RequestRow] = {}
    lines: list[str] = []
    recorder = Recorder(on_request=lambda row: rows.update({row.id: row}), on_decision=lines.append)
    settings = {
        "num_blocks": 101,
        "block_size": 4,
        "max_model_len": 100,
        "async_scheduling": False,
        **options,
    }
    return RemoteReplica(EngineConfig(**settings), STEP, recorder, source), rows, lines  # type: ignore[arg-type]


def test_a_load_delays_its_request_and_no_other() -> None:
    replica, rows, lines = engine(Prompts({"a": 8}, 2.5))
    replica.run([request("a", 0.0, 10, 2), request("b", 0.0, 10, 5)])
    # b runs at 0, 1, 2, 3, 4; the load ends at 2.5, the step at 3 finds it, and a takes part from 4 on.
    assert rows["b"].scheduled_s == 0.0
    assert rows["b"].finish_s == 5.0
    assert rows["a"].scheduled_s == 4.0
    assert (rows["a"].first_token_s, rows["a"].finish_s) == (5.0, 6.0)
    assert rows["a"].cached_tokens == 8
    # While it loads, a holds 2 of 100 blocks and counts as waiting; then it computes its last two tokens.
    assert lines[0] == "b=10|95|1|1|"
    assert lines[4] == "b=1,a=2|93|2|0|"


def test_a_load_that_ends_with_a_step_is_found_by_the_next() -> None:
    replica, rows, _ = engine(Prompts({"a": 8}, 2.0))
    replica.run([request("a", 0.0, 10, 1), request("b", 0.0, 10, 9)])
    assert rows["a"].scheduled_s == 3.0


def test_with_overlapping_steps_a_load_is_known_a_step_later() -> None:
    replica, rows, _ = engine(Prompts({"a": 8}, 2.5), async_scheduling=True)
    replica.run([request("a", 0.0, 10, 1), request("b", 0.0, 10, 9)])
    # At 3 the step from 4 on is planned, and finds it; that is known when this one has ended, at 5, when the
    # step from 6 on is planned.
    assert (rows["a"].scheduled_s, rows["a"].first_token_s) == (5.0, 7.0)


def test_empty_steps_tell_in_their_turn() -> None:
    class Uneven(Prompts):
        def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
            return now + (0.75 if request.request.id == "a" else 9.0)

    replica, rows, _ = engine(Uneven({"a": 8, "z": 8}, 0.0), async_scheduling=True)
    asked = [request("a", 0.0, 10, 1), request("z", 0.0, 10, 1), request("b", 0.0, 10, 2)]
    replica.run([*asked, request("c", 1.5, 10, 1)])
    # b is computed until 1 and until 2, so at 1 an empty step is planned, which finds a; it is heard of at 2,
    # after the step for c was planned. So a is in the one after that, which is planned at 2, too.
    assert (rows["b"].finish_s, rows["c"].scheduled_s, rows["a"].scheduled_s) == (2.0, 2.0, 2.0)
    assert (rows["c"].finish_s, rows["a"].finish_s) == (3.0, 4.0)


def test_an_idle_engine_waits_for_its_load_and_starts_on_time() -> None:
    replica, rows, _ = engine(Prompts({"a": 8}, 2.5))
    replica.run([request("a", 1.0, 10, 1)])
    assert rows["a"].scheduled_s == 3.5


def test_arrivals_while_everything_loads_are_served_at_once() -> None:
    replica, rows, _ = engine(Prompts({"a": 8}, 9.0))
    replica.run([request("a", 0.0, 10, 1), request("b", 2.25, 10, 1)])
    assert rows["b"].scheduled_s == 2.25


def test_with_everything_fetched_one_token_is_computed() -> None:
    replica, rows, lines = engine(Prompts({"a": 1000}, 0.0))
    replica.run([request("a", 0.0, 12, 1)])
    assert rows["a"].cached_tokens == 11
    assert lines == ["a=1|97|1|0|"]


def test_what_the_device_has_is_not_fetched() -> None:
    replica, rows, _ = engine(Prompts({"b": 12}, 1.0))
    first = request("a", 0.0, 9, 1)
    second = Request("b", 5.0, (*first.prompt, (7, 6)), 15, ((90_000, 1),), 1)
    replica.run([first, second])
    # Two blocks of the device, one block of 4 tokens fetched, 3 tokens computed.
    assert replica.scheduler.fetched_tokens == 4
    assert replica.scheduler.hit_tokens == 8
    assert rows["b"].cached_tokens == 12


def test_what_was_fetched_can_be_hit() -> None:
    replica, _, _ = engine(Prompts({"a": 8}, 1.0))
    first = request("a", 0.0, 10, 1)
    replica.run([first, Request("b", 50.0, first.prompt, 10, ((90_000, 1),), 1)])
    assert replica.scheduler.hit_tokens == 8


def test_a_loading_request_publishes_nothing() -> None:
    replica, rows, _ = engine(Prompts({"a": 8}, 9.0))
    first = request("a", 0.0, 10, 1)
    replica.run([first, Request("b", 1.0, first.prompt, 10, ((90_000, 1),), 1)])
    assert rows["b"].cached_tokens == 0


def test_loads_take_no_place_among_running_requests() -> None:
    replica, rows, _ = engine(Prompts({"a": 8, "b": 8}, 2.5), max_num_seqs=1)
    replica.run([request("a", 0.0, 10, 2), request("b", 0.0, 10, 1), request("c", 0.0, 10, 1)])
    assert rows["c"].scheduled_s == 0.0
    assert rows["a"].scheduled_s == 2.5
    assert rows["b"].scheduled_s == 4.5


def test_loads_that_have_come_go_first_in_the_order_they_began() -> None:
    class Uneven(Prompts):
        def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
            return now + {"a": 2.4, "b": 1.2}[request.request.id]

    replica, rows, _ = engine(Uneven({"a": 8, "b": 8}, 0.0), max_num_seqs=1)
    names = "abcde"
    replica.run([request(name, 0.0, 10, 1 if name != "c" else 4) for name in names])
    assert sorted(rows, key=lambda name: rows[name].scheduled_s) == ["c", "a", "b", "d", "e"]


def test_by_priority_the_urgent_load_goes_first() -> None:
    replica, rows, _ = engine(Prompts({"a": 8, "b": 8}, 0.5), max_num_seqs=1, policy="priority")
    replica.run([request("a", 0.0, 10, 1, 2), request("b", 0.0, 10, 1, 1), request("c", 0.0, 10, 1, 3)])
    assert sorted(rows, key=lambda name: rows[name].scheduled_s) == ["c", "b", "a"]


def test_a_load_leaves_room_for_prompts_in_computation() -> None:
    # 10 blocks; a needs all of its 7 in four chunks, b (4 blocks) would fit beside a's first chunk only.
    replica, rows, _ = engine(
        Prompts({"b": 12}, 1.0), num_blocks=11, max_num_batched_tokens=9, scheduler_reserve_full_isl=False
    )
    replica.run([request("a", 0.0, 28, 1), request("b", 0.5, 16, 1)])
    assert rows["a"].preemptions == 0
    assert rows["a"].finish_s == 4.0
    assert rows["b"].scheduled_s >= 4.0


def test_a_load_of_unknown_end_ends_when_told() -> None:
    replica, rows, _ = engine(Prompts({"a": 8}, math.inf))
    replica.push(request("a", 0.0, 10, 1))
    replica.advance(10.0)
    assert replica.clock == 10.0
    (load,) = replica.scheduler.queue.loading.values()
    replica.at(12.5, lambda now: replica.ended(load, now))
    replica.advance(UNKNOWN)
    assert rows["a"].scheduled_s == 12.5


def test_a_load_that_never_comes_is_an_error() -> None:
    replica, _, _ = engine(Prompts({"a": 8}, math.inf))
    with pytest.raises(NeverArrives, match="'a'"):
        replica.run([request("a", 0.0, 10, 1)])


def test_what_never_fits_is_still_an_error() -> None:
    # Every request leaves half of the pool free while others run, and loads do, too.
    replica, _, _ = engine(Prompts({}, 0.0), num_blocks=4, max_model_len=12)
    replica.scheduler.pool.blank = 1
    with pytest.raises(EngineStuck, match="'a'"):
        replica.run([request("a", 0.0, 10, 1)])


def test_who_gives_up_may_end_what_holds_everybody_up() -> None:
    class Uneven(Prompts):
        def fetch(self, request: LiveRequest, start: int, tokens: int, now: float) -> float:
            return now + (1.0 if request.request.id == "x" else 4.0)

    replica, rows, _ = engine(
        Uneven({"x": 8, "y": 8}, 0.0), num_blocks=5, max_model_len=16, policy="priority",
        scheduler_reserve_full_isl=False,
    )  # fmt: skip
    # From 4 on both have loaded 2 of 4 blocks: x is first and lacks blocks, y may not pass it. y gives up at 5.5.
    urgent, other = request("x", 2.5, 15, 1, priority=0), request("y", 0.0, 8, 1, priority=1)
    replica.run(Impatient(Arrivals([other, urgent]), Patience(5.5)))
    assert rows.keys() == {"x"}
    assert rows["x"].scheduled_s == pytest.approx(5.5)


def test_timers_fire_in_order_while_the_engine_runs_or_idles() -> None:
    replica, _, _ = engine(Prompts({}, 0.0))
    told: list[tuple[float, float]] = []
    for moment in (3.5, 0.25, 8.0, 3.5):
        replica.at(moment, lambda due: told.append((due, replica.clock)))
    replica.run([request("a", 0.0, 10, 4)])
    # Running steps are not interrupted: what ends at 0.25 is seen at 1.
    assert told == [(0.25, 1.0), (3.5, 4.0), (3.5, 4.0), (8.0, 8.0)]
