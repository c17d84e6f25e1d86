"""Recorded decisions of vLLM 0.33's prefill and decode instances that are data-parallel ranks in step.

Every instance of a run went round the busy loops of its engine cores (``DPEngineCoreProc``), with their waves, empty
batches and queues of two batches, above vLLM's own schedulers. What reaches an instance, and when (requests,
caches that have come or were read), is kvplan's, and how long steps take is a clock's of the tests. Runs with drafts
draw by seed how many stand. Above several cache groups the connector was NIXL's, too, and the blocks that its worker
would have paired and read, and those it would not, were those counted here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from drafted_runs import Passes
from recorded_runs import digest, recordings, request

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation

ONE_GROUP = recordings("vllm-0.33.0-pools-ranks.json.gz")
HYBRID = recordings("vllm-0.33.0-pools-ranks-groups.json.gz")
RUNS = [*ONE_GROUP, *HYBRID]


class Link:
    def __init__(self, transfer_s: float, block_s: float) -> None:
        self.transfer_s, self.block_s = transfer_s, block_s

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.transfer_s + self.block_s * size if size else 0.0


def config_of(run: dict[str, Any], **own: Any) -> EngineConfig:
    config = EngineConfig(**{**run["config"], **own})
    if "groups" not in run:
        return config
    groups = [
        CacheGroup(*group, drafts=place in run["drafting"]) for place, group in enumerate(run["groups"])
    ]
    return replace(config, groups=tuple(groups))


def strategy_of(run: dict[str, Any]) -> Disaggregation:
    drafts = None
    if run["rules"] is not None:
        drafts = Speculation(DraftRules(*run["rules"]), Acceptance(tuple(run["rates"]), run["seed"]))
    pools = [
        PoolPlan(
            instances,
            config=config,
            ranks=None if ranks is None else Ranks(ranks, min(ranks, run["adapters"]), balancer),
        )
        for instances, config, ranks, balancer in zip(
            run["instances"],
            (config_of(run), config_of(run, **run["decode"])),
            run["ranks"],
            run["balancers"],
            strict=True,
        )
    ]
    block, state = run["sizes"]
    return Disaggregation(
        (Stage("link", Link(*run["link"]), prefill=True, decode=True, link=True),),
        block,
        *pools,
        first_token=FirstToken(run["first_token"]),
        drafts=drafts,
        handover=Handover(run["handover"]),
        state_bytes=state,
    )


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(RUNS)))
def test_pools_of_ranks(number: int, log: bool) -> None:
    run = RUNS[number]
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None, series=log)
    clock = Passes(*run["clock"], *run["passes"])
    engine = strategy_of(run).engine(config_of(run), clock, recorder)
    engine.run([request(*asked) for asked in run["requests"]])
    engine.close()
    if log:
        assert digest(lines) == run["decisions"]
    table = [[*row[:5], *row[7:]] for row in sorted(rows)]
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    totals = recorder.totals
    assert [
        totals.steps, totals.evicted_blocks, totals.queried_tokens, totals.hit_tokens, totals.preemptions
    ] == run["totals"]  # fmt: skip
    if "groups" in run:
        found = {metric.name: metric.value for metric in recorder.sections["disaggregation"]}
        assert [found["moved_bytes"], found["kept_bytes"]] == run["moved"]
        assert [found["prefill_preemptions"], found["decode_preemptions"]] == run["preempted"]


@pytest.mark.parametrize("runs", [ONE_GROUP, HYBRID])
def test_the_recordings_have_what_they_are_for(runs: list[dict[str, Any]]) -> None:
    assert {tuple(map(bool, run["ranks"])) for run in runs} == {(True, True), (True, False), (False, True)}
    assert {run["config"]["async_scheduling"] for run in runs} == {True, False}
    assert {run["handover"] for run in runs} == {"kept", "repeated"}
    assert {count for run in runs for count in run["instances"]} == {1, 2}
    assert sum(run["decode"]["prefill_schedule_interval"] > 1 for run in runs) >= 5
    assert sum(run["rules"] is not None for run in runs) >= 4
    assert sum(run["totals"][4] > 0 for run in runs) >= 5
    assert {run["first_token"] for run in ONE_GROUP} == {"decode", "prefill"}


def test_recordings_of_hybrid_models_have_every_kind_of_layer() -> None:
    kinds = {"".join(sorted({kind[0] for kind, *_ in run["groups"]})) for run in HYBRID}
    assert kinds == {"fs", "fm", "fms", "cf", "s"}
    assert {len({size for _, size, _ in run["groups"]}) > 1 for run in HYBRID} == {True, False}
    assert sum(run["whole"] for run in HYBRID) > 0  # nothing had to come
    for pool in (0, 1):
        assert sum(run["beside"][pool] for run in HYBRID) > 100  # empty batches beside others
        assert sum(run["preempted"][pool] for run in HYBRID) > 5
    assert sum(run["rules"] is not None for run in HYBRID) >= 8
