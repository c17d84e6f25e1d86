"""Recorded decisions of vLLM 0.33's schedulers of prefill and decode pools, with drafts and without.

Both schedulers were vLLM's, each told what this engine's own was told at every call (a request, a step's outputs,
KV that has come or was sent, a load that nobody waits for any more), and asked for a step when it was; they decided
the same every time. Prefill instances have either role: ``kv_both``, which keeps blocks under a step in flight
(``kept``), and ``kv_producer``, which computes what it preempts again. Where prediction layers draft in turns,
they are asked for all but the last tokens of a prompt.
"""

from __future__ import annotations

import hashlib
import json

import pytest
from recorded_runs import digest, recordings, request

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency

POOLS = recordings("vllm-0.33.0-pools.json.gz")


class Link:
    def __init__(self, transfer_s: float, block_s: float) -> None:
        self.transfer_s, self.block_s = transfer_s, block_s

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.transfer_s + self.block_s * size if size else 0.0


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(POOLS)))
def test_pools(number: int, log: bool) -> None:
    run = POOLS[number]
    prefill, decode = EngineConfig(**run["config"]), EngineConfig(**{**run["config"], **run["decode"]})
    drafts = None
    if run["rules"] is not None:
        drafts = Speculation(DraftRules(*run["rules"]), Acceptance(tuple(run["rates"]), run["seed"]))
    senders, receivers = run["instances"]
    strategy = Disaggregation(
        (Stage("link", Link(*run["link"]), prefill=True, decode=True, link=True),),
        1,
        PoolPlan(senders, config=prefill),
        PoolPlan(receivers, config=decode),
        layers=run["layers"],
        first_token=FirstToken(run["first_token"]),
        drafts=drafts,
        handover=Handover(run["handover"]),
    )
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None, series=log)
    engine = strategy.engine(prefill, LinearLatency(*run["clock"]), recorder)
    engine.run([request(*asked) for asked in run["requests"]])
    engine.close()
    if log:
        assert digest(lines) == run["decisions"]
    table = sorted([*row[:5], *row[7:]] for row in rows)
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    found = recorder.sections["disaggregation"]
    assert [one.value for one in found if one.name == "prefill_preemptions"] == [run["preempted"]]
    if drafts is not None:
        assert [metric.value for metric in recorder.sections["speculative decoding"][:3]] == run["drafted"]


def test_the_recordings_have_what_they_are_for() -> None:
    kinds = {(bool(run["rules"]), run["handover"]) for run in POOLS if run["config"]["async_scheduling"]}
    assert len(kinds) == 4
    modules = [run for run in POOLS if run["rules"] and run["rules"][5] > 1]
    assert len(modules) == 8
    assert {bool(run["layers"]) for run in modules} == {True, False}
    assert {run["first_token"] for run in POOLS} == {"decode", "prefill"}
    for handover in ("kept", "repeated"):
        assert sum(run["preempted"] for run in POOLS if run["handover"] == handover) > 10
    assert sum(run["drafted"][1] for run in POOLS if run["drafted"]) > 500
