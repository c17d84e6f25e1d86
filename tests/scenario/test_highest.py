"""The highest load that meets every objective."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.cli.app import run as command
from kvplan.errors import Interrupted, KvplanError, UsageError
from kvplan.reporting.highest import highest_sentence
from kvplan.reporting.schema.sweep import Sweep as Document
from kvplan.reporting.sweep import remarks
from kvplan.reporting.sweep_verdict import sweep_verdict
from kvplan.scenario import bracket
from kvplan.scenario.bracket import PRECISION, Bounds
from kvplan.scenario.highest import Search, parse_bounds
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run

FLAGS: dict[str, Any] = {
    "latency.model": "linear", "latency.a": 0.005, "latency.b": 2e-5, "latency.c": 1e-8, "cache.blocks": 3000,
    "engine.max_num_batched_tokens": 2048, "engine.max_model_len": 16384, "workload.synthesize": "fixed",
    "workload.requests": 150, "workload.prompt_tokens": 500, "workload.output_tokens": 20,
    "slo.ttft_p99_s": 0.2,
}  # fmt: skip


def searched(text: str, **flags: Any) -> Search:
    found = Search(None, parse_bounds(text), flags={**FLAGS, **flags})
    found.execute()
    return found


def passes(**flags: Any) -> bool:
    run = Run(load_scenario(None, {**FLAGS, **flags}))
    run.execute()
    return all(item["passed"] for item in run.result([])["slo"])


def test_the_answer_passes_and_a_little_more_does_not() -> None:
    found = searched("workload.rate=1..500")
    assert found.passed is not None
    assert found.missed is not None
    assert found.passed < found.missed <= found.passed * (1 + PRECISION) * 1.001
    long = {"workload.requests": found.lengths[-1][0]}
    assert passes(**{"workload.rate": found.passed}, **long)
    assert not passes(**{"workload.rate": found.missed}, **long)
    assert len(found.tried) < 25


def test_whole_numbers_end_side_by_side() -> None:
    found = searched("workload.max_in_flight=1..64", **{"slo.ttft_p99_s": 0.05})
    assert found.passed is not None
    assert all(value == int(value) for value in found.tried)
    assert found.missed == found.passed + 1 or found.missed <= found.passed * (1 + PRECISION)
    assert {type(value) for value in found.sweep().axes[0].values} == {int}


def test_everything_passes_or_nothing_does() -> None:
    easy = searched("workload.rate=1..2")
    assert (easy.passed, easy.missed, len(easy.lengths[0][1].tried)) == (2.0, None, 2)
    assert easy.settled
    hard = searched("workload.rate=1..2", **{"slo.ttft_p99_s": 1e-6})
    assert (hard.passed, hard.missed) == (None, 1.0)


def test_requests_that_are_not_served_meet_nothing() -> None:
    found = searched("engine.max_model_len=100..1000", **{"slo.ttft_p99_s": 100.0})
    # Fewer tokens than a request has: all are turned away.
    assert found.passed is None or found.passed >= 520


def test_without_an_objective_there_is_nothing_to_meet() -> None:
    with pytest.raises(UsageError, match="good enough") as caught:
        searched("workload.rate=1..2", **{"slo.ttft_p99_s": None})
    assert "slo.ttft_p99_s=1" in str(caught.value.hint)


def test_what_is_wrong_everywhere_is_said_at_once() -> None:
    with pytest.raises(KvplanError, match="unknown field") as caught:
        searched("workload.rat=1..2")
    assert str(caught.value.where).startswith("--highest")


def test_a_point_that_breaks_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvplan.scenario import outcomes

    seen: list[float] = []

    def broken(document: dict[str, Any], slower: float) -> dict[str, Any]:
        seen.append(document["workload"]["rate"])
        return outcomes.failure(KvplanError("boom"))

    monkeypatch.setattr(outcomes, "simulate_point", broken)
    found = searched("workload.rate=1..64")
    assert seen == [1.0, 64.0]
    assert found.passed is None
    assert found.missed is None  # it says nothing about the load
    assert found.sweep().complete


@given(st.floats(0.01, 1e6), st.floats(1.0001, 1e6), st.integers(1, 8), st.booleans(), st.floats(0.0, 1.0))
def test_any_threshold_is_found(low: float, ratio: float, jobs: int, whole: bool, where: float) -> None:
    low = float(max(1, round(low))) if whole else low
    high = float(round(low * ratio) + 1) if whole else low * ratio
    bounds = Bounds("k", low, high, whole)
    threshold = low * (high / low) ** where
    passed, missed, rounds = low, high, 0
    while values := bounds.between(passed, missed, jobs):
        rounds += 1
        assert rounds <= bracket.MOST_ROUNDS
        assert all(passed < value < missed for value in values)
        assert len(values) <= jobs
        passed = max([passed, *(value for value in values if value <= threshold)])
        missed = min([missed, *(value for value in values if value > threshold)])
    assert missed <= passed * (1 + PRECISION) + (1 if whole else 0.0) or missed - passed < 0.02 * missed


@pytest.mark.parametrize(
    "text", ["workload.rate", "=1..2", "workload.rate=1", "workload.rate=2..1", "workload.rate=0..5",
             "workload.rate=-1..5", "workload.rate=1..2:1", "workload.rate=a..b", "workload.rate=1..nan"],
)  # fmt: skip
def test_bounds_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--highest"):
        parse_bounds(text)


def test_rates_are_real_and_limits_are_whole() -> None:
    assert not parse_bounds("workload.rate=1..64").whole
    assert parse_bounds("workload.max_in_flight=1..64").whole
    assert not parse_bounds("cache.pinned.memory=0.1..1").whole


COMMAND = [
    "sweep", "--set", "latency.model=linear", "--set", "latency.a=0.005", "--set", "latency.b=2e-05", "--set",
    "latency.c=1e-08", "--set", "cache.blocks=3000", "--set", "engine.max_num_batched_tokens=2048", "--set",
    "engine.max_model_len=16384", "--synthesize", "fixed", "-n", "60", "--set", "slo.ttft_p99_s=0.2", "-j", "1",
]  # fmt: skip


def test_the_command_answers_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "s.json", tmp_path / "s.html"
    words = [*COMMAND, "--highest", "workload.rate=1..200", "-o", str(out), "--html", str(page)]
    assert command(words) == 0
    lines = capsys.readouterr().out.splitlines()
    document = json.loads(out.read_text())
    answer = document["highest"]
    said = f"every objective is met up to {answer['passed']:g} requests a second"
    assert said in " ".join(lines[:2])
    assert max(map(len, lines)) <= 80
    read = Document.model_validate(document)
    assert read.document() == document
    assert said in sweep_verdict(read).headline
    assert "requests a second" in page.read_text()
    order = [tuple(point["values"].values()) for point in document["points"]]
    assert order == sorted(order)  # by requests, then by rate
    assert answer["settled"] is True
    assert answer["binding"] == "ttft_p99_s"
    assert [item["requests"] for item in answer["shorter"]] == sorted({first for first, _ in order})[:-1]
    assert f"rests on runs of {answer['requests']:,} requests" in " ".join(" ".join(lines).split())


def test_no_load_that_passes_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMAND, "--set", "slo.ttft_p99_s=1e-06", "--highest", "workload.max_in_flight=1..8"]
    assert command(words) == 3
    printed = capsys.readouterr()
    assert "not even at 1 request in flight" in printed.out
    assert "no workload.max_in_flight from 1 on" in printed.err
    assert command([*COMMAND, "--highest", "workload.rate=1..2", "--vary", "seed=1,2"]) == 2


def test_more_that_is_better_is_no_load(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMAND, "--rate", "5", "--highest", "engine.max_num_batched_tokens=1..4096"]
    assert command(words) == 2
    printed = capsys.readouterr()
    assert "more is better here" in " ".join(printed.out.split())
    assert "is better here: no highest value" in printed.err


def test_an_answer_that_nothing_follows_from_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMAND, "--rate", "5", "--highest", "workload.max_in_flight=50..60"]
    assert command(words) == 0
    assert "from 50 requests in flight on it makes no difference" in " ".join(capsys.readouterr().out.split())


def test_a_run_too_short_for_its_load_is_doubted() -> None:
    lax: dict[str, Any] = {"slo.ttft_p99_s": None, "slo.tpot_p99_s": 10.0}
    found = searched("workload.rate=1..500", **lax)
    assert (found.passed, found.settled) == (500.0, False)
    document = found.document(["kvplan"])
    said = highest_sentence(document)
    assert said.startswith("too short a run to tell; at most 500 requests a second meet every objective")
    assert "still filling up" in " ".join(remarks(document))
    steady = searched("workload.rate=1..4", **{"workload.requests": 1000, "slo.ttft_p99_s": 10.0})
    assert steady.settled
    assert not any("short" in note for note in remarks(steady.document(["kvplan"])))


def test_a_search_that_may_not_lengthen_its_run_says_so() -> None:
    found = Search(None, parse_bounds("workload.rate=1..500"), flags=FLAGS, longest=150)
    found.execute()
    longer = searched("workload.rate=1..500")
    assert [requests for requests, _ in found.lengths] == [150]
    assert (found.settled, longer.settled) == (False, True)
    assert found.passed is not None
    assert longer.passed is not None
    assert found.passed > longer.passed


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("workload.max_in_flight=1..400", {}),
        ("workload.max_sessions=1..200", {"workload.synthesize": "chat", "workload.turns": "answered"}),
    ],
)
def test_a_workload_shorter_than_the_loads_looked_at_is_made_longer(text: str, more: dict[str, Any]) -> None:
    lengths = {"workload.prompt_tokens": None, "workload.output_tokens": None} if more else {}
    found = searched(text, **more, **lengths, **{"slo.ttft_p99_s": 100.0})
    assert found.passed == found.bounds.high
    assert all(outcome is not None and not outcome["error"] for outcome in found.tried.values())
    requests = found.lengths[0][0]
    assert requests is not None
    assert requests >= 600


def test_where_longer_is_not_allowed_a_short_workload_tells_nothing() -> None:
    found = Search(None, parse_bounds("workload.max_in_flight=300..400"), flags=FLAGS, longest=200)
    found.execute()
    assert {outcome["error"]["code"] for outcome in found.tried.values() if outcome} == {"too-few-requests"}
    said = highest_sentence(found.document(["kvplan"]))
    assert "objectives are not met" not in said
    assert "nothing could be simulated" in said


def test_a_trace_cannot_be_made_longer(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    rows = [
        {"timestamp": 50 * n, "input_length": 500, "output_length": 20, "hash_ids": [n]} for n in range(80)
    ]
    trace.write_text("\n".join(map(json.dumps, rows)))
    flags = {key: value for key, value in FLAGS.items() if not key.startswith("workload.")}
    found = Search(
        None, parse_bounds("workload.rate_scale=0.1..50"), flags={**flags, "workload.trace": str(trace)}
    )
    found.execute()
    assert [requests for requests, _ in found.lengths] == [None]
    assert found.settled is False
    document = found.document(["kvplan"])
    assert [axis["key"] for axis in document["axes"]] == ["workload.rate_scale"]
    shown = sweep_verdict(Document.model_validate(document))
    assert "too short a run to tell" in shown.headline
    assert "perhaps less" in shown.headline
    assert shown.tone == "partial"


def test_a_limit_that_is_varied_is_not_set_beside() -> None:
    with pytest.raises(UsageError, match="which is varied"):
        Search(None, parse_bounds("workload.requests=10..50"), flags=FLAGS, count=20)


def test_an_interrupted_search_keeps_the_answer_of_the_shorter_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvplan.scenario import outcomes

    simulate = outcomes.simulate_point

    def interrupted(document: dict[str, Any], slower: float) -> dict[str, Any]:
        if document["workload"]["requests"] > 150:
            raise KeyboardInterrupt
        return simulate(document, slower)

    monkeypatch.setattr(outcomes, "simulate_point", interrupted)
    found = Search(None, parse_bounds("workload.rate=1..500"), flags=FLAGS)
    with pytest.raises(Interrupted):
        found.execute()
    document = found.document(["kvplan"])
    assert not document["complete"]
    assert document["highest"]["requests"] == 150
    assert document["highest"]["settled"] is False
    assert found.passed == found.lengths[0][1].passed
    assert "too short" in sweep_verdict(Document.model_validate(document)).headline


def test_only_a_search_lengthens() -> None:
    assert command([*COMMAND, "--vary", "seed=1,2", "--longest", "100"]) == 2
