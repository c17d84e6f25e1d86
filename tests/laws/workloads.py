"""Random workloads for comparing engines: small, nasty, and shrinkable."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from kvplan.engine.config import EngineConfig
from kvplan.traces.request import Request, TokenRuns, count_tokens, join_runs


@st.composite
def configs(draw: st.DrawFn) -> EngineConfig:
    """Engine options that bring about preemption, head-of-line blocking and tight budgets often."""
    block = draw(st.sampled_from([1, 2, 3, 4, 8]))
    longest = draw(st.integers(12, 60))
    # Between "one request at a time" and "everything fits".
    blocks = 1 + -(-longest // block) + draw(st.integers(0, 40))
    chunked = draw(st.booleans())
    budget = draw(st.integers(1, 40)) if chunked else longest + draw(st.integers(0, 10))
    return EngineConfig(
        num_blocks=blocks,
        block_size=block,
        max_model_len=longest,
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=budget,
        enable_prefix_caching=draw(st.sampled_from([True, True, True, False])),
        enable_chunked_prefill=chunked,
        policy=draw(st.sampled_from(["fcfs", "fcfs", "priority"])),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 0, 3, 7])),
        long_prefill_adaptive=draw(st.booleans()),
        watermark=draw(st.sampled_from([0.0, 0.0, 0.1])),
        scheduler_reserve_full_isl=draw(st.booleans()),
        prefill_schedule_interval=draw(st.sampled_from([1, 1, 1, 2, 4])),
        async_scheduling=draw(st.booleans()),
    )


def beginning(draw: st.DrawFn, runs: TokenRuns) -> list[tuple[int, int]]:
    """The first tokens of a prompt, as many as drawn."""
    left, found = draw(st.integers(0, count_tokens(runs))), []
    for start, length in runs:
        take = min(left, length)
        if take:
            found.append((start, take))
        left -= take
    return found


@st.composite
def requests(draw: st.DrawFn, longest: int) -> list[Request]:
    """Conversation trees: prompts extend, repeat or cut earlier prompts with their answers."""
    fresh = 0
    history: list[tuple[tuple[int, int], ...]] = []
    found: list[Request] = []
    clock = 0.0
    for index in range(draw(st.integers(1, 14))):
        runs: list[tuple[int, int]] = []
        if history and draw(st.integers(0, 3)):
            runs.extend(beginning(draw, draw(st.sampled_from(history))))
        for _ in range(draw(st.integers(0 if runs else 1, 2))):
            length = draw(st.integers(1, 12))
            # A small universe of tokens makes equal content by chance common.
            start = draw(st.sampled_from([0, 0, 100])) if draw(st.booleans()) else 1000 + fresh
            fresh += 50
            runs.append((start, length))
        prompt = join_runs(runs)
        tokens = count_tokens(prompt)
        output_tokens = draw(st.integers(1, 14))
        same_answer = draw(st.integers(0, 5)) == 0
        output = ((500, output_tokens),) if same_answer else ((10**6 + 100 * index, output_tokens),)
        history.append(join_runs((*prompt, *output)))
        clock += draw(st.sampled_from([0.0, 0.0, 0.001, 0.006, 0.05, 0.4]))
        found.append(
            Request(f"r{index:02d}", clock, prompt, tokens, output, output_tokens, draw(st.integers(0, 2)))
        )
    return found


def stride_of(workload: Sequence[Request]) -> int:
    """Steps from one point of the series to the next: the same for every run of a workload.

    Without a decision log an engine takes quiet steps in bulk, but no further than to the next point: with a
    point for every step it takes each of them alone, and nothing wrong with bulk steps would show.
    """
    return (1, 3, 1000, 1000)[sum(request.output_tokens for request in workload) % 4]


@st.composite
def cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Request]]:
    """An engine and its workload; a few requests are too long for it."""
    config = draw(configs())
    return config, draw(requests(config.max_model_len))


def overtaking() -> list[Request]:
    """Two that begin behind a slow prompt and overtake it: each finds what the one before computes in that step.

    With six prompt tokens a step, the slow one then fills the block of an answer in one step with its author.
    """
    prompt = (1000, 74)
    return [
        Request("company", 0.0, ((50, 3),), 3, ((60, 60),), 60),
        Request("slow", 0.0, (prompt, (500, 5)), 79, ((900, 2),), 2),
        Request("between", 0.001, ((1000, 72),), 72, ((800, 9),), 9),
        Request("ahead", 0.001, (prompt,), 74, ((500, 3),), 3),
        Request("finds", 0.065, (prompt, (500, 4), (700, 7)), 85, ((600, 2),), 2),
    ]
