"""Steps that clients saw by themselves: told from all other gaps, and worth more than percentiles."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import pytest

from kvplan.engine import recorder
from kvplan.engine.arrivals import Arrivals
from kvplan.engine.protocols import StepBatch
from kvplan.latency.client import ClientOverhead
from kvplan.latency.roofline import Roofline
from kvplan.scenario.engine_fit import EngineFit, fit_engine
from kvplan.scenario.engine_log import EngineLog
from kvplan.scenario.fit_constants import CONSTANTS
from kvplan.scenario.fit_prefix import untold_prefix
from kvplan.scenario.fit_run import FittedRun
from kvplan.scenario.fit_steps import group_size, grouping, read_together, seen_steps
from kvplan.scenario.load import load_scenario
from kvplan.scenario.measured import Measured, measured_row
from kvplan.scenario.run import Run
from tests.scenario.token_server import sent, served

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b", "gpu": "h100-sxm", "workload.synthesize": "fixed", "cache.prefix": "none",
}  # fmt: skip
TRUTH = {"compute_efficiency": 0.5, "memory_efficiency": 0.7, "step_s": 4e-3, "request_s": 3e-5}
CHUNK = 8192


def clock_with(**constants: float) -> Roofline:
    flags = {f"latency.{name}": value for name, value in {**TRUTH, **constants}.items()}
    found = Run(load_scenario(None, {**BASE, **flags})).clock.model
    assert isinstance(found, Roofline)
    return found


CLOCK = clock_with()


def fitted(rows: list[Measured]) -> EngineFit:
    return fit_engine(load_scenario(None, BASE), EngineLog("run.json", "vllm-bench", tuple(rows), ()))


def test_steps_that_were_seen_are_those_that_were_taken() -> None:
    found = seen_steps(served(CLOCK, sent(160, 5.0)), CHUNK, mixes=True)
    prompts = [each for each in found if each.prompts]
    assert len(prompts) == 4
    assert len(found) >= 12
    assert all(abs(each.off(CLOCK)) < 0.01 for each in found)
    slow_memory, slow_compute = clock_with(memory_efficiency=0.5), clock_with(compute_efficiency=0.3)
    assert all(each.off(slow_memory) > 0.05 for each in found if each not in prompts)
    assert all(each.off(slow_compute) > 0.2 for each in prompts[1:])
    assert all(abs(each.off(slow_compute)) < 0.1 for each in found if each not in prompts)


@pytest.mark.parametrize(
    "flags",
    [
        {}, {"engine.async_scheduling": False}, {"engine.kind": "sglang"},
        {"engine.kind": "sglang", "engine.enable_mixed_chunk": True},
        {"engine.kind": "sglang", "engine.disable_overlap_schedule": True},
    ],
)  # fmt: skip
def test_steps_of_the_simulated_engines_are_found(
    flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_SERIES_POINTS", 1 << 30)
    run = Run(load_scenario(None, {
        **BASE, **flags, "workload.prompt_tokens": "uniform:100-1800", "workload.rate": 8.0,
        "workload.output_tokens": "uniform:40-250", "workload.requests": 160,
    }))  # fmt: skip
    mixes = "engine.kind" not in flags or "engine.enable_mixed_chunk" in flags
    clock = run.clock.model
    found = seen_steps(told_by(run), CHUNK, mixes=mixes)
    assert sum(each.prompts for each in found) >= 2
    assert all(abs(each.off(clock)) < 0.01 for each in found)


def told_by(run: Run) -> list[Measured]:
    """What clients of a simulated engine would log: requests, and the ends of steps in which they decoded."""
    steps: list[tuple[float, bool]] = []
    clock = run.clock.model

    class Heard:
        unheard = clock

        def step_seconds(self, batch: StepBatch) -> float:
            steps.append((clock.step_seconds(batch), bool(batch.decode_requests)))
            return steps[-1][0]

    rows: list[recorder.RequestRow] = []
    heard = recorder.Recorder(on_request=rows.append)
    engine = run.system.engine("fast", Heard(), heard)
    engine.run(Arrivals(run.workload.requests()))
    engine.close()
    ended, ends = 0.0, []
    for point, (seconds, decodes) in zip(heard.series, steps, strict=True):
        ended = max(ended, point.t_s) + seconds
        ends += [ended] if decodes else []
    found = []
    for row in sorted(rows, key=lambda row: row.arrival_s):
        after = bisect_right(ends, row.first_token_s + 1e-9)
        tokens = [row.first_token_s, *ends[after : after + row.output_tokens - 1]]
        assert tokens[-1] == pytest.approx(row.finish_s)
        ttft_s, e2e_s = row.first_token_s - row.arrival_s, row.finish_s - row.arrival_s
        gaps = tuple(b - a for a, b in pairwise(tokens))
        found.append(
            Measured(row.arrival_s, row.prompt_tokens, row.output_tokens, ttft_s, e2e_s, None, None, gaps)
        )
    return found


@pytest.mark.parametrize("late", [0.5, 1.0, 1.5, 2.0, 2.5])
def test_first_tokens_that_are_late_are_those_of_no_other_step(late: float) -> None:
    """Later by about a step that decodes alone."""
    rows = []
    for row in served(CLOCK, sent(400, 5.0)):
        later_s = late * row.gaps[-1]
        gaps = (max(row.gaps[0] - later_s, 0.0), *row.gaps[1:])
        rows.append(replace(row, ttft_s=row.e2e_s - sum(gaps), gaps=gaps))
    found = seen_steps(rows, CHUNK, mixes=True)
    assert found
    assert all(abs(each.off(CLOCK)) < 0.05 for each in found)


def test_prompts_that_take_several_steps_are_left_out() -> None:
    found = seen_steps(served(CLOCK, sent(160, 5.0)), 1000, mixes=True)
    steps = [step for each in found for seen in each.steps for step in seen.steps]
    assert any(step.prefill_chunks for step in steps)
    assert all(step.scheduled_tokens <= 1000 for step in steps)


def test_steps_before_a_moment_are_left_out() -> None:
    rows = served(CLOCK, sent(160, 5.0), slower=lambda now: 2.0 if now < 16.0 else 1.0)
    assert any(each.off(CLOCK) < -0.3 for each in seen_steps(rows, CHUNK, mixes=True))
    found = seen_steps(rows, CHUNK, mixes=True, since_s=16.1)
    assert sum(each.prompts for each in found) >= 2
    assert all(abs(step.off(CLOCK)) < 0.05 for each in found for step in each.steps)


def test_nobody_is_sure_of_a_step_while_others_wait() -> None:
    together = [(0.01 * (at // 0.5), prompt, answer) for at, prompt, answer in sent(160, 5.0)]
    found = seen_steps(served(CLOCK, together), CHUNK, mixes=True)
    assert all(abs(each.off(CLOCK)) < 0.02 for each in found)
    assert sum(len(each.steps) for each in found if each.prompts) < 16


def test_steps_of_their_own_for_prompts() -> None:
    """The second half of what one step would take together."""
    rows = served(CLOCK, sent(160, 5.0))
    apart = [each for each in seen_steps(rows, CHUNK, mixes=False) if len(each.steps[0].steps) == 2]
    assert all(len(step.steps) == 2 for each in apart for step in each.steps)


def test_groups_of_tokens_are_as_many_steps() -> None:
    rows = served(CLOCK, sent(160, 5.0), every=4)
    assert group_size(rows) == 4
    assert "--stream-interval 4" in str(grouping(rows))
    found = seen_steps(rows, CHUNK, mixes=True)
    assert len(found) >= 8
    assert all(abs(each.off(CLOCK)) < 0.02 for each in found)


def test_drafts_are_no_groups() -> None:
    rows = served(CLOCK, sent(160, 5.0), drafts=random.Random("drafts"))
    assert group_size(rows) is None
    assert seen_steps(rows, CHUNK, mixes=True) == []
    assert "speculative decoding" in str(grouping(rows))


@pytest.mark.parametrize("gaps", [(), (0.1,), (0.6, -0.1), (5.0,)])
def test_gaps_that_are_not_all_are_none(gaps: tuple[float, ...]) -> None:
    values = {"arrival": 0.0, "prompt_tokens": 10.0, "output_tokens": 3.0, "ttft": 0.1, "e2e": 0.6}
    assert measured_row(values, "here", gaps).gaps == ()
    assert measured_row(values, "here", (0.25, 0.25)).gaps == (0.25, 0.25)


def test_moments_that_were_drawn_tell_no_steps() -> None:
    run = Run(load_scenario(None, BASE))
    log = EngineLog("run.json", "sglang-bench", tuple(served(CLOCK, sent(80, 5.0))), ())
    told, drawn = (
        FittedRun(run.system, each, CLOCK, ClientOverhead()) for each in (log, replace(log, drawn=True))
    )
    values = {**{item.name: item.start for item in CONSTANTS["roofline"]}, **TRUTH}
    for each in (told, drawn):
        each.weigh(values)
    assert told.residual(values).size > drawn.residual(values).size


def test_steps_that_are_off_widen_bands() -> None:
    run, constants = Run(load_scenario(None, BASE)), {item.name: item.start for item in CONSTANTS["roofline"]}
    log = EngineLog("run.json", "vllm-bench", tuple(served(CLOCK, sent(160, 5.0), outside_s=0.02)), ())
    told = FittedRun(run.system, log, CLOCK, ClientOverhead())
    right = told.misfit({**constants, **TRUTH})
    slow = told.misfit({**constants, **TRUTH, "compute_efficiency": 0.25})
    assert right["tpot"] < 0.1
    assert slow["ttft"] > 0.5


def test_a_log_without_moments_of_tokens_says_nothing() -> None:
    rows = [replace(row, gaps=()) for row in served(CLOCK, sent(80, 5.0))]
    assert group_size(rows) is None
    assert grouping(rows) is None
    assert seen_steps(rows, CHUNK, mixes=True) == []


def test_a_shared_prompt_that_nobody_told_of_is_noticed() -> None:
    plain, shared = (
        seen_steps(served(CLOCK, sent(200, 5.0), shared=tokens), CHUNK, mixes=True) for tokens in (0, 600)
    )
    assert untold_prefix(plain, CLOCK) == 0
    assert 200 <= untold_prefix(shared, CLOCK) <= 700
    assert untold_prefix([], CLOCK) == 0


@pytest.fixture(scope="module")
def told() -> EngineFit:
    """Of a run whose log says when every token came."""
    return fitted(served(CLOCK, sent(160, 5.0)))


def test_gaps_tell_what_percentiles_do_not(told: EngineFit) -> None:
    untold = fitted([replace(row, gaps=()) for row in served(CLOCK, sent(160, 5.0))])
    name = "compute_efficiency"
    assert name not in told.unidentified
    assert name in untold.unidentified
    assert told.constants[name] == pytest.approx(TRUTH[name], rel=0.15)
    assert told.alone[name] < 0.4 * untold.alone[name]
    assert all(told.alone[each] < untold.alone[each] for each in ("memory_efficiency", "step_s"))


def test_what_came_while_it_warmed_up_is_left_out(told: EngineFit) -> None:
    rows = served(CLOCK, sent(160, 5.0), slower=lambda now: 1.6 if now < 6.0 else 1.0)
    warm = fitted(rows)
    assert any("warming up" in note for note in warm.notes)
    assert not any("warming up" in note for note in told.notes)
    step = TRUTH["step_s"] + 15.2e9 / (TRUTH["memory_efficiency"] * 3.35e12)
    for fit in (told, warm):
        found = fit.constants
        assert found["step_s"] + 15.2e9 / (found["memory_efficiency"] * 3.35e12) == pytest.approx(
            step, rel=0.1
        )


@pytest.mark.parametrize("window_s", [0.05, 0.1, 0.5])
def test_tokens_that_were_read_together_are_no_steps(window_s: float) -> None:
    """A proxy hands on what it has, every so often."""
    rows = [_collected(row, window_s) for row in served(CLOCK, sent(200, 5.0))]
    assert seen_steps(rows, CHUNK, mixes=True) == []
    assert "came together" in str(read_together(rows))


@pytest.mark.parametrize("first", [0.0, 1e-6, 5e-324])
def test_answers_that_came_at_once_are_no_steps(first: float) -> None:
    rows = [
        replace(row, gaps=(math.fsum(row.gaps), *[first] * (len(row.gaps) - 1)))
        for row in served(CLOCK, sent(200, 5.0))
    ]
    assert seen_steps(rows, CHUNK, mixes=True) == []


def test_gaps_that_differ_are_not_called_read_together() -> None:
    rows = served(CLOCK, sent(160, 5.0))
    assert read_together(rows) is None
    assert read_together([replace(row, gaps=()) for row in rows]) is None


def _collected(row: Measured, window_s: float) -> Measured:
    moments = list(accumulate(row.gaps, initial=row.arrival_s + row.ttft_s))
    handed = [math.ceil(moment / window_s) * window_s for moment in moments]
    ttft_s, e2e_s = (moment - row.arrival_s for moment in (handed[0], handed[-1]))
    gaps = tuple((after - before) or 5e-6 for before, after in pairwise(handed))
    return replace(row, ttft_s=ttft_s, e2e_s=e2e_s, gaps=gaps)


@pytest.mark.parametrize("apart_s", [0.05, 0.2, 1.0])
def test_clients_whose_clocks_differ_tell_no_steps_with_prompts(apart_s: float) -> None:
    """Other clients' tokens then end with a first token by chance."""
    behind = [random.Random(client).uniform(-apart_s, apart_s) for client in range(8)]
    rows = [
        replace(row, arrival_s=row.arrival_s + behind[index % 8])
        for index, row in enumerate(served(CLOCK, sent(200, 5.0)))
    ]
    found = seen_steps(rows, CHUNK, mixes=True)
    assert not any(each.prompts for each in found)
    assert all(abs(each.off(CLOCK)) < 0.03 for each in found)
