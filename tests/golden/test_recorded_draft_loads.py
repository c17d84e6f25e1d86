"""Recorded decisions of vLLM 0.33's scheduler with drafts where prompts come from elsewhere.

Of the first file, connector and clock are those of ``test_recorded_loads``, drafts those of
``test_recorded_drafts``; it has several modules that draft in turns, too. Of the second, both schedulers of a
prefill and a decode pool were vLLM's, each told what this engine's own was told at every call (a request, a step's
outputs, KV that has come or was sent), and asked for a step when it was; they decided the same every time.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from drafted_runs import play, recorded
from elsewhere import Elsewhere
from recorded_runs import digest, recordings, request

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.loading import DraftRemoteReplica
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency

LOADS, POOLS = (recordings(f"vllm-0.33.0-drafts-{what}.json.gz") for what in ("loads", "pools"))


class Link:
    def __init__(self, transfer_s: float, block_s: float) -> None:
        self.transfer_s, self.block_s = transfer_s, block_s

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.transfer_s + self.block_s * size if size else 0.0


def _sha(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(LOADS)))
def test_loads(number: int, log: bool) -> None:
    run = LOADS[number]
    config, rules = EngineConfig(**run["config"]), DraftRules(*run["rules"])
    stood = recorded(rules.tokens, run["accepted"])
    made: list[DraftRemoteReplica] = []

    def make(recorder: Recorder) -> DraftRemoteReplica:
        clock, source = LinearLatency(*run["clock"]), Elsewhere(run)
        made.append(DraftRemoteReplica(config, clock, recorder, source, rules=rules, acceptance=stood))
        return made[0]

    played = play(run, make, log=log)
    table = [
        [row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions]
        for row in played.rows
    ]
    if log:
        assert digest(played.lines) == run["decisions"]
    assert played.aborted == run["aborted"]
    assert _sha(table) == run["rows"]
    totals = made[0].recorder.totals
    assert run["totals"] == [
        totals.steps, made[0].remote.loads, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens,
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(POOLS)))
def test_pools(number: int) -> None:
    run = POOLS[number]
    prefill, decode = EngineConfig(**run["config"]), EngineConfig(**{**run["config"], **run["decode"]})
    drafts = Speculation(DraftRules(*run["rules"]), Acceptance(tuple(run["rates"]), run["seed"]))
    senders, receivers = run["instances"]
    strategy = Disaggregation(
        (Stage("link", Link(*run["link"]), prefill=True, decode=True, link=True),),
        1,
        PoolPlan(senders, config=prefill),
        PoolPlan(receivers, config=decode),
        first_token=FirstToken(run["first_token"]),
        drafts=drafts,
    )
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append)
    engine = strategy.engine(prefill, LinearLatency(*run["clock"]), recorder)
    engine.run([request(*asked) for asked in run["requests"]])
    engine.close()
    assert digest(lines) == run["decisions"]
    assert _sha(sorted([*row[:5], *row[7:]] for row in rows)) == run["rows"]
    assert [metric.value for metric in recorder.sections["speculative decoding"][:3]] == run["drafted"]


def test_the_recordings_have_what_they_are_for() -> None:
    kinds = {(run["rules"][3], run["rules"][4], run["rules"][5] > 1) for run in LOADS}
    assert kinds == {(True, 0, False), (False, 1, False), (False, 0, False), (True, 0, True)}
    assert sum(run["totals"][1] for run in LOADS) > 100
    assert sum(bool(run["aborted"]) for run in LOADS) > 5
    assert {run["config"]["async_scheduling"] for run in (*LOADS, *POOLS)} == {True, False}
    assert {run["first_token"] for run in POOLS} == {"decode", "prefill"}
    assert sum(run["drafted"][2] for run in POOLS) > 100
