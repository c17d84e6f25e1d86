"""Recorded decisions with clients that give up: vLLM 0.33's and SGLang 0.5.23's own ways to abort a request."""

from __future__ import annotations

import hashlib
import json
from math import inf
from typing import Any

import pytest
from recorded_runs import digest, recordings, request

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.engine import ENGINES, make_engine
from kvplan.engine.impatient import Impatient
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.latency.linear import LinearLatency

VLLM = recordings("vllm-0.33.0-aborts.json.gz")
SGLANG = recordings("sglang-0.5.23-aborts.json.gz")


class Told:
    """What an engine told of one recorded run."""

    def __init__(
        self, engine: str, config: EngineConfig | SglangConfig, run: dict[str, Any], *, log: bool
    ) -> None:
        self.rows: dict[str, RequestRow] = {}
        self.lines: list[str] = []
        self.aborted: list[list[str | float]] = []
        self.recorder = Recorder(
            on_request=lambda row: self.rows.__setitem__(row.id, row),
            on_timed_out=lambda name, time_s: self.aborted.append([name, time_s]),
            on_decision=self.lines.append if log else None,
            series=log,
        )
        running = make_engine(engine, config, LinearLatency(*run["clock"]), self.recorder)
        patience = Patience(*(inf if seconds is None else seconds for seconds in run["patience"]))
        running.run(Impatient(Arrivals(request(*asked) for asked in run["requests"]), patience))
        running.close()

    def digest(self, run: dict[str, Any], columns: tuple[str, ...]) -> str:
        """Of these columns of those who were answered, in the order of requests."""
        served = [self.rows[asked[0]] for asked in run["requests"] if asked[0] in self.rows]
        table = [[getattr(row, column) for column in columns] for row in served]
        return hashlib.sha256(json.dumps(table).encode()).hexdigest()


@pytest.mark.parametrize("engine", ENGINES)
def test_vllm_aborts(engine: str) -> None:
    columns = (
        "id", "arrival_s", "scheduled_s", "first_token_s", "finish_s", "cached_tokens", "preemptions",
    )  # fmt: skip
    for number, run in enumerate(VLLM):
        groups = tuple(CacheGroup(*group) for group in run["config"]["groups"])
        config = EngineConfig(**{**run["config"], "groups": groups})
        for log in (True, False):
            told = Told(engine, config, run, log=log)
            totals = told.recorder.totals
            assert told.aborted == run["aborted"], (number, config)
            assert told.digest(run, columns) == run["rows"], (number, config)
            assert run["totals"] == [
                totals.steps, totals.preemptions, totals.evicted_blocks, totals.allocated_blocks,
                totals.peak_used_blocks, totals.queried_tokens, totals.hit_tokens,
            ], (number, config)  # fmt: skip
            if log:
                assert digest(told.lines) == run["decisions"], (number, config)


@pytest.mark.parametrize("engine", ENGINES)
def test_sglang_aborts(engine: str) -> None:
    for number, run in enumerate(SGLANG):
        config = SglangConfig(**run["config"])
        for log in (True, False):
            told = Told(engine, config, {"clock": (5e-3, 2e-5, 1e-8), **run}, log=log)
            assert told.aborted == run["aborted"], (number, config)
            rows = told.digest(run, ("id", "scheduled_s", "first_token_s", "finish_s"))
            assert rows == run["rows"], (number, config)
            if log:
                # The recording does not count who holds memory.
                parts = ["|".join(line.split("|")[part] for part in (0, 1, 3, 4)) for line in told.lines]
                assert digest(parts) == run["decisions"], (number, config)


def test_what_is_recorded_aborts_prompts_answers_and_who_waits() -> None:
    assert len(VLLM) == 120
    assert len(SGLANG) == 80
    assert sum(len(run["aborted"]) for run in VLLM) > 500
    assert sum(len(run["aborted"]) for run in SGLANG) > 300
    assert {group[0] for run in VLLM for group in run["config"]["groups"]} >= {"full", "sliding", "mamba"}
    for place in (0, 1):
        assert sum(run["patience"][place] is not None for run in (*VLLM, *SGLANG)) > 80
