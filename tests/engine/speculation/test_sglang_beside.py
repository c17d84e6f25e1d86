"""Laws of drafts on SGLang's scheduler above pools for recurrent states and for windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from drafted_workloads import workloads
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served, request, serve

from kvplan.engine.engine import make_engine
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.metrics import SECTION as STATES
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_windows.metrics import SECTION as WINDOWS
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.acceptance import Acceptance, geometric
from kvplan.engine.speculation.metrics import SECTION
from kvplan.engine.speculation.rules import Method, sglang_rules_of
from kvplan.engine.speculation.sglang.replica import DraftedSglangReplica
from kvplan.engine.speculation.sglang.states import DraftedStateReplica
from kvplan.engine.speculation.sglang.windows import DraftedWindowReplica
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

METHODS: tuple[Method, ...] = ("mtp", "eagle", "draft_model")
CHANCES = st.sampled_from((0.0, 0.5, 0.9, 1.0))


def run(
    config: SglangConfig, requests: Sequence[Request], method: Method, acceptance: Acceptance,
    *, log: bool = False, **pools: Any,
) -> tuple[Served, DraftedSglangReplica]:  # fmt: skip
    engines: list[DraftedSglangReplica] = []
    strategy = Speculation(sglang_rules_of(method, len(acceptance.rates)), acceptance, **pools)

    def make(config: SglangConfig, clock: object, recorder: Recorder) -> DraftedSglangReplica:
        engine = make_engine("fast", config, clock, recorder, strategy=strategy)  # type: ignore[arg-type]
        assert isinstance(engine, DraftedSglangReplica)
        engines.append(engine)
        return engine

    return serve(make, config, requests, log=log), engines[0]  # type: ignore[arg-type]


def everybody_served(served: Served, requests: Sequence[Request]) -> None:
    assert served.stuck is None
    assert len(served.rows) + len(served.rejected) == len(requests)
    wanted = {item.id: item.output_tokens for item in requests}
    assert all(row.output_tokens == wanted[row.id] for row in served.rows)
    assert all(row.arrival_s <= row.scheduled_s <= row.first_token_s <= row.finish_s for row in served.rows)


@settings(max_examples=150, deadline=None)
@given(
    requests=workloads(), method=st.sampled_from(METHODS), drafts=st.integers(1, 3), chance=CHANCES,
    pool=st.integers(120, 600), running=st.integers(1, 8), extra=st.integers(0, 12), caching=st.booleans(),
    overlap=st.booleans(), spare=st.booleans(), page=st.sampled_from((1, 4, 16)),
    chunk=st.sampled_from((1, 4, 16, 32)), interval=st.sampled_from((4, 8, 256)), mixed=st.booleans(),
)  # fmt: skip
def test_tokens_and_slots_are_given_back(
    requests: list[Request], method: Method, drafts: int, chance: float, pool: int, running: int, extra: int,
    caching: bool, overlap: bool, spare: bool, page: int, chunk: int, interval: int, mixed: bool,
) -> None:  # fmt: skip
    if caching and not spare:
        page, overlap = 1, False
    config = SglangConfig(
        pool_tokens=pool, page_size=page, context_length=160, max_running_requests=running,
        chunked_prefill_size=64, disable_radix_cache=not caching, disable_overlap_schedule=not overlap,
        enable_mixed_chunk=mixed,
    )  # fmt: skip
    rules = StateRules(1, chunk, spare, interval)
    rules = replace(rules, slots=running * rules.slots_per_request(config) + extra)
    served, engine = run(config, requests, method, geometric(chance, drafts, 7), states=rules)
    everybody_served(served, requests)
    assert isinstance(engine, DraftedStateReplica)
    states, index = engine.states.pool, engine.states.pool.index
    assert states.unreferenced == engine.config.pool_tokens
    assert states.held == 0
    assert states.free_slots == rules.slots - index.states
    assert states.peak_held <= running * (1 + states.spares)
    assert states.peak_used <= rules.slots
    assert index.states == len(index.unheld_states)
    assert {SECTION, STATES} <= set(served.sections)


@settings(max_examples=150, deadline=None)
@given(
    requests=workloads(), method=st.sampled_from(METHODS), drafts=st.integers(1, 5), chance=CHANCES,
    pool=st.integers(200, 600), windows=st.integers(280, 500), span=st.integers(1, 40),
    interval=st.sampled_from((1, 8, 32)), caching=st.booleans(), overlap=st.booleans(),
    page=st.sampled_from((1, 4, 16)), mixed=st.booleans(),
)  # fmt: skip
def test_tokens_of_both_pools_are_given_back(
    requests: list[Request], method: Method, drafts: int, chance: float, pool: int, windows: int, span: int,
    interval: int, caching: bool, overlap: bool, page: int, mixed: bool,
) -> None:  # fmt: skip
    config = SglangConfig(
        pool_tokens=pool, page_size=page, context_length=160, max_running_requests=8, chunked_prefill_size=64,
        disable_radix_cache=not caching, disable_overlap_schedule=not overlap, enable_mixed_chunk=mixed,
    )  # fmt: skip
    beside = SlidingWindows(span, windows, interval)
    served, engine = run(config, requests, method, geometric(chance, drafts, 7), windows=beside)
    everybody_served(served, requests)
    assert isinstance(engine, DraftedWindowReplica)
    both = engine.windowed.pool
    assert both.unreferenced == engine.config.pool_tokens
    assert both.unreferenced_windows == both.window_tokens
    assert not both.cache.held_windows
    assert {SECTION, WINDOWS} <= set(served.sections)


@settings(max_examples=50, deadline=None)
@given(
    requests=workloads(), method=st.sampled_from(METHODS), chance=CHANCES, pool=st.integers(120, 500),
    overlap=st.booleans(), page=st.sampled_from((1, 4)),
)  # fmt: skip
def test_without_a_cache_states_change_nothing(
    requests: list[Request], method: Method, chance: float, pool: int, overlap: bool, page: int
) -> None:
    config = SglangConfig(
        pool_tokens=pool, page_size=page, context_length=160, max_running_requests=4,
        disable_radix_cache=True, disable_overlap_schedule=not overlap,
    )  # fmt: skip
    acceptance = geometric(chance, 3, 1)
    served, _ = run(config, requests, method, acceptance, states=StateRules(4))
    assert served.outcome == run(config, requests, method, acceptance)[0].outcome


@settings(max_examples=50, deadline=None)
@given(
    requests=workloads(), method=st.sampled_from(METHODS), chance=CHANCES, caching=st.booleans(),
    overlap=st.booleans(), page=st.sampled_from((1, 4)),
)  # fmt: skip
def test_windows_longer_than_every_request_change_nothing(
    requests: list[Request], method: Method, chance: float, caching: bool, overlap: bool, page: int
) -> None:
    config = SglangConfig(
        pool_tokens=20_000, page_size=page, context_length=160, max_running_requests=4,
        disable_radix_cache=not caching, disable_overlap_schedule=not overlap,
    )  # fmt: skip
    acceptance = geometric(chance, 3, 1)
    served, _ = run(config, requests, method, acceptance, windows=SlidingWindows(2000, 40_000))
    assert served.outcome == run(config, requests, method, acceptance)[0].outcome


@pytest.mark.parametrize(
    ("spare", "overlap", "output", "cached"),
    [
        # Of 12 tokens of prompt prefill keeps the state behind 8; steps of four go on to 16, 20, 24.
        (True, True, 9, 16),
        (True, True, 12, 24),
        # 24 is beyond the last token: what is left is the other spare slot, if there is one.
        (True, True, 10, 16),
        (True, False, 10, 8),
        (True, False, 12, 24),
        # The state of the request itself, which the answer must end with.
        (False, False, 9, 20),
        (False, False, 10, 12),
        (False, False, 12, 24),
    ],
)
def test_a_step_may_pass_the_last_state_that_counts(
    spare: bool, overlap: bool, output: int, cached: int
) -> None:
    config = SglangConfig(pool_tokens=500, max_running_requests=2, disable_overlap_schedule=not overlap)
    first = request("a", 12, output)
    again = Request("b", 9.0, first.prompt + first.output + ((5000, 20),), 32 + output, ((10**6, 1),), 1)
    rules = StateRules(20, 8 if spare else 64, spare, 8)
    served, _ = run(config, [first, again], "mtp", geometric(1.0, 3, 0), states=rules)
    assert served.rows[1].cached_tokens == cached


def test_a_tree_with_states_knows_no_token_by_the_next_one() -> None:
    first = Request("a", 0.0, ((0, 64),), 64, ((10**6, 1),), 1)
    other = Request("b", 9.0, ((0, 64), (5000, 30)), 94, ((10**6, 1),), 1)
    config = SglangConfig(pool_tokens=1000, max_running_requests=2)
    served, _ = run(config, [first, other], "mtp", geometric(0.5, 1, 0), states=StateRules(20))
    assert served.rows[1].cached_tokens == 64
    served, _ = run(config, [first, other], "mtp", geometric(0.5, 1, 0), windows=SlidingWindows(8, 900))
    assert served.rows[1].cached_tokens == 63


def test_what_is_refused() -> None:
    acceptance = geometric(0.5, 3, 0)
    states, windows = StateRules(50, 1, True, 3), SlidingWindows(8, 900)
    config = SglangConfig(pool_tokens=1000, max_running_requests=4)
    rules = sglang_rules_of("mtp", 3)
    for pools, said in (
        ({"states": states, "windows": windows}, "at once"),
        ({"states": states}, "may pass more than one"),
        ({"states": StateRules(4)}, "let 0 requests run"),
        ({"windows": SlidingWindows(100, 100)}, "holds no request"),
    ):
        with pytest.raises(UsageError, match=said):
            Speculation(rules, acceptance, **pools).sglang_engine(  # type: ignore[arg-type]
                config, LinearLatency(1.0, 0.0, 0.0), Recorder()
            )
