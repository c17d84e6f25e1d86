"""Plays recorded runs with drafts above vLLM's own host memory, and compares what they decided."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from drafted_runs import play
from offloading_runs import Copies
from recorded_runs import digest

from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import Engine
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.recorder import Recorder
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.offloading import DraftOffloadingReplica
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency


def check(
    run: dict[str, Any], config: EngineConfig, kind: type[DraftOffloadingReplica], *, log: bool
) -> None:
    drafts = Speculation(DraftRules(*run["rules"]), Acceptance(tuple(run["rates"]), run["seed"]))
    strategy = Offloading(
        1, run["chunks"], Copies(run["put"]), Copies(run["get"]), run["chunk_blocks"], run["policy"], drafts
    )
    made: list[DraftOffloadingReplica] = []

    def make(recorder: Recorder) -> Engine:
        engine = strategy.engine(config, LinearLatency(*run["clock"]), recorder)
        assert isinstance(engine, kind)
        made.append(engine)
        return engine

    played = play(run, make, log=log)
    (replica,) = made
    if log:
        assert digest(played.lines) == run["decisions"]
    assert played.aborted == run["aborted"]
    table = [[*row[:5], *row[7:]] for row in played.rows]
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    totals, cache = replica.recorder.totals, replica.cache
    assert run["totals"] == [
        totals.steps, replica.scheduler.loads, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens,
        replica.flushes,
    ]  # fmt: skip
    assert run["host"] == [cache.idle, cache.stored, cache.evicted]
    told = replica.recorder.sections["speculative decoding"][:3]
    assert [metric.value for metric in told] == run["drafted"]
