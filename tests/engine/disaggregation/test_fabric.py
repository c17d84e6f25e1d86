"""Adapters: who waits for whom, and what passes where."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.engine.disaggregation.fabric import Fabric, Stage
from kvplan.errors import UsageError


@dataclass(frozen=True)
class Line:
    """Bytes a second, and a fixed time each."""

    rate: float
    latency_s: float = 0.0

    def seconds(self, size: int, /) -> float:
        return self.latency_s + size / self.rate if size else 0.0


LINK = Stage("link", Line(100.0), prefill=True, decode=True, link=True)


def test_transfers_wait_where_they_share_an_end() -> None:
    fabric = Fabric((LINK,), prefills=2, decodes=2)
    assert fabric.send(0, 0, 100, 0.0, 0.0) == 1.0
    assert fabric.send(1, 1, 100, 0.0, 0.0) == 1.0, "nothing in common"
    assert fabric.send(0, 1, 100, 0.5, 0.5) == 2.0, "both its ends are taken"
    assert fabric.send(1, 0, 300, 5.0, 5.0) == 8.0, "all free by then"
    assert fabric.moved_bytes == 600
    assert fabric.link_busy_s() == (6.0, 6.0)


def test_through_the_host_is_one_stage_after_the_other() -> None:
    out, back = Stage("out", Line(50.0), prefill=True), Stage("back", Line(25.0), decode=True)
    fabric = Fabric((out, LINK, back), 1, 1)
    assert fabric.send(0, 0, 100, 0.0, 0.0) == 2.0 + 1.0 + 4.0
    # The next one follows through the stages as they become free.
    assert fabric.send(0, 0, 100, 0.0, 0.0) == 7.0 + 4.0


def test_a_smaller_format_travels_as_fewer_bytes() -> None:
    fabric = Fabric((Stage("link", Line(100.0), prefill=True, decode=True, ratio=0.5, link=True),), 1, 1)
    assert fabric.send(0, 0, 101, 0.0, 0.0) == pytest.approx(0.51)
    assert fabric.moved_bytes == 51


def test_nothing_takes_no_time_and_no_turn() -> None:
    fabric = Fabric((LINK,), 1, 1)
    assert fabric.send(0, 0, 0, 1.0, 4.0) == 4.0
    assert fabric.send(0, 0, 100, 0.0, 0.0) == 1.0


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 1), st.integers(1, 500), st.floats(0, 20), st.integers(1, 6)
        ),
        max_size=30,
    )
)
def test_an_adapter_never_does_two_things_at_a_time(sends: list[tuple[int, int, int, float, int]]) -> None:
    """At any time it has worked no longer than the time that has passed, and arrivals are never early."""
    fabric = Fabric((LINK,), 3, 2)
    for prefill, decode, size, ready, pieces in sends:
        done = fabric.send(prefill, decode, size, ready, ready, pieces)
        assert done >= ready + size / 100.0 - 1e-9
        for ends in (fabric.senders, fabric.receivers):
            for (adapter,) in ends:
                assert adapter.busy_s <= adapter.free_s + 1e-9


def test_a_route_has_one_link() -> None:
    with pytest.raises(UsageError, match="exactly one link"):
        Fabric((Stage("out", Line(1.0), prefill=True),), 1, 1)
