"""Recorded decisions of vLLM 0.33's schedulers of prefill and decode pools whose caches have several groups.

Both schedulers and the scheduler's side of the NIXL connector were vLLM's, told what this engine's own were told at
every call, and asked for a step when these were; they decided the same every time, held, cached and gave back the
same blocks, and the blocks that NIXL's worker would have paired and read, and those it would not, were those counted
here. Prompts were cut for states, and for modules that draft in turns, by the connector itself. Runs with drafts
say how many of them stand.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from recorded_runs import Way, digest, recordings, request

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.speculation.acceptance import Acceptance
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency

PLAIN = recordings("vllm-0.33.0-pools-groups.json.gz")
DRAFTED = recordings("vllm-0.33.0-drafts-pools-groups.json.gz")
POOLS = [*PLAIN, *DRAFTED]


def config_of(run: dict[str, Any], **own: Any) -> EngineConfig:
    drafting = run.get("drafting", ())
    groups = tuple(CacheGroup(*group, drafts=place in drafting) for place, group in enumerate(run["groups"]))
    return EngineConfig(**{**run["config"], **own, "groups": groups})


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("number", range(len(POOLS)))
def test_pools(number: int, log: bool) -> None:
    run = POOLS[number]
    block, state = run["sizes"]
    drafts = None
    if "rules" in run:
        drafts = Speculation(DraftRules(*run["rules"]), Acceptance(tuple(run["rates"]), run["seed"]))
    strategy = Disaggregation(
        (Stage("link", Way(*run["link"]), prefill=True, decode=True, link=True),),
        block,
        PoolPlan(run["instances"][0], config=config_of(run)),
        PoolPlan(run["instances"][1], config=config_of(run, **run["decode"])),
        drafts=drafts,
        handover=Handover(run["handover"]),
        state_bytes=state,
    )
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None, series=log)
    engine = strategy.engine(config_of(run), LinearLatency(*run["clock"]), recorder)
    engine.run([request(*asked) for asked in run["requests"]])
    engine.close()
    if log:
        assert digest(lines) == run["decisions"]
    table = sorted([*row[:5], *row[7:]] for row in rows)
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"]
    found = {metric.name: metric.value for metric in recorder.sections["disaggregation"]}
    assert [found["moved_bytes"], found["kept_bytes"]] == run["moved"]
    blocks, states, _ = run["sent"]
    assert found["moved_bytes"] == blocks * block + states * state
    assert [found["prefill_preemptions"], found["decode_preemptions"]] == run["preempted"]
    if drafts is not None:
        assert [metric.value for metric in recorder.sections["speculative decoding"][:3]] == run["drafted"]


def test_the_recordings_have_what_they_are_for() -> None:
    kinds = ["".join(sorted({kind[0] for kind, *_ in run["groups"]})) for run in PLAIN]
    assert {"fs", "fm", "fms", "cf", "s"} == set(kinds)
    stateful = [run for run, kind in zip(PLAIN, kinds, strict=True) if "m" in kind]
    assert sum(run["diverged"] for run in stateful) > 100  # full attention had more of a prompt than states
    assert sum(run["whole"] for run in stateful) > 10  # nothing had to come
    assert sum(run["sent"][1] for run in stateful) > 100
    assert {len({size for _, size, _ in run["groups"]}) > 1 for run in POOLS} == {True, False}
    for option in ("async_scheduling", "enable_prefix_caching", "scheduler_reserve_full_isl"):
        assert {run["config"][option] for run in POOLS} == {True, False}
    assert {run["handover"] for run in POOLS} == {"kept", "repeated"}
    assert {run["config"]["retention_interval"] for run in POOLS} >= {0, None}
    for pool in (0, 1):
        assert sum(run["preempted"][pool] for run in POOLS) > 30
    assert {(bool(run["rules"][1]), run["rules"][3], run["rules"][5] > 1) for run in DRAFTED} == {
        (True, True, False), (True, True, True), (True, False, False), (False, False, False),
    }  # fmt: skip
    assert sum(run["drafted"][1] for run in DRAFTED) > 2000
    assert {"mamba" in {kind for kind, *_ in run["groups"]} for run in DRAFTED} == {True, False}
