"""Replays: cached prefixes are found again, closed loops are recognised and closed again."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import DataError
from kvplan.latency.client import ClientOverhead
from kvplan.scenario.engine_fit import fit_engine
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.load import load_scenario
from kvplan.scenario.log_replay import LogReplay, closed_loop, share_full
from kvplan.scenario.measured import Measured
from kvplan.scenario.run import Run

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "chat", "workload.requests": 1,
    "workload.rate": 1.0,
}  # fmt: skip


def run_of(**flags: Any) -> Run:
    return Run(load_scenario(None, {**BASE, **flags}))


def rows_of(
    count: int, *, rate: float = 4.0, cached: float | None = None, seed: int = 1, prompt: int = 2000
) -> tuple[Measured, ...]:
    """Lengths and Poisson arrivals; times are to be simulated."""
    rng, clock, rows = random.Random(seed), 0.0, []
    for _ in range(count):
        tokens = rng.randrange(prompt // 2, prompt)
        hit = None if cached is None else int(cached * tokens) // 16 * 16
        rows.append(Measured(clock, tokens, rng.randrange(20, 120), 0.1, 1.0, hit))
        clock += rng.expovariate(rate)
    return tuple(rows)


def log_of(rows: tuple[Measured, ...], limit: int | None = None) -> EngineLog:
    return EngineLog("run.csv", "csv", rows, (), limit)


def played(run: Run, log: EngineLog, client_s: float = 0.02) -> list[Measured]:
    seen = LogReplay(run.system, log).play(run.clock.model, ClientOverhead(client_s))
    assert all(row is not None for row in seen)
    return [row for row in seen if row is not None]


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def test_every_request_finds_as_much_cached_as_it_did() -> None:
    rows = rows_of(60, cached=0.6)
    run = run_of()
    seen = played(run, log_of(rows))
    for logged, found in zip(rows, seen, strict=True):
        assert logged.cached_tokens is not None
        assert found.cached_tokens == min(logged.cached_tokens, (logged.prompt_tokens - 1) // 16 * 16)
    cold = played(run, log_of(tuple(replace(row, cached_tokens=None) for row in rows)))
    assert all(row.cached_tokens == 0 for row in cold)
    assert median([row.ttft_s for row in seen]) < 0.8 * median([row.ttft_s for row in cold])


def test_a_wholly_cached_prompt_still_computes_its_last_token() -> None:
    rows = tuple(replace(row, cached_tokens=row.prompt_tokens) for row in rows_of(40))
    assert all(row.ttft_s > 0.02 for row in played(run_of(), log_of(rows)))


def test_cached_tokens_need_a_cache() -> None:
    with pytest.raises(DataError, match="engine caches none"):
        LogReplay(run_of(**{"cache.prefix": "none"}).system, log_of(rows_of(40, cached=0.5)))
    # Zeros say that nothing was cached.
    assert not LogReplay(run_of(**{"cache.prefix": "none"}).system, log_of(rows_of(40, cached=0.0))).cached


@pytest.fixture(scope="module")
def closed() -> EngineLog:
    """What a client with eight requests in flight would log, without saying so."""
    run = run_of(**{"latency.step_s": 4e-3})
    seen = played(run, log_of(rows_of(80, rate=1000.0), limit=8), client_s=0.03)
    first = min(row.arrival_s for row in seen)
    # The engine sees a request half an overhead after the client sent it.
    return log_of(tuple(sorted((replace(row, arrival_s=row.arrival_s - first) for row in seen),
                               key=lambda row: row.arrival_s)))  # fmt: skip


def test_never_more_than_the_limit_are_in_flight(closed: EngineLog) -> None:
    for row in closed.rows:
        alive = [o for o in closed.rows if o.arrival_s <= row.arrival_s < o.arrival_s + o.e2e_s - 0.03]
        assert len(alive) <= 8


def test_a_closed_loop_is_recognised_and_an_open_one_is_not(closed: EngineLog) -> None:
    assert closed_loop(closed.rows) == 8
    assert share_full(closed.rows, 8) > 0.9
    run = run_of()
    for rate in (1.0, 6.0, 30.0):
        seen = played(run, log_of(rows_of(100, rate=rate)))
        assert closed_loop(tuple(seen)) is None
    replay = LogReplay(run.system, closed)
    assert replay.limit == 8
    assert any("closed loop of 8 requests in flight, as the log shows" in note for note in replay.notes())


def test_a_loop_whose_requests_finish_together_is_one(closed: EngineLog) -> None:
    """Of one length and sent at once, eight finish in one step: eight are sent then, one after the other."""
    rows = tuple(
        Measured(0.5 * wave + 1e-4 * place, 800, 40, 0.1, 0.495, 0)
        for wave in range(10)
        for place in range(8)
    )
    assert share_full(rows, 8) == 1.0
    assert closed_loop(rows) == 8
    assert not LogReplay(run_of().system, log_of(rows, limit=8)).paced
    assert share_full(closed.rows, 8) > 0.9


def test_a_slower_engine_makes_a_closed_loop_longer_but_no_queue(closed: EngineLog) -> None:
    slow = run_of(**{"latency.step_s": 12e-3})
    looped = played(slow, closed)
    opened = played(slow, replace(closed, max_in_flight=0))
    real = median([row.ttft_s for row in closed.rows])
    assert max(row.arrival_s for row in looped) > 1.3 * max(row.arrival_s for row in closed.rows)
    assert max(row.arrival_s for row in opened) == pytest.approx(max(row.arrival_s for row in closed.rows))
    assert median([row.ttft_s for row in looped]) < 2 * real
    alive = max(
        sum(o.arrival_s <= row.arrival_s < o.arrival_s + o.e2e_s - 0.02 for o in opened) for row in opened
    )
    assert alive > 12


def test_a_closed_loop_played_again_under_its_own_clock_is_what_was_logged(closed: EngineLog) -> None:
    again = played(run_of(**{"latency.step_s": 4e-3}), closed, client_s=0.03)
    for metric in ("ttft_s", "e2e_s", "tpot_s"):
        ours = median([getattr(row, metric) for row in again])
        assert ours == pytest.approx(median([getattr(row, metric) for row in closed.rows]), rel=0.05)


def test_a_limit_that_was_seldom_reached_leaves_the_clients_own_times() -> None:
    run = run_of()
    rows = tuple(played(run, log_of(rows_of(60, rate=2.0))))
    replay = LogReplay(run.system, log_of(rows, limit=32))
    assert replay.paced
    seen = replay.play(run.clock.model, ClientOverhead(0.02))
    for row, logged in zip(seen, rows, strict=True):
        assert row is not None
        assert row.arrival_s == pytest.approx(logged.arrival_s, abs=1e-9)
    assert any("not before their logged time" in note for note in replay.notes())


def test_fitting_a_closed_loop_says_what_it_cannot_tell(closed: EngineLog) -> None:
    flags = {"latency.step_s": 2e-3}
    found = fit_engine(load_scenario(None, {**BASE, **flags}), closed)
    assert "one batch size (8 requests" in found.unidentified["request_s"]
    assert any("closed loop" in note and "is not seen" in note for note in found.notes)
    assert all(abs(error) < 0.1 for error in found.after["tpot"].values())


@pytest.mark.parametrize("flags", [{"engine.kind": "sglang"}, {"parallel.replicas": 2}])
def test_every_deployment_is_driven_by_its_answers(closed: EngineLog, flags: dict[str, object]) -> None:
    seen = played(run_of(**flags), closed)
    for row in seen:
        alive = [o for o in seen if o.arrival_s <= row.arrival_s < o.arrival_s + o.e2e_s - 1e-9]
        assert len(alive) <= 8
    assert max(row.arrival_s for row in seen) > 0


def test_the_log_of_several_replicas_is_fitted_behind_a_router() -> None:
    flags = {"parallel.replicas": 2, "cache.prefix": "none"}
    run = run_of(**flags, **{"latency.step_s": 4e-3})
    log = log_of(tuple(sorted(played(run, log_of(rows_of(80, rate=8.0))), key=lambda row: row.arrival_s)))
    found = fit_engine(load_scenario(None, {**BASE, **flags}), log)
    assert any("2 replicas by round-robin" in note for note in found.notes)
    assert all(abs(error) < 0.1 for metric in ("tpot", "e2e") for error in found.after[metric].values())
    assert abs(found.before["tpot"]["p50"]) > 0.1


def test_rejections_are_told_and_free_their_place() -> None:
    run = run_of(**{"engine.max_model_len": 256})
    with pytest.raises(DataError, match="rejects"):
        LogReplay(run.system, log_of(rows_of(40), limit=4)).play(run.clock.model, ClientOverhead(0.02))


def test_the_command_takes_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kvplan.cli.app import run as cli

    assert (
        cli(["calibrate", "--max-in-flight", "4", "--from", "x.parquet", "-o", str(tmp_path / "p.json")]) == 2
    )
    assert "about a serving run" in capsys.readouterr().err
