"""Fitting an engine: known constants come back, and what a run cannot show is said, not made up."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run as cli
from kvplan.engine.protocols import StepBatch
from kvplan.engine.recorder import RequestRow
from kvplan.errors import DataError, UsageError
from kvplan.latency.efficiency import HOPPER
from kvplan.latency.normals import DIMENSIONS
from kvplan.latency.roofline import Roofline
from kvplan.scenario.engine_fit import EngineFit, fit_engine
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_document import fit_document
from kvplan.scenario.load import dump_scenario, load_scenario
from kvplan.scenario.log_features import in_flight, quantile
from kvplan.scenario.log_limits import limits_of
from kvplan.scenario.measured import Measured
from kvplan.scenario.run import Run
from tests.scenario.engine_logs import read_engine_log

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "chat", "workload.requests": 160,
    "workload.rate": 5.0, "cache.prefix": "none",
}  # fmt: skip
TRUTH = {
    "compute_efficiency": 0.42,
    "memory_efficiency": 0.65,
    "step_s": 4e-3,
    "request_s": 5e-5,
    "client_overhead_s": 0.03,
    "api_server_s": 1.5e-3,
    "client_token_s": 3e-6,
}


def measured(
    truth: dict[str, float],
    noise: float = 0.02,
    cached: float | None = None,
    served: bool = False,
    **flags: Any,
) -> EngineLog:
    """What a client would log of an engine with these constants; ``served``: and what its server would say."""
    rows: list[RequestRow] = []
    given = {f"latency.{name}": value for name, value in truth.items()}
    simulation = Run(load_scenario(None, {**BASE, **flags, **given}))
    simulation.execute(on_request=rows.append)
    rng, found = random.Random(5), []
    outside = truth.get("client_overhead_s", 0.0)
    for row in rows:
        extra = outside * rng.lognormvariate(0.0, noise)
        found.append(
            Measured(row.arrival_s, row.prompt_tokens, row.output_tokens, row.first_token_s - row.arrival_s + extra,
                     row.finish_s - row.arrival_s + extra,
                     None if cached is None else int(cached * row.prompt_tokens),
                     row.first_token_s - row.scheduled_s if served else None)
        )  # fmt: skip
    return EngineLog("run.csv", "csv", tuple(sorted(found, key=lambda item: item.arrival_s)), ())


@pytest.fixture(scope="module")
def fit() -> EngineFit:
    return fit_engine(load_scenario(None, BASE), measured(TRUTH))


SMALL = {"workload.requests": 60}
SHORT = {
    "workload.synthesize": "fixed", "workload.prompt_tokens": "uniform:50-2000", "workload.output_tokens": "uniform:5-80",
}  # fmt: skip
"""A fit takes as long as a few hundred replays of the run: as many requests, and fewer steps."""
CACHED = {**BASE, **SMALL, "cache.prefix": "hash"}


@pytest.fixture(scope="module")
def small_fit() -> EngineFit:
    return fit_engine(load_scenario(None, BASE), measured(TRUTH, **SMALL))


@pytest.fixture(scope="module")
def cached() -> tuple[EngineLog, EngineFit]:
    """A run most of whose prompt tokens came from the prefix cache, and its fit."""
    log = measured(TRUTH, cached=0.8, **CACHED)
    return log, fit_engine(load_scenario(None, CACHED), log)


def assert_honest(fit: EngineFit, truth: dict[str, float]) -> None:
    """What is said to be known is, within what is said; what is not known is named."""
    assert set(fit.uncertainty) | set(fit.unidentified) == set(fit.constants) == set(truth)
    assert not set(fit.uncertainty) & set(fit.unidentified)
    for name, value in truth.items():
        # Nine times in ten: a quarter more leaves room for the tenth.
        reach = 1.25 * math.log1p(fit.alone.get(name, math.inf))
        assert abs(math.log(fit.constants[name] / value)) <= reach, name
    for name, why in fit.unidentified.items():
        known = ("could be off by a factor of", "order of magnitude", "requests in flight", "cached")
        assert any(words in why for words in known), name


def test_known_constants_come_back_within_what_is_said(fit: EngineFit) -> None:
    assert_honest(fit, TRUTH)
    assert fit.constants["compute_efficiency"] == pytest.approx(TRUTH["compute_efficiency"], rel=0.1)
    assert fit.uncertainty["compute_efficiency"] < 0.25
    # At a few requests a second decoding reads the weights at every step: what a step costs beside that
    # looks the same.
    assert "step_s" in fit.unidentified


@pytest.mark.parametrize(
    ("truth", "flags"),
    [
        ({"compute_efficiency": 0.6, "memory_efficiency": 0.65, "step_s": 1e-3, "request_s": 1e-5,
          "client_overhead_s": 0.01, "api_server_s": 1e-3, "client_token_s": 1e-6}, {"workload.requests": 120, "workload.rate": 12.0}),
        ({"compute_efficiency": 0.3, "memory_efficiency": 0.5, "step_s": 8e-3, "request_s": 2e-4,
          "client_overhead_s": 0.1, "api_server_s": 4e-3, "client_token_s": 5e-6}, {"workload.requests": 100, "workload.rate": 3.0}),
    ],
)  # fmt: skip
def test_other_engines_at_other_loads_are_described_honestly_too(
    truth: dict[str, float], flags: dict[str, Any]
) -> None:
    found = fit_engine(load_scenario(None, {**BASE, **flags}), measured(truth, **flags))
    assert_honest(found, truth)
    for metric in ("tpot", "e2e"):
        assert abs(found.after[metric]["p50"]) < 0.1 < abs(found.before[metric]["p50"])


def test_an_eager_engine_has_its_launches_fitted(small_fit: EngineFit) -> None:
    flags = {"model": "llama-3.2-1b", "engine.enforce_eager": True, "workload.requests": 80}
    truth = {**TRUTH, "step_s": 1e-3, "request_s": 1e-5, "launch_s": 4.5e-5}
    found = fit_engine(load_scenario(None, {**BASE, **flags}), measured(truth, **flags))
    assert_honest(found, truth)
    assert found.constants["launch_s"] == pytest.approx(4.5e-5, rel=0.2)
    assert "launch_s" not in small_fit.constants


def test_held_out_errors_fall(fit: EngineFit) -> None:
    assert fit.requests == 160
    for metric in ("ttft", "tpot", "e2e"):
        assert all(abs(error) > 0.15 for error in fit.before[metric].values())
        # Of 80 requests the 90th percentile of TTFT moves with who waits for whom.
        assert all(
            abs(fit.after[metric][name]) < (0.12 if name == "p90" else 0.06) for name in fit.after[metric]
        )


def test_the_same_log_gives_the_same_fit(small_fit: EngineFit) -> None:
    assert fit_engine(load_scenario(None, BASE), measured(TRUTH, **SMALL)) == small_fit


def rows_of(
    count: int = 60, *, gap: float = 0.5, ttft: float = 0.05, rise: float = 0.0, cached: int | None = 0
) -> list[Measured]:
    return [Measured(gap * i, 500, 20, ttft + rise * i, ttft + rise * i + 0.4, cached) for i in range(count)]


def limits(rows: list[Measured]) -> tuple[dict[str, str], list[str]]:
    return limits_of(rows, in_flight(rows), list(TRUTH))


def test_cached_prompts_say_nothing_about_prefill() -> None:
    reasons, notes = limits(rows_of(cached=400))
    assert "80% of the prompt tokens came from the prefix cache" in reasons["compute_efficiency"]
    assert "compute_efficiency" not in limits(rows_of(cached=50))[0]
    assert not notes
    assert any(
        "does not say which prompt tokens were cached" in note for note in limits(rows_of(cached=None))[1]
    )


def test_a_saturated_run_says_nothing_about_the_client() -> None:
    reasons, notes = limits(rows_of(rise=0.2))
    assert "saturated" in reasons["client_overhead_s"]
    assert any("saturated" in note for note in notes)
    assert "client_overhead_s" not in limits(rows_of(rise=0.001))[0]


def test_one_batch_size_does_not_tell_steps_from_requests() -> None:
    assert "one batch size (1 requests" in limits(rows_of())[0]["request_s"]
    bursts = [
        Measured(10.0 * (i // 6) + 0.01 * (i % 6) ** 2, 500, 20, 0.05, 0.1 + 0.1 * (i % 6), 0)
        for i in range(60)
    ]
    assert "request_s" not in limits(bursts)[0]


def test_a_constant_that_is_held_is_not_moved(cached: tuple[EngineLog, EngineFit]) -> None:
    _, found = cached
    assert found.constants["compute_efficiency"] == HOPPER.gemm.compute
    assert "compute_efficiency" in found.unidentified
    assert "compute_efficiency" not in found.uncertainty


def test_in_flight_counts_those_alive() -> None:
    rows = [Measured(0.0, 1, 2, 0.1, 1.0), Measured(0.2, 1, 2, 0.1, 1.0), Measured(5.0, 1, 2, 0.1, 1.0)]
    # Of the 0.9 s in which each has its tokens, the first two share 0.8 and 0.7.
    assert in_flight(rows) == pytest.approx([1 + 0.8 / 0.9, 1 + 0.7 / 0.9, 1.0])
    assert in_flight([Measured(0.0, 1, 1, 0.4, 0.4), Measured(0.2, 1, 1, 0.4, 0.4)]) == pytest.approx(
        [1.5, 1.5]
    )


def test_what_cannot_be_fitted_is_refused() -> None:
    log = measured(TRUTH, **SMALL)
    linear = {"latency.model": "linear", "latency.a": 1e-3, "latency.b": 1e-5, "latency.c": 1e-9}
    with pytest.raises(UsageError, match="no engine-level constants"):
        fit_engine(load_scenario(None, {**BASE, **linear}), log)
    with pytest.raises(DataError, match="rejects"):
        fit_engine(load_scenario(None, {**BASE, "engine.max_model_len": 256}), log)


@pytest.fixture(scope="module")
def said() -> io.StringIO:
    """What the command that made ``files`` printed."""
    return io.StringIO()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, said: io.StringIO) -> tuple[Path, Path, Path]:
    """(log, scenario, fitted.json) of a small run, fitted from the command line."""
    where = tmp_path_factory.mktemp("engine")
    log, scenario, out = where / "requests.csv", where / "s.yaml", where / "fitted.json"
    small = {"workload.requests": 60, "workload.rate": 3.0}
    with log.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("arrival_s", "prompt_tokens", "output_tokens", "ttft_ms", "e2e_ms"))
        for row in measured(TRUTH, **small).rows:
            rows.writerow(
                (row.arrival_s, row.prompt_tokens, row.output_tokens, row.ttft_s * 1e3, row.e2e_s * 1e3)
            )
    scenario.write_text(dump_scenario(load_scenario(None, {**BASE, **small})))
    with redirect_stdout(said):
        assert cli(["calibrate", "--engine-log", str(log), "--scenario", str(scenario), "-o", str(out)]) == 0
    return log, scenario, out


def test_a_fit_file_is_a_clock_that_matches_the_run(files: tuple[Path, Path, Path]) -> None:
    log, scenario, out = files
    fitted = Run(load_scenario(str(scenario), {"latency.model": "fitted", "latency.name": str(out)}))
    fitted.execute()
    result = fitted.result(["kvplan"])
    real = sorted(row.ttft_s for row in read_engine_log(log).rows)
    assert result["latency"]["ttft_s"]["p50"] == pytest.approx(real[len(real) // 2], rel=0.08)
    assert "fitted to a serving run" in result["accuracy"]["name"]
    assert result["accuracy"]["intervals"] is not None
    assert str(out) in [item["path"] for item in result["provenance"]["inputs"]]
    sources = [
        item["source"] for item in result["assumptions"] if item["name"] == "latency.memory_efficiency"
    ]
    assert "fitted in" in sources[0]


def test_a_fit_of_another_gpu_is_refused(files: tuple[Path, Path, Path]) -> None:
    _, scenario, out = files
    fitted = {"latency.model": "fitted", "latency.name": str(out), "gpu": "a100-80g"}
    with pytest.raises(DataError, match="fitted on h100-sxm, not on a100-80g"):
        Run(load_scenario(str(scenario), fitted))


def test_another_tensor_parallel_degree_is_warned_about_and_keeps_what_was_found(
    files: tuple[Path, Path, Path],
) -> None:
    """What a host and a client take, and what kernels reach, is nearer there than what is usual elsewhere."""
    _, scenario, out = files
    fitted = {"latency.model": "fitted", "latency.name": str(out), "parallel.tp": 2}
    clock = Run(load_scenario(str(scenario), fitted)).clock
    assert any("fitted with tp 1, not 2" in text and "exchange" in text for text in clock.warnings)
    assert isinstance(clock.model, Roofline)
    found = json.loads(out.read_text())["constants"]
    assert clock.model.constants.step_s == found["step_s"]
    assert clock.client.seconds == found["client_overhead_s"]


def test_what_is_no_fit_file_is_refused(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, scenario, out = files
    text = out.read_text()
    for broken, message in (
        ("[]", "found a list"), ("{", "malformed JSON"), (text.replace("roofline", "linear"), "no roofline"),
        (text.replace('"after": {', '"after": [], "x": {'), "held-out errors"),
        (text.replace('"client_overhead_range_s": [', '"client_overhead_range_s": [9.0, '), "no range of seconds"),
        (text.replace('"factor": [', '"factor": [[1.0], '), "no square matrix"),
        (text.replace('"tail_s": ', '"tail_s": -1'), "no seconds"),
        (text.replace('"engine": "vllm"', '"engine": 3'), "which engine served"),
    ):  # fmt: skip
        path = tmp_path / "fit.json"
        path.write_text(broken)
        with pytest.raises(DataError, match=message):
            Run(load_scenario(str(scenario), {"latency.model": "fitted", "latency.name": str(path)}))


def test_other_stages_are_warned_about(files: tuple[Path, Path, Path]) -> None:
    _, scenario, out = files
    staged = {"latency.model": "fitted", "latency.name": str(out), "parallel.pp": 2}
    clock = Run(load_scenario(str(scenario), staged)).clock
    assert any("fitted with pp 1, not 2: what its stages hand over" in text for text in clock.warnings)


def test_another_engine_is_warned_about(files: tuple[Path, Path, Path]) -> None:
    _, scenario, out = files
    other = {"latency.model": "fitted", "latency.name": str(out), "engine": {"kind": "sglang"}}
    clock = Run(load_scenario(str(scenario), other)).clock
    assert any("fitted to vllm, not to sglang" in text for text in clock.warnings)


def test_another_model_is_warned_about(files: tuple[Path, Path, Path]) -> None:
    _, scenario, out = files
    other = Run(
        load_scenario(
            str(scenario), {"latency.model": "fitted", "latency.name": str(out), "model": "mistral-7b-v0.3"}
        )
    )
    assert any("fitted serving llama-3.1-8b" in text for text in other.clock.warnings)


def test_the_command_prints_before_and_after(files: tuple[Path, Path, Path], said: io.StringIO) -> None:
    _, _, first = files
    table = said.getvalue()
    assert table.startswith("The run: 60 requests in ")
    assert " in flight\n" in table
    assert max(map(len, table.splitlines())) <= 80 or str(first) in table
    assert "client_overhead_s" in table
    assert "before" in table
    assert "after" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine-log", "x.csv"], "also needs --scenario and -o"),
        (["--scenario", "s.yaml", "-o", "x.json"], "also needs --engine-log"),
        (["--engine-log", "x.csv", "--gpu", "0"], "one at a time"),
    ],
)
def test_missing_options_are_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["calibrate", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_constant_that_ran_to_the_end_of_its_range_is_not_said_to_be_known() -> None:
    truth = {**TRUTH, "compute_efficiency": 0.5, "memory_efficiency": 0.6, "step_s": 1e-3, "request_s": 1e-5}
    flags = {"workload.requests": 120, "workload.rate": 9.0}
    found = fit_engine(load_scenario(None, {**BASE, **flags}), measured(truth, **flags))
    assert all(value < 1.0 for name, value in found.constants.items() if name not in found.unidentified)


def test_a_profile_whose_kernels_take_longer_in_the_engine_holds_at_another_rate() -> None:
    """With overheads alone to move, computing is charged to requests: right at one rate, far off at another."""
    profile = {"latency.model": "profile", "workload.requests": 120}
    truth = {"compute_factor": 1.45, "memory_factor": 1.25, "step_s": 2e-3, "request_s": 1e-5,
             "client_overhead_s": 0.012, "api_server_s": 1e-3, "client_token_s": 1e-6}  # fmt: skip
    found = fit_engine(load_scenario(None, {**BASE, **profile}), measured(truth, **profile))
    assert_honest(found, truth)
    assert found.constants["compute_factor"] == pytest.approx(1.45, rel=0.1)
    busy = {**profile, "workload.rate": 12.0, "seed": 9}
    real, guessed = measured(truth, **busy), measured(found.constants, **busy)
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        ours, theirs = (sorted(getattr(row, metric) for row in log.rows) for log in (guessed, real))
        for share in (0.5, 0.9):
            at = int(share * len(ours))
            assert ours[at] == pytest.approx(theirs[at], rel=0.1), metric


def test_what_cannot_be_told_apart_is_charged_to_what_may_vary() -> None:
    """A step of 9 ms is a slow host, not a GPU that reaches a third of its bandwidth."""
    flags = {"workload.requests": 120, "workload.rate": 3.0}
    truth = {**TRUTH, "memory_efficiency": 0.85, "step_s": 9e-3, "request_s": 1e-5}
    found = fit_engine(load_scenario(None, {**BASE, **flags}), measured(truth, **flags))
    assert_honest(found, truth)
    assert found.constants["memory_efficiency"] == pytest.approx(0.85, rel=0.2)
    assert found.constants["step_s"] == pytest.approx(9e-3, rel=0.3)


def test_a_front_end_that_holds_up_the_run_is_found_though_one_half_as_slow_would_not_show() -> None:
    """Thirty times as slow as most: nothing nearby says which way to go."""
    flags = {"workload.requests": 80, "workload.rate": 25.0, "workload.synthesize": "fixed",
             "workload.prompt_tokens": "uniform:50-400", "workload.output_tokens": "uniform:10-60"}  # fmt: skip
    truth = {**TRUTH, "compute_efficiency": 0.7, "step_s": 2e-3, "request_s": 1e-5, "api_server_s": 0.06}
    found = fit_engine(load_scenario(None, {**BASE, **flags}), measured(truth, **flags))
    assert found.constants["api_server_s"] == pytest.approx(0.06, rel=0.25)
    assert abs(found.after["ttft"]["p50"]) < 0.2


def test_a_slow_step_seen_one_request_at_a_time_is_not_charged_to_requests() -> None:
    """They add up there; with a batch they would not, and steps are what hosts take long for."""
    flags = {**SHORT, "workload.requests": 40, "workload.max_in_flight": 1}
    truth = {**TRUTH, "memory_efficiency": 0.8, "step_s": 40e-3, "request_s": 5e-5}
    log = replace(measured(truth, **flags), max_in_flight=1)
    found = fit_engine(load_scenario(None, {**BASE, **flags}), log)
    assert found.constants["step_s"] == pytest.approx(40e-3, rel=0.2)
    assert found.constants["request_s"] < 1e-4
    assert found.constants["memory_efficiency"] == pytest.approx(0.8, rel=0.25)


def test_times_logged_in_the_engine_itself_get_no_client_overhead() -> None:
    truth = {**TRUTH, "client_overhead_s": 1e-5}
    flags = {"workload.requests": 120}
    found = fit_engine(load_scenario(None, {**BASE, **flags}), measured(truth, **flags))
    assert found.constants["client_overhead_s"] < 0.01
    assert found.constants["compute_efficiency"] == pytest.approx(TRUTH["compute_efficiency"], rel=0.15)
    assert abs(found.after["ttft"]["p50"]) < 0.05


def test_a_run_of_another_deployment_is_said_not_to_be_described(fit: EngineFit) -> None:
    """Tenfold arrival times, as milliseconds read as seconds would give: no queueing, no batches."""
    flags = {**SHORT, "workload.requests": 24, "workload.rate": 40.0}
    log = measured({**TRUTH, "compute_efficiency": 0.2}, **flags)
    spread = replace(log, rows=tuple(replace(row, arrival_s=1000 * row.arrival_s) for row in log.rows))
    found = fit_engine(load_scenario(None, {**BASE, **flags}), spread)
    assert any("does not describe this run" in note and "arrival times" in note for note in found.notes)
    assert not any("does not describe" in note for note in fit.notes)


def test_a_fit_leaves_the_clients_range_where_the_run_put_it(files: tuple[Path, Path, Path]) -> None:
    _, scenario, out = files
    document = json.loads(out.read_text())
    low, high = document["client_overhead_range_s"]
    assert low < document["constants"]["client_overhead_s"] < high
    chosen = {"latency.model": "fitted", "latency.name": str(out)}
    client = Run(load_scenario(str(scenario), chosen)).clock.client
    assert (client.low_s, client.high_s) == (low, high)
    given = Run(load_scenario(str(scenario), {**chosen, "latency.client_overhead_s": 0.002})).clock.client
    assert client.low_s < client.seconds < client.high_s
    assert given.low_s == given.high_s == 0.002


def test_a_constant_the_run_cannot_speak_of_is_left_to_the_clock(cached: tuple[EngineLog, EngineFit]) -> None:
    log, found = cached
    assert "compute_efficiency" in found.assumed
    document = fit_document(found, load_scenario(None, CACHED), log, [])
    assert "compute_efficiency" not in document["latency"]
    assert document["constants"]["compute_efficiency"] == found.constants["compute_efficiency"]


def test_a_run_that_cannot_be_replayed_leaves_constants_near_what_is_usual() -> None:
    """Prompts that were cached, and a log that does not say so: cold prompts cannot be that fast."""
    flags = {
        "workload.requests": 80,
        "workload.rate": 0.4,
        "workload.synthesize": "agentic",
        "cache.prefix": "hash",
    }
    scenario = load_scenario(None, {**BASE, **flags})
    log = measured(TRUTH, **flags)
    found = fit_engine(scenario, log)
    assert abs(found.after["ttft"]["p50"]) > 0.3
    assert any("does not describe this run" in note and "cached prompts" in note for note in found.notes)
    assert found.constants["compute_efficiency"] == pytest.approx(HOPPER.gemm.compute, rel=0.15)
    assert found.constants["memory_efficiency"] == pytest.approx(HOPPER.gemm.memory, rel=0.15)
    assert {"compute_efficiency", "memory_efficiency"} <= set(found.unidentified)


def test_end_to_end_times_claim_no_more_than_times_per_token(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, scenario, out = files
    document = json.loads(out.read_text())
    document["held_out"]["after"]["tpot"]["p90"] = -0.6
    path = tmp_path / "poor.json"
    path.write_text(json.dumps(document))
    clock = Run(load_scenario(str(scenario), {"latency.model": "fitted", "latency.name": str(path)})).clock
    assert clock.bands is not None
    assert clock.bands["e2e"] == clock.bands["tpot"] == (-0.6, 0.6)


def test_a_run_of_the_deployment_itself_narrows_its_bands_and_one_of_another_does_not(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, scenario, out = files
    document = json.loads(out.read_text())
    for errors in document["held_out"]["after"].values():
        errors.update(dict.fromkeys(errors, 0.01))
    path = tmp_path / "good.json"
    path.write_text(json.dumps(document))
    fitted = {"latency.model": "fitted", "latency.name": str(path)}
    usual = Run(load_scenario(str(scenario))).clock
    same, other = (
        Run(load_scenario(str(scenario), {**fitted, "model": model})).clock
        for model in ("llama-3.1-8b", "mistral-7b-v0.3")
    )
    assert usual.bands is not None
    assert same.bands == {
        name: pytest.approx((0.8 * low, 0.8 * high)) for name, (low, high) in usual.bands.items()
    }
    assert other.bands == usual.bands
    assert "leaves 80% of these bands" in same.statement
    assert "leaves" not in other.statement
    batch = StepBatch(4, 4000, 4, 4000, [], 4)
    slow = [0.0, 2.0, 0.0, 0.0, 0.0]
    factors = [
        clock.perturbed(slow).step_seconds(batch) / clock.perturbed([0.0] * DIMENSIONS).step_seconds(batch)
        for clock in (same, usual) if clock.perturbed is not None
    ]  # fmt: skip
    assert 1.0 < factors[0] < factors[1]


def test_members_of_an_ensemble_agree_with_the_run_and_differ_beyond_it(
    files: tuple[Path, Path, Path],
) -> None:
    """What the run left open spreads where it matters: alone at three requests a second, in hundreds together."""
    _, scenario, out = files
    clock = Run(load_scenario(str(scenario), {"latency.model": "fitted", "latency.name": str(out)})).clock
    document = json.loads(out.read_text())
    names = document["spread"]["names"]
    assert clock.unknowns == len(names) == 7
    assert clock.perturbed is not None

    def batch(requests: int) -> StepBatch:
        return StepBatch(requests, 10 * requests, requests, 10 * requests, [], requests)

    plain = [0.0] * DIMENSIONS
    assert clock.perturbed(plain).step_seconds(batch(4)) == clock.model.step_seconds(batch(4))
    spreads = {}
    for requests in (2, 512):
        logs = []
        for place in range(len(names)):
            for sign in (-1.0, 1.0):
                own = [sign if index == place else 0.0 for index in range(len(names))]
                member = clock.perturbed([*plain, *own])
                logs.append(
                    math.log(member.step_seconds(batch(requests)) / clock.model.step_seconds(batch(requests)))
                )
        spreads[requests] = math.fsum(log * log for log in logs) / 2
    # The run held two requests in flight; what each of hundreds costs was not seen.
    assert 0.0 < spreads[2] < 0.2**2
    assert spreads[512] > 1.5 * spreads[2]
    assert clock.perturbed(3).step_seconds(batch(4)) == clock.perturbed(3).step_seconds(batch(4))
    given = {"latency.model": "fitted", "latency.name": str(out), "latency.request_s": 1e-5}
    fixed = Run(load_scenario(str(scenario), given)).clock
    assert fixed.perturbed is not None
    member = fixed.perturbed([*plain, *([0.5] * len(names))])
    assert isinstance(member, Roofline)
    assert member.constants.request_s == 1e-5
    assert member.constants.compute_efficiency != document["constants"]["compute_efficiency"]


def test_stalls_of_the_run_reach_into_the_99th_percentile_and_nowhere_else(tmp_path: Path) -> None:
    small = {"workload.requests": 120, "workload.rate": 2.0}
    plain = measured(TRUTH, **small)
    stalled = replace(
        plain, rows=tuple(row.later(0.5) if i % 24 < 2 else row for i, row in enumerate(plain.rows))
    )
    scenario = load_scenario(None, {**BASE, **small})
    for name, log in (("plain", plain), ("stalled", stalled)):
        path = tmp_path / f"{name}.json"
        document = fit_document(fit_engine(scenario, log), scenario, log, [])
        path.write_text(json.dumps(document))
        run = Run(
            load_scenario(None, {**BASE, **small, "latency.model": "fitted", "latency.name": str(path)})
        )
        run.execute()
        result = run.result(["kvplan"])
        real = sorted(row.ttft_s for row in log.rows)
        predicted = result["latency"]["ttft_s"]
        assert ("client_stall_s" in document["latency"]) == (name == "stalled")
        assert predicted["p99"] == pytest.approx(quantile(real, 0.99), rel=0.35)
        assert predicted["p50"] == pytest.approx(quantile(real, 0.5), rel=0.05)
        low, high = result["accuracy"]["intervals"]["ttft_s"]["p99"]
        assert low < quantile(real, 0.99) < high


def test_a_scenario_of_the_deployment_alone_will_do_and_outputs_are_checked_first(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, _, _ = files
    alone, out = tmp_path / "alone.yaml", tmp_path / "fitted.json"
    alone.write_text("model: llama-3.1-8b\ngpu: h100-sxm\n")
    words = ["calibrate", "--engine-log", str(log), "--scenario", str(alone), "-o"]
    began = time.process_time()
    for place, said in (
        (tmp_path / "nowhere" / "x.json", "nowhere"), (Path("-"), "a file that scenarios name"), (log, "the log"),
    ):  # fmt: skip
        assert cli([*words, str(place)]) != 0
        assert said in capsys.readouterr().err
    assert time.process_time() - began < 2.0
    assert cli([*words, str(out), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"before", "after"} <= set(printed["held_out"])
    assert out.exists()


def test_a_run_with_drafts_is_fitted_with_them() -> None:
    drafts = {
        "speculative.method": "draft_model", "speculative.model": "llama-3.2-1b", "speculative.tokens": 3,
        "speculative.acceptance": 0.7, **SHORT, "workload.requests": 60,
    }  # fmt: skip
    found = fit_engine(load_scenario(None, {**BASE, **drafts}), measured(TRUTH, **drafts))
    for metric in ("ttft", "tpot", "e2e"):
        assert all(abs(error) < 0.1 for error in found.after[metric].values())
    assert min(abs(error) for error in found.before["tpot"].values()) > 0.15
