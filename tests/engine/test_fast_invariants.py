"""The fast engine's own books after every step: conservation, the free queue, the shape of the index."""

from __future__ import annotations

from audited import Audited
from hypothesis import HealthCheck, given, settings
from workloads import cases

from kvplan.engine.config import EngineConfig
from kvplan.engine.recorder import Recorder
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request


@settings(max_examples=150, deadline=None, database=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(cases())
def test_books_are_kept(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    recorder = Recorder(on_decision=lambda line: None)
    engine = Audited(config, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
    engine.run(requests)
    engine.audit()
    assert engine.scheduler.pool.blank + engine.scheduler.pool.cached == config.usable_blocks
