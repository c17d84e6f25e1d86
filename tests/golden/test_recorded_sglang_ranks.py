"""Recorded decisions of SGLang 0.5.23's schedulers as ranks of data-parallel attention, and of one that holds
prompts back (``prefill_decode_interval``) or limits its batches (``prefill_max_requests``).

Each rank's scheduler and what becomes of its outputs are SGLang's own, and batches are gathered as it does. When
steps begin and end is kvplan's.
"""

from __future__ import annotations

import hashlib
import json

from recorded_runs import digest, recordings, request

from kvplan.engine.lockstep.sglang import SglangLockstepEngine
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.sglang.config import SglangConfig
from kvplan.latency.linear import LinearLatency

RUNS = recordings("sglang-0.5.23-ranks.json.gz")


def test_sglang_ranks() -> None:
    for number, run in enumerate(RUNS):
        config, clock = SglangConfig(**run["config"]), LinearLatency(*run["clock"])
        for log in (True, False):
            rows: dict[str, RequestRow] = {}
            lines: list[str] = []
            recorder = Recorder(
                on_request=lambda row, rows=rows: rows.__setitem__(row.id, row),  # type: ignore[misc]
                on_decision=lines.append if log else None,
                series=log,
            )
            engine = SglangLockstepEngine(run["number"], "round-robin", config, clock, recorder)
            engine.run(request(*asked) for asked in run["requests"])
            engine.close()
            table = [
                [row.id, row.scheduled_s, row.first_token_s, row.finish_s, row.preemptions]
                for row in (rows[asked[0]] for asked in run["requests"] if asked[0] in rows)
            ]
            assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == run["rows"], (number, config)
            if log:
                assert digest(lines) == run["decisions"], (number, config)


def test_the_oracle_decides_the_same_for_one_rank() -> None:
    alone = [run for run in RUNS if run["number"] == 1]
    for run in alone:
        lines: list[str] = []
        recorder = Recorder(on_decision=lambda line, lines=lines: lines.append(f"0\t{line}"))  # type: ignore[misc]
        engine = ReferenceSglangEngine(
            SglangConfig(**run["config"]), LinearLatency(*run["clock"]), recorder, check=True
        )
        engine.run(request(*asked) for asked in run["requests"])
        assert digest(lines) == run["decisions"]
    assert len(alone) == 20


def test_what_is_recorded_holds_prompts_back_and_limits_batches() -> None:
    assert sum(run["number"] > 1 for run in RUNS) == 22
    for option in ("prefill_decode_interval", "prefill_decode_interval_min_bs", "prefill_max_requests"):
        assert sum(option in run["config"] for run in RUNS) >= 10, option
