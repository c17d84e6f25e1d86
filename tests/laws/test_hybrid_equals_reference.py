"""The engine of several cache groups decides what the reference decides, on random pools and workloads."""

from __future__ import annotations

import os

from grouped import grouped_cases
from hypothesis import HealthCheck, assume, given, settings

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.hybrid.replica import HybridReplica
from kvplan.engine.instance import simulated_in_segments
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.loop import ReferenceEngine
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

EXAMPLES = int(os.environ.get("KVPLAN_FUZZ_EXAMPLES", "500"))


def play(kind: type, config: EngineConfig, requests: list[Request], *, log: bool) -> tuple[object, ...]:
    lines: list[str] = []
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    engine = kind(config, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
    stuck = None
    try:
        engine.run(requests)
    except EngineStuck as exc:  # mutual preemptions without end: the real scheduler does that, too
        stuck = str(exc)
    engine.close()
    return lines, rows, recorder.totals.to_dict(), recorder.series, recorder.rejections, stuck


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES <= 500,
    suppress_health_check=list(HealthCheck),
)
@given(grouped_cases())
def test_hybrid_equals_reference(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    assume(simulated_in_segments(config))
    reference = play(ReferenceEngine, config, requests, log=True)
    assert play(HybridReplica, config, requests, log=True) == reference
    # Without a decision log quiet steps are run through in bulk.
    assert play(HybridReplica, config, requests, log=False)[1:] == reference[1:]
