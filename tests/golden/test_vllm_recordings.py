"""Both engines against recorded decisions of the real vLLM 0.33 scheduler, line by line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from recordings import compare, load, scenario_of

from kvplan.cli.app import run
from kvplan.engine.engine import ENGINES

WORKLOADS = ("multi_turn", "preempt_storm", "priority", "random0", "random1", "same_prompt")

CASES = (
    "base", "async", "nocache", "nocache_async", "nochunk", "longprefill8", "longprefill8_adaptive",
    "watermark5", "no_full_isl", "no_full_isl_async", "interval4", "interval4_roomy", "longprefill8_roomy",
    "priority", "priority_async", "priority_no_full_isl", "bs1", "bs16", "roomy", "seqs2", "mla",
)  # fmt: skip

HYBRID = (
    "swa", "swa_dense", "full_swa", "full_swa_async", "full_swa_dense", "full_swa_ret32", "full_3swa",
    "full2B_swa", "full_mamba", "full_mamba_dense", "full_mamba_async", "full_mamba_nocache",
)  # fmt: skip

LONG = (
    "vllm_conv1k_bs16_20k", "vllm_conv1k_bs16_20k_async", "vllm_conv1k_bs16_200k",
    "vllm_conv1k_bs16_100k_burst", "vllm_conv1k_bs512_2500", "vllm_conv_bs512_6000",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(shared: Path) -> dict:
    return load(shared / "data" / "golden" / "vllm_tiny.json.gz")


@pytest.mark.shared
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_small_runs(tiny: dict, shared: Path, case: str, engine: str) -> None:
    for workload in WORKLOADS:
        compare(tiny[f"{workload}/{case}"], shared / "data", engine)


@pytest.mark.shared
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", HYBRID)
def test_small_runs_of_several_groups(tiny: dict, shared: Path, case: str, engine: str) -> None:
    for workload in WORKLOADS:
        compare(tiny[f"{workload}/{case}"], shared / "data", engine)


@pytest.mark.shared
@pytest.mark.parametrize("case", [*CASES, *HYBRID])
def test_a_small_run_asked_for_as_a_scenario(tiny: dict, shared: Path, case: str, tmp_path: Path) -> None:
    """No option is lost between a scenario file and the engine, nor anything on the way to the files."""
    recording = tiny[f"priority/{case}"]
    written = scenario_of(recording["config"], shared / "data")
    (tmp_path / "scenario.json").write_text(json.dumps(written))
    scenario, rows, log = (str(tmp_path / name) for name in ("scenario.json", "rows.jsonl", "log.txt"))
    assert run(["simulate", scenario, "-q", "--requests", rows, "--decisions", log]) == 0
    expected = recording["totals"]["decision_sha256"]
    assert hashlib.sha256(Path(log).read_bytes()).hexdigest() == expected
    found = {row["id"]: row for row in map(json.loads, Path(rows).read_text().splitlines())}
    columns = ("id", "arrival_s", "scheduled_s", "first_token_s", "finish_s", "cached_tokens", "preemptions")
    assert [[found[row[0]][name] for name in columns] for row in recording["requests"]] == recording[
        "requests"
    ]


@pytest.mark.shared
def test_every_small_recording_is_compared(tiny: dict) -> None:
    assert {f"{workload}/{case}" for workload in WORKLOADS for case in (*CASES, *HYBRID)} == set(tiny)


@pytest.mark.shared
@pytest.mark.parametrize("name", LONG)
def test_long_runs(shared: Path, name: str) -> None:
    data = shared / "data"
    compare(load(data / "golden" / f"{name}.json.gz"), data, "fast")


@pytest.mark.shared
@pytest.mark.slow
def test_a_long_run_block_by_block(shared: Path) -> None:
    data = shared / "data"
    compare(load(data / "golden" / "vllm_conv1k_bs512_2500.json.gz"), data, "reference")
