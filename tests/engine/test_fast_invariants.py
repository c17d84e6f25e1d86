"""The fast engine's own books after every step: conservation, the free queue, the shape of the index."""

from __future__ import annotations

from audited import Audited
from fuzzing import examples
from hypothesis import given
from workloads import cases

from kvplan.engine.config import EngineConfig
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request


@examples(150)
@given(cases())
def test_books_are_kept(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    recorder = Recorder(on_decision=lambda line: None)
    engine = Audited(config, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
    engine.run(requests)
    engine.audit()
    assert engine.scheduler.pool.blank + engine.scheduler.pool.cached == config.usable_blocks


@examples(60)
@given(cases())
def test_a_series_changes_nothing_else(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    told = []
    for series in (True, False):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append, series=series)
        engine = Replica(config, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
        engine.run(requests)
        engine.close()
        told.append((rows, recorder.totals.to_dict()))
    assert told[0] == told[1]
