"""Laws of pools with several groups: nothing lost, windows bounded, and what a group reduces to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from fuzzing import fuzz
from grouped import grouped_cases
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.reference.loop import ReferenceEngine
from kvplan.engine.reference.pool import NULL_BLOCK
from kvplan.engine.reference.state import RequestState
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

law = fuzz(80)

ROOMY = 100_000


class Watched(ReferenceEngine):
    """Looks at a request's tables whenever it was given blocks."""

    def __init__(self, config: EngineConfig, recorder: Recorder) -> None:
        super().__init__(config, LinearLatency(5e-3, 2e-5, 1e-8), recorder, check=True)
        allocate = self.scheduler.cache.allocate

        def watched(state: RequestState, *args: object, **options: object) -> bool:
            given_blocks = allocate(state, *args, **options)  # type: ignore[arg-type]
            if given_blocks:
                self.look_at(state)
            return given_blocks

        self.scheduler.cache.allocate = watched  # type: ignore[method-assign]

    def look_at(self, state: RequestState) -> None:
        for group, table in zip(self.config.groups, state.blocks, strict=True):
            held = sum(1 for block in table if block != NULL_BLOCK)
            cap = group.admission_cap(self.config.max_in_flight_tokens, self.config.max_model_len)
            if group.kind == "mamba":
                cap = 1 if not self.config.enable_prefix_caching else 3 if self.config.async_scheduling else 2
            if cap is not None:
                assert held <= cap


def play(config: EngineConfig, workload: list[Request]) -> tuple[list[str], list[RequestRow], Recorder]:
    lines: list[str] = []
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append)
    engine = Watched(config, recorder)
    engine.run(workload)
    engine.close()
    pool = engine.scheduler.cache.pool
    pool.check([])
    assert pool.free_blocks == config.usable_blocks
    return lines, rows, recorder


@law
@given(grouped_cases())
def test_nothing_is_lost_and_bounded_groups_stay_within_their_cap(
    case: tuple[EngineConfig, list[Request]],
) -> None:
    config, workload = case
    lines, rows, recorder = play(config, workload)
    totals = recorder.totals
    assert totals.finished + totals.rejected == totals.requests == len(workload)
    for row in rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        assert row.cached_tokens < row.prompt_tokens + row.output_tokens
        assert row.cached_tokens % config.hit_alignment == 0
    again = play(config, workload)
    assert (again[0], again[1], again[2].totals.to_dict()) == (lines, rows, totals.to_dict())


@law
@given(grouped_cases(), st.sampled_from(["sliding", "chunked"]))
def test_a_window_as_long_as_the_model_is_full_attention(
    case: tuple[EngineConfig, list[Request]], kind: str
) -> None:
    config, workload = case
    block, longest = config.block_size, config.max_model_len
    # A chunk is counted without the one block a window may begin inside.
    endless = CacheGroup(kind, block, -(-longest // block) * block)
    for before in ((), (CacheGroup("full", block),)):
        both = [
            replace(config, groups=(*before, last), retention_interval=None)
            for last in (endless, CacheGroup("full", block))
        ]
        outcomes = [play(one, workload) for one in both]
        assert outcomes[0][:2] == outcomes[1][:2]


def one_at_a_time(workload: list[Request]) -> list[Request]:
    return [request._replace(arrival_s=1000.0 * i) for i, request in enumerate(workload)]


def hits(config: EngineConfig, workload: list[Request]) -> list[int]:
    rows = {row.id: row for row in play(config, workload)[1]}
    return [rows[request.id].cached_tokens if request.id in rows else -1 for request in workload]


@law
@given(grouped_cases())
def test_retaining_more_never_lowers_hits_in_a_pool_that_forgets_nothing(
    case: tuple[EngineConfig, list[Request]],
) -> None:
    config, workload = case
    config = replace(config, num_blocks=ROOMY // 50)
    alone = one_at_a_time(workload)
    step = config.hit_alignment
    found = [hits(replace(config, retention_interval=k), alone) for k in (0, 4 * step, 2 * step, step, None)]
    for less, more in itertools.pairwise(found):
        assert all(a <= b for a, b in zip(less, more, strict=True))


@law
@given(grouped_cases())
def test_other_groups_only_shorten_what_full_attention_would_hit(
    case: tuple[EngineConfig, list[Request]],
) -> None:
    config, workload = case
    config = replace(config, num_blocks=ROOMY // 50)
    alone = one_at_a_time(workload)
    full = CacheGroup("full", config.block_size)
    most = hits(replace(config, groups=(full,)), alone)
    rest = tuple(group for group in config.groups if group.kind != "full")
    mixed = hits(replace(config, groups=(full, *rest)), alone)
    assert all(a <= b for a, b in zip(mixed, most, strict=True))
    if all(group.kind == "chunked" or group.window > 1 for group in rest):
        # Windows and chunks that publish every block lose nothing at all. (A window of one token needs no
        # earlier block: vLLM publishes none and then finds none.)
        assert hits(replace(config, groups=(full, *rest), retention_interval=None), alone) == most


@pytest.mark.parametrize("kind", ["sliding", "chunked"])
def test_a_long_answer_runs_in_a_pool_of_one_window(kind: str) -> None:
    group = CacheGroup(kind, 4, 8)
    config = EngineConfig(
        num_blocks=8, block_size=4, max_model_len=4000, max_num_batched_tokens=4, async_scheduling=True,
        groups=(group,),
    )  # fmt: skip
    long = Request("long", 0.0, ((0, 9),), 9, ((100, 3000),), 3000)
    lines, rows, recorder = play(config, [long])
    assert rows[0].output_tokens == 3000
    assert recorder.totals.preemptions == 0
    assert recorder.totals.peak_used_blocks <= (group.admission_cap(8, 4000) or 0)
    assert len(lines) > 3000 - 1


def test_in_a_tight_pool_more_retention_can_cost_hits() -> None:
    """Why the law above needs a pool that forgets nothing: what is published is not reused first, so blocks
    nobody will ask for push out one that somebody will.
    """
    config = EngineConfig(
        num_blocks=4, block_size=1, max_model_len=12, max_num_seqs=1, max_num_batched_tokens=1,
        async_scheduling=False, groups=(CacheGroup("sliding", 1, 2),),
    )  # fmt: skip
    asked = [((1000, 1),), ((1050, 2),), ((1050, 2),)]
    workload = [
        Request(f"r{i}", 1000.0 * i, prompt, sum(n for _, n in prompt), ((500, answer),), answer)
        for i, (prompt, answer) in enumerate(zip(asked, (1, 3, 1), strict=True))
    ]
    assert hits(replace(config, retention_interval=0), workload) == [0, 0, 1]
    assert hits(replace(config, retention_interval=None), workload) == [0, 0, 0]
