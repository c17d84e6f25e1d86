"""Laws of SGLang's ranks above host memory: one rank is the engine itself, a host that holds nothing changes
nothing, steps taken in bulk are single ones, and every rank gives back what it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
from crowds import Crowd, crowds
from fuzzing import fuzz
from host_runs import WAYS, Case, Way, drafts, room
from hypothesis import assume, given
from hypothesis import strategies as st
from radix_runs import below_a_host, runs

from kvplan.engine.errors import EngineStuck, OutOfKvMemory
from kvplan.engine.hicache.index import WRITE_POLICIES, WritePolicy
from kvplan.engine.hicache.replica import HierarchicalReplica
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.lockstep.hicache import DraftedHierarchicalRanks, HierarchicalRanks
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.offloading.strategy import Offloading
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang_states.errors import OutOfStates
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.errors import ForgottenPrefill
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.rules import sglang_rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.engine.strategy import Engine
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.scenario.together import together
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
STOPS = (EngineStuck, ForgottenPrefill, OutOfKvMemory, OutOfStates)
POOLS = (
    None,
    RecurrentStates(StateRules(80, 4, spare=True, interval=8)),
    WindowPools(SlidingWindows(16, 400, 4)),
)


def host_of(pages: int, write: WritePolicy, way: Way) -> HierarchicalCache:
    return HierarchicalCache(1, pages, way, way, write, 1, pages)


def eagle(drafting: Speculation | None) -> bool:
    """SGLang does not start ranks for which another model drafts."""
    return drafting is None or bool(drafting.rules.hash_lookahead)


def told(
    make: Callable[[Recorder], Engine], case: Case, crowd: Crowd | None = None, *, log: bool = False
) -> tuple[object, ...]:
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append, on_decision=(lambda _: None) if log else None, series=log)
    engine = make(recorder)
    try:
        engine.run(case[1] if crowd is None else crowd.arrivals(case[1]))
    except STOPS as exc:
        return (exc.message,)
    engine.close()
    sections = {
        name: {metric.name: metric.value for metric in metrics if "utilization" not in metric.name}
        for name, metrics in recorder.sections.items()
    }
    if isinstance(engine, HierarchicalRanks):
        totals = recorder.totals
        assert totals.finished + totals.rejected + totals.timed_out == totals.requests
        for rank in engine.hosted:
            assert rank.scheduler.pool.unreferenced <= rank.config.pool_tokens
            assert not rank.scheduler.has_requests
            rank.copies.now = float("inf")
            rank.index.settle()
            assert rank.index.protected == 0
            assert rank.scheduler.pool.unreferenced == rank.config.pool_tokens
    return sorted(rows), recorder.totals.to_dict(), sections


@fuzz(100)
@given(
    runs(), st.none() | drafts(), st.sampled_from(POOLS), st.integers(0, 150), st.sampled_from(WRITE_POLICIES),
    st.sampled_from(WAYS),
)  # fmt: skip
def test_one_rank_is_the_engine_itself(
    case: Case, drafting: Speculation | None, pool: RecurrentStates | WindowPools | None, pages: int,
    write: WritePolicy, way: Way,
) -> None:  # fmt: skip
    assume(eagle(drafting))
    case = (below_a_host(case[0]), case[1]) if drafting is None else room(case, drafting)
    config = case[0]
    host, ranks = host_of(pages, write, way), DataParallelAttention(1, "round-robin")
    if pool is not None:
        config = replace(config, disable_overlap_schedule=True) if drafting else config
        host, ranks = host.with_pool(pool), ranks.with_pool(pool)
    if drafting is not None:
        host, ranks = host.with_drafts(drafting), ranks.with_drafts(drafting)
    ranks = ranks.with_host(host_of(pages, write, way))
    try:
        alone = told(lambda recorder: host.sglang_engine(config, CLOCK, recorder), case)
    except UsageError:
        assume(False)
    found = told(lambda recorder: ranks.sglang_engine(config, CLOCK, recorder), case)
    assert found[:2] == alone[:2]
    if len(found) > 1:
        sections = found[2]
        assert isinstance(sections, dict)
        assert isinstance(alone[2], dict)
        assert sections["tiers 0"] == alone[2]["tiers"]


@fuzz(80)
@given(runs(), st.none() | drafts(), st.integers(1, 3), st.sampled_from(WRITE_POLICIES))
def test_a_host_without_memory_changes_nothing(
    case: Case, drafting: Speculation | None, number: int, write: WritePolicy
) -> None:
    assume(eagle(drafting))
    # Insertions are not counted then.
    assume(write != "write_back" or case[0].radix_eviction_policy not in ("lfu", "slru"))
    case = (below_a_host(case[0]), case[1]) if drafting is None else room(case, drafting)
    plain = DataParallelAttention(number, "round-robin", drafting)
    hosted = plain.with_host(host_of(0, write, WAYS[2]))
    found = [
        told(lambda recorder, ranks=ranks: ranks.sglang_engine(case[0], CLOCK, recorder), case)  # type: ignore[misc]
        for ranks in (plain, hosted)
    ]
    assert found[0][:2] == found[1][:2]


@fuzz(120)
@given(
    runs(), st.none() | drafts(), st.sampled_from(POOLS), st.integers(1, 3), st.integers(0, 150),
    st.sampled_from(WRITE_POLICIES), st.sampled_from(WAYS), st.none() | crowds,
)  # fmt: skip
def test_bulk_steps_are_single_ones(
    case: Case, drafting: Speculation | None, pool: RecurrentStates | WindowPools | None, number: int, pages: int,
    write: WritePolicy, way: Way, crowd: Crowd | None,
) -> None:  # fmt: skip
    assume(eagle(drafting))
    case = (below_a_host(case[0]), case[1]) if drafting is None else room(case, drafting)
    ranks = DataParallelAttention(number, "round-robin").with_host(host_of(pages, write, way))
    if drafting is not None:
        ranks = ranks.with_drafts(drafting)
    elif pool is not None:
        ranks = ranks.with_pool(pool)
    try:
        found = [
            told(lambda recorder: ranks.sglang_engine(case[0], CLOCK, recorder), case, crowd, log=log)
            for log in (True, False)
        ]
    except UsageError:
        assume(False)
    assert found[0] == found[1]


EAGLE = Speculation(sglang_rules_of("eagle", 2), geometric(0.5, 2, 0))


@pytest.mark.parametrize("more", [EAGLE, *POOLS[1:]])
def test_it_is_all_the_same_in_which_order_parts_are_put_together(
    more: Speculation | RecurrentStates | WindowPools,
) -> None:
    config = SglangConfig(
        pool_tokens=1000, page_size=1, context_length=500, max_running_requests=4, chunked_prefill_size=64
    )
    made = set()
    for order in permutations((host_of(100, "write_through", WAYS[1]), DataParallelAttention(2), more)):
        strategy = together(order, where="tiers").strategy
        assert isinstance(strategy, DataParallelAttention)
        ranks = strategy.sglang_engine(config, CLOCK, Recorder())
        made.add((type(ranks), *map(type, ranks.ranks)))
    ((group, *members),) = made
    assert issubclass(group, HierarchicalRanks)
    assert issubclass(group, DraftedHierarchicalRanks) is (more is EAGLE)
    for member in members:
        assert issubclass(member, HierarchicalReplica)


def test_vllms_ranks_above_host_memory_have_no_drafts() -> None:
    offloading = Offloading(1, 100, WAYS[1], WAYS[1], 1, "lru")
    for order in permutations((offloading, DataParallelAttention(2), EAGLE)):
        with pytest.raises(UsageError, match="are not simulated together"):
            together(order, where="tiers")


@pytest.mark.parametrize(("later_s", "forgets"), [(1.0, False), (20.0, True)])
def test_a_rank_forgets_its_estimate_when_all_stand_idle_and_its_copies_are_through(
    later_s: float, forgets: bool
) -> None:
    """What is written to the host of the first rank takes three seconds, and then the second gets a request."""
    config = SglangConfig(pool_tokens=1000, page_size=1, context_length=500, max_running_requests=4)
    host = HierarchicalCache(1, 1000, Way(3.0, 0.0), Way(0.0, 0.0))
    ranks = DataParallelAttention(2, "round-robin").with_host(host).sglang_engine(config, CLOCK, Recorder())
    ended_s = 40 * 6e-3
    ranks.run(
        Request(str(number), arrival_s, ((1000 * number, 10),), 10, ((9000 + 1000 * number, 40),), 40)
        for number, arrival_s in enumerate((0.0, ended_s + later_s))
    )
    first, second = (rank.scheduler.ratio for rank in ranks.ranks)
    assert second < config.initial_ratio
    assert (first == config.initial_ratio) is forgets


@pytest.mark.parametrize("drafting", [None, EAGLE])
def test_with_drafts_prompts_are_gathered_before_anybody_decodes(
    drafting: Speculation | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that waits for an eviction and then lets nobody in holds up decodes of others, their evictions
    included; without drafts only the batch that all launch together."""
    config = SglangConfig(pool_tokens=1000, page_size=1, context_length=500, max_running_requests=4)
    strategy = DataParallelAttention(2, "round-robin", drafting).with_host(
        host_of(1000, "write_back", WAYS[1])
    )
    group = strategy.sglang_engine(config, CLOCK, Recorder())
    assert isinstance(group, HierarchicalRanks)
    first, second = group.hosted
    seen: list[tuple[float, float]] = []

    def waits(before: SglangPlan | None) -> None:
        first.copies.now += 1.0

    def decodes(before: SglangPlan | None) -> SglangPlan:
        seen.append((group.clock, second.copies.now))
        return SglangPlan()

    with monkeypatch.context() as patch:
        patch.setattr(first.scheduler, "prefill", waits)
        patch.setattr(second.scheduler, "prefill", lambda before: None)
        patch.setattr(second.scheduler, "decode", decodes)
        group._plan()
    assert seen == [(1.0, 1.0) if drafting else (0.0, 0.0)]
    assert group.clock == first.copies.now == second.copies.now == 1.0


def test_a_rank_forgets_its_estimate_while_another_waits_for_room() -> None:
    """What the first rank has computed is held until it is in the host, and nothing runs: the second is idle."""
    config = SglangConfig(pool_tokens=200, page_size=1, context_length=190, max_running_requests=4)
    host = HierarchicalCache(1, 1000, Way(1.0, 0.01), Way(0.0, 0.0))
    recorder = Recorder()
    ranks = DataParallelAttention(2, "round-robin").with_host(host).sglang_engine(config, CLOCK, recorder)
    asked = ((100, 60), (10, 40), (150, 1))
    ranks.run(
        Request(
            str(number), 0.0, ((1000 * number, prompt),), prompt, ((9000 + 1000 * number, output),), output
        )
        for number, (prompt, output) in enumerate(asked)
    )
    ranks.close()
    assert recorder.totals.finished == 3
    assert ranks.clock > 3.0
    assert ranks.ranks[1].scheduler.ratio == config.initial_ratio
