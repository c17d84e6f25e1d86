"""Laws of prefill and decode instances that are data-parallel ranks of vLLM."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.engine import DisaggregatedEngine
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.ranks import DecodeRanks, PrefillRanks
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CONFIG = EngineConfig(40, 4, 64, 4, 32)


class Link:
    def seconds(self, size: int, operations: int = 1) -> float:
        return 0.002 + 0.0005 * size if size else 0.0


def requests(seed: int) -> list[Request]:
    rng, asked, arrival_s = random.Random(seed), [], 0.0
    for number in range(30):
        arrival_s += rng.choice([0.0, 0.004, 0.02])
        prompt, output = rng.randint(1, 40), rng.randint(1, 12)
        base = 1000 * rng.randint(0, 3)
        asked.append(
            Request(
                f"r{number}", arrival_s, ((base, prompt),), prompt, ((10**6 + 100 * number, output),), output
            )
        )
    return asked


def played(
    seed: int, prefill: int | None, decode: int | None, *, log: bool = True, stride: int = 1, **more: Any
) -> tuple[DisaggregatedEngine, list[RequestRow], list[str]]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride
    strategy = Disaggregation(
        (Stage("link", Link(), prefill=True, decode=True, link=True),),
        1,
        PoolPlan(2, ranks=None if prefill is None else Ranks(prefill)),
        PoolPlan(1, ranks=None if decode is None else Ranks(decode, decode)),
        **more,
    )
    engine = strategy.engine(CONFIG, LinearLatency(0.01, 0.0001, 0.000001), recorder)
    engine.run(requests(seed))
    engine.close()
    return engine, rows, lines


@pytest.mark.parametrize("seed", range(5))
def test_an_instance_of_one_rank_is_an_instance(seed: int) -> None:
    _, rows, lines = played(seed, None, None)
    _, same, told = played(seed, 1, 1)
    assert same == rows
    assert [line.replace("\t0\t", "\t") for line in told] == lines


@pytest.mark.parametrize("seed", range(5))
def test_steps_taken_in_bulk_are_the_same_steps(seed: int) -> None:
    for stride in (1, 3, 1000):
        one, rows, _ = played(seed, 2, 3, stride=stride)
        other, same, _ = played(seed, 2, 3, stride=stride, log=False)
        assert same == rows
        assert other.recorder.totals.to_dict() == one.recorder.totals.to_dict()
        assert other.recorder.series == one.recorder.series
        assert other.recorder.sections == one.recorder.sections


@pytest.mark.parametrize("seed", range(5))
def test_the_books_balance(seed: int) -> None:
    engine, rows, _ = played(seed, 3, 2)
    assert len(rows) == 30
    for row in rows:
        assert row.arrival_s <= row.scheduled_s <= row.first_token_s <= row.finish_s
    for instance in engine.prefills:
        assert isinstance(instance, PrefillRanks)
        assert [len(rank.scheduler.held) for rank in instance.members] == [0, 0, 0]
        assert not instance.used_blocks
    for receiver in engine.decodes:
        assert isinstance(receiver, DecodeRanks)
        assert not receiver.used_blocks
        assert not receiver.expected
    found = engine.recorder.sections
    dealt = [
        sum(metric.value for metric in found[f"dp_attention {name}"] if metric.name == "ranks")
        for name in ("prefill 0", "prefill 1", "decode")
    ]
    assert dealt == [3, 3, 2]


def test_layers_are_not_sent_by_ranks() -> None:
    with pytest.raises(UsageError, match="layer by layer"):
        played(0, 2, None, layers=3)
