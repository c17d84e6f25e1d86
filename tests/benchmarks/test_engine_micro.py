"""Micro-benchmarks of the engine's parts (``pytest tests/benchmarks --benchmark-enable``); plain tests otherwise."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import make_engine
from kvplan.engine.recorder import Recorder
from kvplan.latency.linear import LinearLatency
from kvplan.traces.synthesize import synthesize


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("workload", ["chat", "fixed"])
def test_serving(benchmark: BenchmarkFixture, engine: str, workload: str) -> None:
    requests = list(synthesize(workload, 150, 20.0, 0))
    config = EngineConfig(num_blocks=2000, max_num_batched_tokens=2048, max_model_len=16384)

    def serve() -> int:
        recorder = Recorder()
        running = make_engine(engine, config, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
        running.run(requests)
        running.close()
        return recorder.totals.finished + recorder.totals.rejected

    assert benchmark(serve) == 150
