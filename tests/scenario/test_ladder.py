"""``kvplan simulate --ladder``: the rungs beside a run, and what has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run as kvplan
from kvplan.engine.cache_replay import collect, replay
from kvplan.engine.frontend import rejection
from kvplan.errors import UsageError
from kvplan.scenario.ladder import add_ladder, check_ladder
from kvplan.scenario.load import load_scenario
from kvplan.scenario.run import Run
from kvplan.traces.synthesize import synthesize

FLAGS = {
    "cache.blocks": 3001, "latency.model": "linear", "latency.a": 5e-3, "latency.b": 0.00002, "latency.c": 0.00000001,
    "workload.synthesize": "agentic", "workload.requests": 80, "workload.rate": 2.0, "accuracy.ensemble": 0,
}  # fmt: skip


def simulated(*assignments: str) -> Run:
    run = Run(load_scenario(None, FLAGS, assignments))
    check_ladder(run)
    run.execute()
    return run


def rungs(run: Run) -> dict[str, Any]:
    add_ladder(run)
    return {metric.name: metric for metric in run.recorder.sections["ladder"]}


@pytest.mark.parametrize("policy", ["lru", "lfu", "s3-fifo"])
def test_the_rungs_are_in_order_and_those_of_the_cache_alone(policy: str) -> None:
    run = simulated(f"cache.eviction={policy}")
    found = rungs(run)
    config = check_ladder(run)
    references = collect((r for r in synthesize("agentic", 80, 2.0, 0) if rejection(r, config) is None), 16)
    tokens = references.bound.input_tokens
    assert found["optimum"].value == replay(references, 3000, "belady").hit_tokens / tokens
    for name in {"lru", policy} & set(found):
        assert found[name].value == replay(references, 3000, name).hit_tokens / tokens
        assert found[name].value <= found["best_online"].value
    assert found["best_online"].value <= found["optimum"].value <= found["content_bound"].value
    totals = run.recorder.totals
    assert found["simulated"].value == totals.hit_tokens / totals.queried_tokens


def test_the_verdict_is_a_sentence_with_both_gaps() -> None:
    small = rungs(simulated("cache.blocks=2001"))["verdict"]
    assert small.value == "capacity"
    assert small.meaning.startswith("The capacity holds the hits back: another policy could add at most")
    large = rungs(simulated("cache.blocks=200001"))["verdict"]
    assert large.value == "content"
    assert large.meaning.startswith("Neither policy nor capacity")


def test_who_is_turned_away_is_on_no_rung() -> None:
    run = simulated("cache.blocks=200001", "engine.max_model_len=34000")
    assert 0 < run.recorder.totals.rejected < 80
    served = [r for r in synthesize("agentic", 80, 2.0, 0) if r.prompt_tokens + r.output_tokens <= 34_000]
    assert len(served) == run.recorder.totals.finished
    found, references = rungs(run), collect(served, 16)
    bound = references.bound
    assert found["optimum"].value == replay(references, 200_000, "belady").hit_tokens / bound.input_tokens
    # Answers are cached too, and nothing is evicted here: a run hits what a cache without bounds does, or more.
    assert found["simulated"].value >= found["content_bound"].value


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("cache.prefix=none", "hashed blocks"),
        ("engine.kind=sglang", "hashed blocks"),
        ("cache.groups=[{kind: sliding, window: 64}, {kind: full}]", "one group of full attention"),
        ("parallel.replicas=2", "single cache"),
    ],
)
def test_what_has_no_ladder_says_so_before_the_run(assignment: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        simulated(assignment)
    assert error.value.where == "--ladder"


def options(flags: dict[str, Any]) -> list[str]:
    return [
        f"--set={key}={value:.8f}" if isinstance(value, float) else f"--set={key}={value}"
        for key, value in flags.items()
    ]


def test_the_report_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = options(FLAGS)
    assert kvplan(["simulate", *words, "--ladder", "-o", str(tmp_path / "r.json")]) == 0
    assert "holds the hits back" in " ".join(capsys.readouterr().out.split())
    assert kvplan(["report", str(tmp_path / "r.json"), "-f", "md", "-o", "-"]) == 0
    assert "## Memory strategy: Ladder" in capsys.readouterr().out


def test_unknown_content_has_no_ladder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "lengths.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,100,10\n1,200,20\n")
    words = options({key: value for key, value in FLAGS.items() if not key.startswith("workload")})
    assert kvplan(["simulate", *words, "--trace", str(trace), "--ladder"]) == 2
    said = capsys.readouterr().err
    assert "does not say what its prompts contain" in said
    assert "hint: use a trace with block ids or token ids" in said
