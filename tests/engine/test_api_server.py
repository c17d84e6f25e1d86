"""The process in front of the engine: one request after the other, and latencies count from when they were sent."""

from __future__ import annotations

import pytest

from kvplan.engine.api_server import ApiServer
from kvplan.engine.arrivals import Arrivals
from kvplan.engine.clients import Conversations, InFlightLimit
from kvplan.traces.request import Request, default_output


def request(name: str, arrival_s: float = 0.0, tokens: int = 100, **more: object) -> Request:
    return Request(name, arrival_s, ((0, tokens),), tokens, default_output(0, 2), 2, **more)  # type: ignore[arg-type]


def service_s(tokens: int) -> float:
    return 0.001 + 1e-5 * tokens


def drained(arrivals: Arrivals) -> list[Request]:
    found = []
    while not arrivals.over:
        now = arrivals.next_s
        found.append(arrivals.take())
        assert found[-1].arrival_s == now
    return found


def test_requests_sent_together_come_one_after_the_other() -> None:
    server = ApiServer(Arrivals([request(str(index)) for index in range(4)]), service_s)
    assert [r.arrival_s for r in drained(server)] == pytest.approx([0.002, 0.004, 0.006, 0.008])
    assert [server.first_sent_s(str(index)) for index in range(4)] == [0.0] * 4


def test_an_idle_server_only_works_on_the_request() -> None:
    server = ApiServer(Arrivals([request("a", 1.0), request("b", 2.0, 900)]), service_s)
    assert [r.arrival_s for r in drained(server)] == pytest.approx([1.002, 2.010])


def test_servers_side_by_side_share_the_work_and_keep_the_order() -> None:
    lengths = [2000, 100, 100, 100]
    one, two = (
        drained(ApiServer(Arrivals([request(str(n), 0.0, k) for n, k in enumerate(lengths)]), service_s, count))
        for count in (1, 2)
    )  # fmt: skip
    for found in (one, two):
        assert [r.arrival_s for r in found] == sorted(r.arrival_s for r in found)
    assert two[0].arrival_s == one[0].arrival_s
    assert two[-1].arrival_s < one[-1].arrival_s


def test_a_full_loop_sends_when_answers_come_and_its_clients_count_from_then() -> None:
    loop = InFlightLimit(Arrivals([request(str(index)) for index in range(3)]), 2, 0.01)
    server = ApiServer(loop, service_s)
    assert server.waits
    first, second = server.take(), server.take()
    assert (first.arrival_s, second.arrival_s) == pytest.approx((0.002, 0.004))
    assert server.next_s == float("inf")
    server.answered(first.id, 1.0)
    assert server.next_s == pytest.approx(1.012)
    third = server.take()
    assert server.first_sent_s(third.id) == pytest.approx(1.01)
    server.turned_away(third.id)
    server.gave_up(second.id, 2.0)
    assert server.over


def test_the_work_on_a_turn_is_that_of_its_own_prompt() -> None:
    turns = [
        request("a", 0.0, 100, session="s"),
        request("b", 0.5, 5000, session="s", follows=("a", 0.2)),
        request("c", 9.0, 300, session="t"),
    ]
    server = ApiServer(Conversations(turns, 0.0), service_s)
    server.take()
    server.answered("a", 1.0)
    assert [r.arrival_s for r in drained(server)] == pytest.approx([1.2 + 0.051, 9.004])


def test_sessions_that_wait_for_a_place_are_looked_at_too() -> None:
    sessions = [request(name, 0.0, tokens, session=name) for name, tokens in (("a", 100), ("b", 700))]
    turn = request("a2", 0.0, 100, session="a", follows=("a", 0.1))
    server = ApiServer(Conversations([sessions[0], turn, sessions[1]], 0.0, limit=1), service_s)
    server.take()
    server.answered("a", 1.0)
    server.take()
    server.answered("a2", 2.0)
    assert server.take().arrival_s == pytest.approx(2.008)
