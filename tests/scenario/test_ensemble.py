"""Intervals: they contain the value, follow the clock's spread through queues, repeat, and cost linear nothing."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.protocols import StepBatch
from kvplan.errors import KvplanError, UsageError
from kvplan.latency import transfer
from kvplan.latency.profile import profile_path
from kvplan.reporting.result import Result
from kvplan.scenario.ensemble import LATENCIES, MEMBERS, STATISTICS, spread_interval
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

BASE = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "chat", "workload.requests": 60,
    "workload.rate": 4.0, "cache.blocks": 4000,
}  # fmt: skip


def played(**flags: Any) -> Run:
    run = Run(load_scenario(None, {**BASE, **flags}))
    run.execute()
    return run


def document(**flags: Any) -> dict[str, Any]:
    return played(**flags).result(["kvplan"])


def widths(result: dict[str, Any]) -> dict[str, float]:
    """Relative width of the interval of each latency's median."""
    found = result["accuracy"]["intervals"]
    return {
        name: (found[name]["p50"][1] - found[name]["p50"][0]) / result["latency"][name]["p50"]
        for name in LATENCIES
    }


@pytest.fixture(scope="module")
def roofline() -> dict[str, Any]:
    return document()


def test_every_statistic_lies_in_its_interval(roofline: dict[str, Any]) -> None:
    accuracy = roofline["accuracy"]
    assert accuracy["ensemble"] == MEMBERS
    assert "8 simulations with perturbed clocks" in accuracy["intervals_source"]
    for name in LATENCIES:
        assert list(accuracy["intervals"][name]) == list(STATISTICS)
        for key, (low, high) in accuracy["intervals"][name].items():
            assert 0 <= low < roofline["latency"][name][key] < high
    Result.model_validate(roofline)


def test_the_same_scenario_gives_the_same_intervals(roofline: dict[str, Any]) -> None:
    assert document()["accuracy"] == roofline["accuracy"]


def test_intervals_are_no_narrower_than_the_stated_bands(roofline: dict[str, Any]) -> None:
    stated = document(**{"accuracy.ensemble": 0})
    assert stated["accuracy"]["ensemble"] == 0
    assert "accuracy.ensemble is 0" in stated["accuracy"]["intervals_source"]
    for name in LATENCIES:
        for key, (low, high) in stated["accuracy"]["intervals"][name].items():
            wide = roofline["accuracy"]["intervals"][name][key]
            assert wide[0] <= low < high <= wide[1]
    tpot = stated["latency"]["tpot_s"]["p99"]
    assert stated["accuracy"]["intervals"]["tpot_s"]["p99"] == pytest.approx([0.8 * tpot, 1.2 * tpot])


def test_a_less_certain_clock_has_wider_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvplan.latency import roofline as module

    narrow = widths(document(**{"latency.client_overhead_s": 0}))
    for name in ("TTFT_BAND", "TPOT_BAND", "E2E_BAND"):
        monkeypatch.setattr(module, name, (-0.45, 0.6))
    wide = widths(document(**{"latency.client_overhead_s": 0}))
    assert all(wide[name] > 1.3 * narrow[name] for name in LATENCIES)


def test_queueing_widens_what_the_clock_alone_would_not() -> None:
    engine = {"latency.client_overhead_s": 0, "workload.requests": 150}
    busy = document(**engine, **{"engine.max_num_seqs": 6})
    idle = document(**engine)
    assert busy["latency"]["queue_s"]["p50"] > 100 * idle["latency"]["queue_s"]["p50"]
    assert widths(busy)["ttft_s"] > 4 * widths(idle)["ttft_s"]
    assert widths(busy)["tpot_s"] < 1.2 * widths(idle)["tpot_s"]


def draws(run: Run, member: list[float]) -> Any:
    """The strategy of a member of the ensemble."""
    return run.system.perturbed(member).strategy


def test_copies_to_tiers_are_off_by_their_links_band() -> None:
    run = Run(load_scenario(None, {**BASE, "cache.host_memory": "64GiB"}))
    plain = draws(run, [0.0] * 5).tiers[0]
    for normal, sign in ((1.645, 1), (-1.645, -1)):
        member = draws(run, [normal, 0.0, 0.0, 0.0, 0.0]).tiers[0]
        for name in ("put", "get"):
            before, after = getattr(plain, name), getattr(member, name)
            band = before.band[1] if sign > 0 else before.band[0]
            assert after.seconds(1 << 24) == pytest.approx(before.seconds(1 << 24) * (1 + band))
    assert run.system.perturbed([1.0] * 5).instances == run.system.instances


def test_transfers_between_instances_and_clocks_of_their_own_are_off_too() -> None:
    flags = {"disaggregation.link": "ib-ndr", "disaggregation.decode.gpu": "a100-80g", "cache.blocks": None}
    run = Run(load_scenario(None, {**BASE, **flags}))
    plain, slow = draws(run, [0.0] * 5), draws(run, [1.0] * 5)
    assert slow.route[0].carrier.seconds(1 << 24) > 1.1 * plain.route[0].carrier.seconds(1 << 24)
    batch = StepBatch(16, 16_000, 16, 16_000, [], 16)
    assert slow.decode.latency.step_seconds(batch) > 1.05 * plain.decode.latency.step_seconds(batch)
    # The prefill pool runs on the scenario's clock, which the ensemble perturbs itself.
    assert slow.prefill == plain.prefill


def test_a_slow_link_of_unsure_rate_widens_what_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {
        "disaggregation.link": "ib-ndr", "disaggregation.bandwidth": 2e8, "latency.client_overhead_s": 0,
        "workload.requests": 40, "cache.blocks": None,
    }  # fmt: skip
    wide = widths(document(**flags))
    monkeypatch.setattr(transfer, "GRADE_BANDS", dict.fromkeys(transfer.GRADE_BANDS, (-0.01, 0.01)))
    assert wide["ttft_s"] > 1.1 * widths(document(**flags))["ttft_s"]


def test_links_between_ranks_are_off_by_themselves(clock_of: Any) -> None:
    batch = StepBatch(4096, 0, 0, 0, [(0, 4096)], 1)
    for kind in ("roofline", "profile"):
        for tp, least in ((1, 0.0), (8, 0.02)):
            clock = clock_of(kind, tp)
            plain, slow = (clock.perturbed([z, 0.0, 0.0, 0.0, 0.0]).step_seconds(batch) for z in (0.0, 1.645))
            assert slow / plain - 1 == pytest.approx(0.0) if not least else slow / plain - 1 > least


@pytest.fixture
def clock_of() -> Any:
    return lambda kind, tp: (
        Run(
            load_scenario(None, {**BASE, "latency.model": kind, "parallel.tp": tp, "cache.blocks": None})
        ).clock
    )


def test_an_unsure_client_overhead_is_in_ttft_but_not_in_tpot(roofline: dict[str, Any]) -> None:
    engine = document(**{"latency.client_overhead_s": 0})
    given_ = document(**{"latency.client_overhead_s": 0.015})
    for key in STATISTICS:
        for name in ("ttft_s", "e2e_s"):
            more = given_["latency"][name][key] - engine["latency"][name][key]
            assert more == pytest.approx(0.015)
            assert roofline["latency"][name][key] == given_["latency"][name][key]
        assert given_["latency"]["tpot_s"][key] == engine["latency"]["tpot_s"][key]
    assert widths(roofline)["ttft_s"] > widths(given_)["ttft_s"]
    assert engine["totals"] == given_["totals"] == roofline["totals"]


def test_a_linear_clock_has_no_intervals_and_keeps_no_request() -> None:
    run = played(**{"latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8})
    accuracy = run.result(["kvplan"])["accuracy"]
    assert accuracy["intervals"] is None
    assert accuracy["ensemble"] == 0
    assert run._kept == []


def test_large_workloads_use_the_stated_bands_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvplan.scenario import ensemble

    monkeypatch.setattr(ensemble, "AUTOMATIC_WORKLOAD", 59)
    left = document()["accuracy"]
    assert left["ensemble"] == 0
    assert "more than 59 requests" in left["intervals_source"]
    assert document(**{"accuracy.ensemble": 2})["accuracy"]["ensemble"] == 2
    monkeypatch.setattr(ensemble, "LARGEST_WORKLOAD", 59)
    assert document(**{"accuracy.ensemble": 2})["accuracy"]["ensemble"] == 0


def test_an_interrupted_ensemble_leaves_the_result_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    run = played()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kvplan.scenario.system.make_engine", interrupt)
    result = run.result(["kvplan"])
    assert result["complete"] is True
    assert "interrupted" in result["accuracy"]["intervals_source"]
    Result.model_validate(result)


def test_a_failing_member_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    run = played()

    def fail(*_: Any, **__: Any) -> None:
        raise KvplanError("no engine today")

    monkeypatch.setattr("kvplan.scenario.system.make_engine", fail)
    assert "no engine today" in run.result(["kvplan"])["accuracy"]["intervals_source"]


@pytest.mark.parametrize("bad", [1, -1, 65, 2.5])
def test_an_ensemble_that_says_nothing_is_refused(bad: float) -> None:
    with pytest.raises(UsageError, match=r"ensemble"):
        load_scenario(None, {**BASE, "accuracy.ensemble": bad})


@given(
    value=st.floats(1e-6, 1e6),
    factors=st.lists(st.floats(0.2, 5.0), min_size=2, max_size=12),
    wider=st.floats(1.0, 3.0),
)
def test_laws_of_an_interval(value: float, factors: list[float], wider: float) -> None:
    low, high = spread_interval(value, [value * factor for factor in factors])
    assert low <= min(value, *(value * f for f in factors))
    assert high >= max(value, *(value * f for f in factors))
    more_low, more_high = spread_interval(value, [value * factor**wider for factor in factors])
    assert more_low <= low * (1 + 1e-9)
    assert more_high >= high * (1 - 1e-9)


def test_a_result_whose_value_leaves_its_interval_is_refused(roofline: dict[str, Any]) -> None:
    broken = copy.deepcopy(roofline)
    broken["accuracy"]["intervals"]["ttft_s"]["p99"] = [0.0, 1e-9]
    with pytest.raises(ValueError, match="does not contain the value"):
        Result.model_validate(broken)
    broken["accuracy"]["intervals"]["ttft_s"] = None
    with pytest.raises(ValueError, match="only one of them is null"):
        Result.model_validate(broken)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_intervals_cover_what_other_clocks_of_the_same_spread_see(kind: str) -> None:
    """Sixty medians and p90s of thirty independently drawn clocks, close to saturation."""
    from kvplan.engine.engine import make_engine
    from kvplan.engine.recorder import Recorder
    from kvplan.scenario.summary import latency_objects

    busy = {"workload.rate": 20.0, "engine.max_num_seqs": 16, "latency.client_overhead_s": 0}
    run = played(**busy, **{"latency.model": kind})
    intervals = run.result(["kvplan"])["accuracy"]["intervals"]
    assert run.clock.perturbed is not None
    inside = dict.fromkeys(LATENCIES, 0)
    for seed in range(30):
        recorder = Recorder()
        engine = make_engine("fast", run.deployment.config, run.clock.perturbed(1000 + seed), recorder)
        engine.run(run._kept)
        engine.close()
        seen, _ = latency_objects(recorder)
        for name in LATENCIES:
            for key in ("p50", "p90"):
                low, high = intervals[name][key]
                inside[name] += low <= seen[name][key] <= high
    assert all(count / 60 >= 0.8 for count in inside.values()), inside


def test_members_are_reported_as_they_are_simulated() -> None:
    told: list[tuple[int, int]] = []
    run = played(**{"accuracy.ensemble": 3})
    run.result(["kvplan"], on_member=lambda done, members: told.append((done, members)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    told.clear()
    played(**{"accuracy.ensemble": 0}).result(["kvplan"], on_member=lambda done, _: told.append((done, 0)))
    assert not told


def test_a_profile_given_by_path_is_an_input_and_a_bundled_one_an_assumption(tmp_path: Path) -> None:
    own = tmp_path / "mine.json"
    own.write_bytes(profile_path("h100-sxm").read_bytes())
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    flags = {"workload.requests": 5, "latency.model": "profile", "accuracy.ensemble": 0}
    given = document(**flags, **{"latency.name": str(own)})
    assert {"path": str(own), "bytes": own.stat().st_size, "sha256": digest} in given["provenance"]["inputs"]
    bundled = document(**flags)
    assert bundled["provenance"]["inputs"] == []
    named = {item["name"]: item for item in bundled["assumptions"]}
    assert digest in named["latency.profile"]["source"]


def test_stated_bands_are_said_not_to_hold_of_a_saturated_run() -> None:
    flags = {
        "model": "llama-3.1-8b", "gpu": "l4", "engine.max_model_len": 32768, "accuracy.ensemble": 0,
        "workload.synthesize": "chat", "workload.requests": 150,
    }  # fmt: skip
    for rate, said in ((3.0, "below saturation, so not for this run"), (0.05, "below saturation (")):
        run = Run(load_scenario(None, {**flags, "workload.rate": rate}))
        run.execute()
        assert said in run.result(["kvplan"])["accuracy"]["intervals_source"]
