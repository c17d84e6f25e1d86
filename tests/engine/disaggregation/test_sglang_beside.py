"""SGLang's prefill and decode servers with pools for windows and for recurrent states."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from sglang_servers import CLOCK, FREE, Case, a_request, deployments, one_of_each, play, told

from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.payload import StatePayload
from kvplan.engine.disaggregation.sglang.states import StateDecodeReplica, StatePrefillReplica
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.disaggregation.sglang.windows import (
    WindowDecodeReplica,
    WindowDecodeScheduler,
    WindowHandedRequest,
    WindowPrefillReplica,
)
from kvplan.engine.disaggregation.strategy import PoolPlan
from kvplan.engine.errors import EngineStuck
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.pool import WindowPool
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.errors import UsageError


def with_beside(case: Case, beside: RecurrentStates | WindowPools, payload: StatePayload) -> Case:
    """The same, without drafts, whose servers have more than tokens."""
    config, strategy, requests = case
    pools = (replace(plan, beside=beside) for plan in (strategy.prefill, strategy.decode))
    prefill, decode = pools
    return config, replace(strategy, prefill=prefill, decode=decode, payload=payload), requests


def plain(case: Case, **changes: object) -> Case:
    """The same with tokens alone and no drafts."""
    config, strategy, requests = case
    for name in ("prefill", "decode"):
        plan = getattr(strategy, name)
        own = replace(plan.config, tree="unified", **changes)
        strategy = replace(strategy, **{name: replace(plan, config=own)})
    return replace(config, tree="unified", **changes), replace(strategy, drafts=None), requests  # type: ignore[arg-type]


@examples(80)
@given(deployments())
def test_windows_that_nobody_leaves_are_as_full_attention(case: Case) -> None:
    """All tokens have windows, more than there are tokens: they decide nothing."""
    case = plain(case)
    beside = WindowPools(SlidingWindows(100_000, 10_000_000))
    assert told(with_beside(case, beside, StatePayload())) == told(case)


@examples(80)
@given(deployments())
def test_states_without_a_tree_decide_nothing(case: Case) -> None:
    case = plain(case, disable_radix_cache=True)
    beside = RecurrentStates(StateRules(10_000, 64))
    assert told(with_beside(case, beside, StatePayload())) == told(case)


@examples(60)
@given(deployments(), st.integers(1, 40), st.integers(1, 60), st.sampled_from([0.3, 0.8, 1.0]))
def test_everything_is_given_back(case: Case, span: int, interval: int, share: float) -> None:
    config, strategy, requests = plain(case)
    page = config.page_size

    def beside(plan: PoolPlan) -> PoolPlan:
        assert isinstance(plan.config, SglangConfig)
        tokens = max(int(plan.config.pool_tokens * share), span + 3 * page)
        return replace(plan, beside=WindowPools(SlidingWindows(span, tokens, interval)))

    payload = StatePayload(window_block_bytes=7, span=span)
    strategy = replace(
        strategy, prefill=beside(strategy.prefill), decode=beside(strategy.decode), payload=payload
    )
    try:
        rows, recorder, engine = play(config, strategy, requests)
    except EngineStuck:
        return  # a prompt that is not cut into chunks may have more windows than there are
    for servers in (engine.prefills, engine.decodes):
        for replica in (rank for server in servers for rank in server.members):
            assert isinstance(replica, WindowPrefillReplica | WindowDecodeReplica)
            pool = replica.windowed.pool
            assert pool.used_windows == 0
            assert pool.unreferenced == replica.config.pool_tokens
            assert replica.peak_windows <= pool.window_tokens
    facts = {request.id: request for request in requests}
    sent = [facts[row.id].prompt_tokens for row in rows]
    moved = sum(-(-tokens // page) * strategy.block_bytes + payload.bytes(tokens, page) for tokens in sent)
    if not recorder.totals.rejected:
        assert engine.fabric.moved_bytes == moved


@examples(60)
@given(deployments(), st.booleans())
def test_slots_are_given_back(case: Case, spare: bool) -> None:
    config, strategy, requests = plain(case)
    if not spare:
        if config.page_size > 1:
            return
        config, strategy, requests = plain(case, disable_overlap_schedule=True)

    def beside(plan: PoolPlan) -> PoolPlan:
        assert isinstance(plan.config, SglangConfig)
        rules = StateRules(1, 64, spare)
        slots = rules.slots_per_request(plan.config) * plan.config.max_running_requests
        return replace(plan, beside=RecurrentStates(replace(rules, slots=slots)))

    strategy = replace(strategy, prefill=beside(strategy.prefill), decode=beside(strategy.decode))
    rows, recorder, engine = play(config, strategy, requests)
    assert len(rows) == len(requests) - recorder.totals.rejected
    for servers in (engine.prefills, engine.decodes):
        for replica in (rank for server in servers for rank in server.members):
            assert isinstance(replica, StatePrefillReplica | StateDecodeReplica)
            assert replica.states.pool.held == 0
            assert replica.states.pool.unreferenced == replica.config.pool_tokens
    for replica in (rank for server in engine.decodes for rank in server.members):
        assert isinstance(replica, StateDecodeReplica)
        most = replica.config.max_running_requests + strategy.options.extra_slots
        assert replica.states.pool.peak_held <= most


# -- what a decode server gives a prompt ----------------------------------------------------------------------


def server(
    windows: int, *, tokens: int = 10_000, page: int = 16, reserve: int = 0, span: int = 100, slots: int = 10
) -> WindowDecodeScheduler:
    config = replace(SglangConfig(tokens), page_size=page, disable_radix_cache=True)
    pool = WindowPool(config, SlidingWindows(span, windows))
    return WindowDecodeScheduler(config, DecodeOptions(reserve, slots), pool, keep_schedule=False)


def asked(name: str, prompt: int, output: int) -> WindowHandedRequest:
    return WindowHandedRequest(a_request(name, prompt, output))


def test_only_the_last_window_of_a_prompt_has_places() -> None:
    found = server(1000)
    request = asked("0", 1000, 5)
    found.add(request)
    found.schedule()
    # Tokens 900 to 999 lie in pages from 896 on, to 1008.
    assert request.slid == 896
    assert found.pool.free == 10_000 - 1008
    assert found.pool.free_windows == 992 - 112


def test_in_pages_of_one_token_all_of_it_has() -> None:
    found = server(1000, page=1)
    for name in "01":
        found.add(asked(name, 600, 5))
    found.schedule()
    assert [request.request.id for request in found.reserved] == ["0"]
    assert (found.pool.free, found.pool.free_windows) == (9400, 400)


def test_of_windows_no_more_is_kept_than_they_may_grow_to() -> None:
    # Each prompt takes 112 tokens of 496, each request no more than a window of 100: nothing is kept.
    found = server(500, reserve=512, tokens=100_000)
    for name in "012345":
        found.add(asked(name, 1000, 5))
    found.schedule()
    assert [request.request.id for request in found.reserved] == ["0", "1", "2", "3"]
    # Short ones take 16 tokens, and those that are in may grow to windows, or by what is reserved.
    for reserve, room in ((512, 5), (20, 14)):
        found = server(500, reserve=reserve, tokens=100_000, slots=100)
        for number in range(40):
            found.add(asked(str(number), 16, 5))
        found.schedule()
        assert len(found.reserved) == room


def test_what_would_wait_for_windows_for_ever_is_refused() -> None:
    found = server(1000)
    assert not found.never_fits(a_request("0", 1000, 992 - 104))
    assert found.never_fits(a_request("0", 1000, 992 - 103))
    assert server(1000, page=1, reserve=512).never_fits(a_request("0", 489, 1))
    assert not server(1000, page=1, reserve=512).never_fits(a_request("0", 488, 1))


def test_a_prompt_whose_windows_never_fit_stops_a_run() -> None:
    """Also where somebody else waits for room meanwhile, whom nothing will move."""
    config = replace(SglangConfig(1000), chunked_prefill_size=-1, page_size=1)
    small = replace(config, pool_tokens=500, max_running_requests=1)
    windows = WindowPools(SlidingWindows(10, 100))
    strategy = SglangDisaggregation(
        FREE, 1, PoolPlan(config=config, beside=windows),
        PoolPlan(config=small, beside=WindowPools(SlidingWindows(10, 400))), DecodeOptions(0, 1),
        payload=StatePayload(0, 1, 10),
    )  # fmt: skip
    with pytest.raises(EngineStuck, match="'0'"):
        strategy.sglang_engine(config, CLOCK, Recorder()).run(
            [a_request("0", 300, 5), a_request("1", 300, 5)]
        )


def test_options_must_go_with_what_is_beside() -> None:
    config = replace(SglangConfig(1000), page_size=1)
    for beside in (WindowPools(SlidingWindows(100, 50)), RecurrentStates(StateRules(4, 64))):
        strategy = one_of_each(config)
        strategy = replace(strategy, prefill=replace(strategy.prefill, beside=beside))
        with pytest.raises(UsageError):
            strategy.sglang_engine(config, CLOCK, Recorder())


def test_a_payload_is_the_pages_of_the_last_window_or_the_states() -> None:
    windows = StatePayload(window_block_bytes=10, span=100)
    assert [windows.bytes(tokens, 16) for tokens in (1, 16, 17, 100, 101, 116, 1000)] == [
        10, 10, 20, 70, 70, 70, 70
    ]  # fmt: skip
    assert windows.bytes(1000, 1) == 1000
    assert StatePayload(state_bytes=99).bytes(1000, 16) == 99
