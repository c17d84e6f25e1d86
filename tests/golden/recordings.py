"""Reading recorded runs of the real schedulers and comparing an engine with them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.engine import make_engine
from kvplan.engine.recorder import Recorder
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request
from kvplan.traces.trace import open_trace

MOONCAKE = "traces/mooncake-conversation/conversation_trace.jsonl"


def load(path: Path) -> dict[str, Any]:
    """A recording file."""
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return json.load(handle)


OPTIONS = frozenset({
    "trace", "format", "limit", "time_scale", "block_size", "num_blocks", "max_num_seqs",
    "max_num_batched_tokens", "max_model_len", "enable_prefix_caching", "enable_chunked_prefill", "policy",
    "long_prefill_token_threshold", "long_prefill_adaptive", "watermark", "reserve_full_isl",
    "prefill_schedule_interval", "async_scheduling", "layout", "sliding_window", "retention_interval", "a", "b",
    "c",
})  # fmt: skip
"""What a recording was made with."""

FOLLOWING = frozenset({
    "hash_algo", "scheduler_class", "scheduler_block_size", "hash_block_size", "max_concurrent_batches",
    "max_in_flight_tokens", "use_v2_model_runner", "watermark_blocks",
})  # fmt: skip
"""What the real engine made of it."""


def config_of(recorded: dict[str, Any]) -> EngineConfig:
    """The engine options a recording was made with; an option that would be passed over is an error."""
    assert set(recorded) == OPTIONS | FOLLOWING, set(recorded) ^ (OPTIONS | FOLLOWING)
    config = _config(recorded)
    assert recorded["scheduler_class"] == ("AsyncScheduler" if config.async_scheduling else "Scheduler")
    assert recorded["use_v2_model_runner"]
    assert recorded["scheduler_block_size"] == config.hit_alignment
    assert recorded["max_in_flight_tokens"] == config.max_in_flight_tokens
    assert recorded["watermark_blocks"] == config.watermark_blocks
    return config


def _config(recorded: dict[str, Any]) -> EngineConfig:
    block = recorded["block_size"]
    whole = block if recorded["enable_prefix_caching"] else recorded["max_model_len"]
    kinds = {
        "full": CacheGroup("full", block),
        "mla": CacheGroup("full", block),
        "full2B": CacheGroup("full", 2 * block),
        "swa": CacheGroup("sliding", block, recorded["sliding_window"]),
        "mamba": CacheGroup("mamba", whole),
    }
    return EngineConfig(
        num_blocks=recorded["num_blocks"],
        block_size=block,
        max_model_len=recorded["max_model_len"],
        max_num_seqs=recorded["max_num_seqs"],
        max_num_batched_tokens=recorded["max_num_batched_tokens"],
        enable_prefix_caching=recorded["enable_prefix_caching"],
        enable_chunked_prefill=recorded["enable_chunked_prefill"],
        policy=recorded["policy"],
        long_prefill_token_threshold=recorded["long_prefill_token_threshold"],
        long_prefill_adaptive=recorded["long_prefill_adaptive"],
        watermark=recorded["watermark"],
        scheduler_reserve_full_isl=recorded["reserve_full_isl"],
        prefill_schedule_interval=recorded["prefill_schedule_interval"],
        async_scheduling=recorded["async_scheduling"],
        retention_interval=recorded["retention_interval"],
        groups=tuple(kinds[name] for name in recorded["layout"].split("+")),
    )


def workload_of(recorded: dict[str, Any], data: Path) -> Iterable[Request]:
    """The requests of a recording, read by kvplan's own trace readers."""
    if recorded["format"] == "mooncake":
        return open_trace(
            data / MOONCAKE, limit=recorded["limit"], time_scale=recorded["time_scale"]
        ).requests()
    return open_trace(
        data / "golden" / "workloads" / f"{recorded['trace']}.jsonl", format="tokens"
    ).requests()


def scenario_of(recorded: dict[str, Any], data: Path) -> dict[str, Any]:
    """The same run as a user would ask for it."""
    block = recorded["block_size"]
    groups = {
        "full": {"kind": "full"},
        "mla": {"kind": "full"},
        "full2B": {"kind": "full", "block_size": 2 * block},
        "swa": {"kind": "sliding", "window": recorded["sliding_window"]},
        "mamba": {"kind": "mamba"},
    }
    same = (
        "max_num_seqs", "max_num_batched_tokens", "max_model_len", "enable_chunked_prefill", "policy",
        "long_prefill_token_threshold", "watermark", "prefill_schedule_interval", "async_scheduling",
    )  # fmt: skip
    return {
        "cache": {
            "block_size": block,
            "blocks": recorded["num_blocks"],
            "prefix": "hash" if recorded["enable_prefix_caching"] else "none",
            "groups": [groups[name] for name in recorded["layout"].split("+")],
        },
        "engine": {
            **{name: recorded[name] for name in same},
            "long_prefill_token_threshold_adaptive": recorded["long_prefill_adaptive"],
            "scheduler_reserve_full_isl": recorded["reserve_full_isl"],
            "prefix_cache_retention_interval": recorded["retention_interval"],
        },
        "latency": {"model": "linear", "a": recorded["a"], "b": recorded["b"], "c": recorded["c"]},
        "workload": {
            "trace": str(data / "golden" / "workloads" / f"{recorded['trace']}.jsonl"),
            "format": "tokens",
            "limit": recorded["limit"],
            "time_scale": recorded["time_scale"],
        },
    }


def compare(run: dict[str, Any], data: Path, engine: str) -> None:
    """Assert that decisions, rows and totals equal the recorded ones; floats bit for bit.

    The fast engine takes quiet steps in bulk where nobody wants to hear of each: it is compared that way, too.
    """
    _compare(run, data, engine, log=True)
    if engine == "fast":
        _compare(run, data, engine, log=False)


def _compare(run: dict[str, Any], data: Path, engine: str, *, log: bool) -> None:
    recorded = run["config"]
    digest = hashlib.sha256()
    checkpoints: list[list[object]] = []
    rows: dict[str, tuple[object, ...]] = {}
    lines = 0

    def on_decision(line: str) -> None:
        nonlocal lines
        digest.update(line.encode())
        digest.update(b"\n")
        lines += 1
        if lines % 1000 == 0:
            checkpoints.append([lines, digest.hexdigest()[:16]])

    recorder = Recorder(
        on_request=lambda row: rows.__setitem__(
            row.id,
            (row.id, row.arrival_s, row.scheduled_s, row.first_token_s, row.finish_s, row.cached_tokens,
             row.preemptions),
        ),
        on_decision=on_decision if log else None,
        series=log,
    )  # fmt: skip
    clock = LinearLatency(recorded["a"], recorded["b"], recorded["c"])
    running = make_engine(engine, config_of(recorded), clock, recorder)
    running.run(workload_of(recorded, data))
    running.close()

    expected = run["totals"]
    if log:
        first_wrong = next(
            (
                ours[0]
                for ours, theirs in zip(checkpoints, run["digest_checkpoints"], strict=False)
                if ours != theirs
            ),
            None,
        )
        assert first_wrong is None, f"decisions differ within the 1,000 lines before line {first_wrong}"
        assert digest.hexdigest() == expected["decision_sha256"]
    assert [tuple(row) for row in run["requests"]] == [rows[row[0]] for row in run["requests"]]
    totals = recorder.totals
    assert (totals.requests, totals.finished, totals.rejected) == (
        expected["requests"], expected["finished"], expected["rejected"],
    )  # fmt: skip
    assert totals.steps == expected["log_lines"]
    assert totals.preemptions == expected["preemptions"]
    assert totals.evicted_blocks == expected["evicted_cached_blocks"]
    assert totals.allocated_blocks == expected["allocated_blocks"]
    assert totals.peak_used_blocks == expected["peak_used_blocks"]
    assert totals.makespan_s == expected["makespan"]
    if recorded["enable_prefix_caching"]:
        assert totals.queried_tokens == expected["prefix_queried_tokens"]
        assert totals.hit_tokens == expected["prefix_hit_tokens"]
