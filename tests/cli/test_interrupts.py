"""Signals: obeyed between records, at once the second time, and never where the starter had them ignored."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from kvplan.cli.interrupts import SIGNALS, Interrupts


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    former = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_at_once_outside_records(number: signal.Signals) -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_end_of_a_record(number: signal.Signals) -> None:
    done = []

    def record() -> None:
        with interrupts.held:
            signal.raise_signal(number)
            done.append("whole")

    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            record()
        with interrupts.held:  # it was obeyed, and is forgotten
            done.append("next")
    assert done == ["whole", "next"]


def test_a_second_signal_does_not_wait() -> None:
    done = []

    def record() -> None:
        with interrupts.held:
            signal.raise_signal(signal.SIGINT)
            done.append("still")
            signal.raise_signal(signal.SIGINT)
            done.append("never")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        record()
    assert done == ["still"]


def test_what_was_ignored_stays_ignored_and_handlers_come_back() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts() as interrupts, interrupts.held:
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == before
