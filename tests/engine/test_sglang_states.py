"""Laws of recurrent states on SGLang's scheduler, and what is kept where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from drafted_workloads import workloads
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Clock, Served, request, serve
from workloads import stride_of

from kvplan.engine.cluster import Cluster
from kvplan.engine.content import Content
from kvplan.engine.engine import make_engine
from kvplan.engine.recorder import Recorder
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.reference.sglang_states import ReferenceStateScheduler
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.eviction import least_recently_used
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.sglang_states.index import StateIndex
from kvplan.engine.sglang_states.metrics import SECTION
from kvplan.engine.sglang_states.node import StateNode
from kvplan.engine.sglang_states.replica import StateReplica
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request


def run(
    config: SglangConfig, requests: Sequence[Request], rules: StateRules, *, log: bool = False
) -> tuple[Served, StateReplica]:
    engines: list[StateReplica] = []

    def make(config: SglangConfig, clock: object, recorder: Recorder) -> StateReplica:
        engine = make_engine("fast", config, clock, recorder, strategy=RecurrentStates(rules))  # type: ignore[arg-type]
        assert isinstance(engine, StateReplica)
        engines.append(engine)
        return engine

    return serve(make, config, requests, log=log, stride=stride_of(requests)), engines[0]  # type: ignore[arg-type]


def reference(rules: StateRules) -> Callable[[SglangConfig, Clock, Recorder], ReferenceSglangEngine]:
    """The oracle, which looks at its books after every step."""

    def make(config: SglangConfig, clock: Clock, recorder: Recorder) -> ReferenceSglangEngine:
        scheduler = ReferenceStateScheduler(config, rules)
        return ReferenceSglangEngine(config, clock, recorder, check=True, scheduler=scheduler)

    return make


def nodes(index: StateIndex) -> list[StateNode]:
    found: list[StateNode] = []
    left = [*index.root.children.values()]
    while left:
        node = left.pop()
        found.append(node)
        left += node.children.values()
    return found


def prompt(start: int, tokens: int, *more: tuple[int, int]) -> Content:
    return Content(((start, tokens), *more), ())


@settings(max_examples=150, deadline=None)
@given(
    requests=workloads(), pool=st.integers(120, 600), running=st.integers(1, 8), extra=st.integers(0, 12),
    caching=st.booleans(), overlap=st.booleans(), spare=st.booleans(), page=st.sampled_from((1, 4, 16)),
    chunk=st.sampled_from((1, 4, 16, 32)), interval=st.sampled_from((4, 8, 256)), mixed=st.booleans(),
    lpm=st.booleans(),
)  # fmt: skip
def test_everybody_gets_the_whole_answer_and_gives_tokens_and_slots_back(
    requests: list[Request], pool: int, running: int, extra: int, caching: bool, overlap: bool, spare: bool,
    page: int, chunk: int, interval: int, mixed: bool, lpm: bool,
) -> None:  # fmt: skip
    if caching and not spare:
        page, overlap = 1, False
    config = SglangConfig(
        pool_tokens=pool, page_size=page, context_length=160, max_running_requests=running,
        chunked_prefill_size=64, disable_radix_cache=not caching, disable_overlap_schedule=not overlap,
        enable_mixed_chunk=mixed, schedule_policy="lpm" if lpm else "fcfs",
    )  # fmt: skip
    rules = StateRules(1, chunk, spare, interval)
    rules = replace(rules, slots=running * rules.slots_per_request(config) + extra)
    served, engine = run(config, requests, rules, log=True)
    assert served.stuck is None
    assert len(served.rows) + len(served.rejected) == len(requests)
    wanted = {item.id: item.output_tokens for item in requests}
    assert all(row.output_tokens == wanted[row.id] for row in served.rows)
    assert all(row.arrival_s <= row.scheduled_s <= row.first_token_s <= row.finish_s for row in served.rows)
    states, index = engine.states.pool, engine.states.pool.index
    assert states.unreferenced == config.pool_tokens
    assert states.held == 0
    assert states.free_slots == rules.slots - index.states
    assert states.peak_held <= running * (1 + states.spares)
    assert states.peak_used <= rules.slots
    kept = nodes(index)
    assert index.states == len(index.unheld_states) == sum(node.state for node in kept)
    assert index.evictable == sum(node.end - node.start for node in kept)
    assert not any(node.lock_ref or node.state_lock for node in kept)
    assert 0 <= served.totals["hit_tokens"] <= engine.states.passed_tokens
    # Steps in which nothing is decided are not planned without a log: nobody may notice.
    quiet, _ = run(config, requests, rules)
    assert (quiet.outcome, quiet.series) == (served.outcome, served.series)
    # And they are those of every request looked at in every step.
    checked = serve(reference(rules), config, requests, log=True, stride=stride_of(requests))  # type: ignore[arg-type]
    assert (checked.lines, checked.outcome, checked.series) == (served.lines, served.outcome, served.series)
    assert checked.sections == served.sections


@settings(max_examples=50, deadline=None)
@given(requests=workloads(), pool=st.integers(120, 500), overlap=st.booleans(), page=st.sampled_from((1, 4)))
def test_without_a_cache_states_change_nothing(
    requests: list[Request], pool: int, overlap: bool, page: int
) -> None:
    config = SglangConfig(
        pool_tokens=pool, page_size=page, context_length=160, max_running_requests=4,
        disable_radix_cache=True, disable_overlap_schedule=not overlap,
    )  # fmt: skip
    served, engine = run(config, requests, StateRules(4))
    assert served.outcome == serve(SglangReplica, config, requests).outcome  # type: ignore[arg-type]
    assert engine.states.pool.peak_held <= 4


def test_prefill_keeps_a_state_behind_the_last_whole_chunk() -> None:
    """Of 100 tokens in one step 64 can be used again; of 100 in two steps of 80, as many as the first keeps."""
    config = SglangConfig(pool_tokens=4000, max_running_requests=2)
    same = [request("a", 100, 4), request("b", 100, 4, arrival_s=9.0)]
    served, _ = run(config, same, StateRules(10))
    assert [row.cached_tokens for row in served.rows] == [0, 64]
    served, _ = run(replace(config, chunked_prefill_size=80), same, StateRules(10, 16))
    assert [row.cached_tokens for row in served.rows] == [0, 96]
    served, _ = run(replace(config, chunked_prefill_size=80), same, StateRules(10, 32))
    # The first step ends at 80, which is 16 behind a whole chunk; the second one has less than a chunk.
    assert [row.cached_tokens for row in served.rows] == [0, 64]


def test_a_state_is_kept_where_prompts_part() -> None:
    """The second request finds 150 tokens and no state among them: it leaves one for the third."""
    config = SglangConfig(pool_tokens=4000, max_running_requests=2)
    asked = [
        Request(f"r{number}", 9.0 * number, ((0, 150), (1000 * number, 80)), 230, ((10**6, 2),), 2)
        for number in range(1, 4)
    ]
    served, engine = run(config, asked, StateRules(20))
    assert [row.cached_tokens for row in served.rows] == [0, 0, 128]
    assert (engine.states.passed_tokens, engine.states.cut_short) == (300, 2)
    assert served.metric(SECTION, "stateless_tokens") == 150 + 22


def test_an_answer_is_kept_every_so_many_tokens() -> None:
    """300 tokens of prompt and 300 of answer: the state behind the 512th is the last one."""
    config = SglangConfig(pool_tokens=4000, max_running_requests=2)
    first = Request("a", 0.0, ((0, 300),), 300, ((5000, 300),), 300)
    turn = Request("b", 99.0, ((0, 300), (5000, 300), (9000, 10)), 610, ((10**6, 2),), 2)
    for overlap in (True, False):
        config = replace(config, disable_overlap_schedule=not overlap)
        served, _ = run(config, [first, turn], StateRules(10))
        assert [row.cached_tokens for row in served.rows] == [0, 512]
    short = first._replace(output=((5000, 211),), output_tokens=211)
    served, _ = run(config, [short, turn], StateRules(10))
    assert [row.cached_tokens for row in served.rows] == [0, 256]


def test_without_spare_states_the_last_one_is_kept() -> None:
    config = SglangConfig(pool_tokens=4000, max_running_requests=2, disable_overlap_schedule=True)
    first = Request("a", 0.0, ((0, 37),), 37, ((5000, 9),), 9)
    turn = Request("b", 9.0, ((0, 37), (5000, 9), (9000, 10)), 56, ((10**6, 2),), 2)
    served, _ = run(config, [first, turn], StateRules(6, spare=False))
    # The last token of an answer has no KV.
    assert [row.cached_tokens for row in served.rows] == [0, 45]


def test_who_needs_a_slot_evicts_the_state_used_longest_ago() -> None:
    index = StateIndex(1, least_recently_used)
    for start in (0, 1000, 2000):
        index.publish(prompt(start, 10), 10, 0, 0)
    index.publish(prompt(0, 10, (500, 5)), 15, 0, 0)
    found = index.look(prompt(1000, 20), 20)
    assert (found.hit, found.passed) == (10, 10)
    assert (index.states, index.evictable) == (4, 35)
    # The first one has another behind it, which needs its tokens; the third one goes whole.
    assert (index.evict_states(1), index.evictable) == (0, 35)
    found = index.look(prompt(0, 12), 12)
    assert (found.hit, found.passed) == (0, 10)
    assert (index.evict_states(1), index.evictable) == (10, 25)
    assert (index.states, index.evicted_states, index.orphaned) == (2, 2, 10)
    held = index.look(prompt(0, 10, (500, 5)), 15).node
    index.lock(held)
    assert index.evict_states(9) == 10
    assert index.states == 1
    index.unlock(held)
    assert index.evict(1) == 5
    assert (index.states, index.evictable) == (0, 10)


def test_looking_for_a_router_changes_nothing() -> None:
    index = StateIndex(4, least_recently_used)
    index.publish(prompt(0, 16), 16, 0, 0)
    index.publish(prompt(0, 16, (500, 9)), 25, 0, 0)
    assert index.cached(prompt(0, 40), 40) == 16
    assert index.cached(prompt(0, 16, (500, 6)), 22) == 16
    assert index.cached(prompt(0, 16, (500, 9)), 25) == 24
    assert index.cached(prompt(0, 16), 15) == 0
    assert len(nodes(index)) == 2


def test_a_state_that_is_there_is_not_taken_twice() -> None:
    index = StateIndex(1, least_recently_used)
    present, node, taken = index.publish(prompt(0, 20), 20, 0, 0)
    assert (present, taken, index.states) == (0, True, 1)
    assert index.publish(prompt(0, 20), 20, 0, 0) == (20, node, False)
    # Nor has the upper part of a node that is cut a state of its own.
    present, upper, taken = index.publish(prompt(0, 8), 8, 0, 0)
    assert (present, upper.end, taken, index.states) == (8, 8, True, 2)
    assert node.start == 8


@pytest.mark.parametrize(
    ("config", "rules", "said"),
    [
        (SglangConfig(1000, tree="radix"), StateRules(20_000), "classic radix cache"),
        (SglangConfig(1000, page_size=48, chunked_prefill_size=96), StateRules(20_000), "must divide"),
        (SglangConfig(1000), StateRules(20_000, spare=False), "made ahead"),
        (
            SglangConfig(1000, page_size=4, disable_overlap_schedule=True),
            StateRules(20_000, spare=False),
            "pages of 4",
        ),
        (SglangConfig(1000, max_running_requests=5), StateRules(24), "let 4 requests run"),
    ],
)
def test_what_sglang_refuses_is_refused(config: SglangConfig, rules: StateRules, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(config, [], rules)
    with pytest.raises(UsageError, match="at least 1"):
        StateRules(0)


def test_behind_a_router_every_replica_has_states_of_its_own() -> None:
    config = SglangConfig(pool_tokens=2000, max_running_requests=4)
    recorder = Recorder()
    strategy = RecurrentStates(StateRules(20))
    cluster = Cluster(2, "round-robin", config, LinearLatency(1e-3, 1e-5, 0.0), recorder, strategy)
    cluster.run([request(f"r{i}", 130, 7, arrival_s=i * 1.0, start=1000 * (i % 2)) for i in range(6)])
    cluster.close()
    states = [
        next(
            metric.value
            for metric in recorder.sections[f"{SECTION} {number}"]
            if metric.name == "cached_states"
        )
        for number in range(2)
    ]
    assert states == [1, 1]
    assert recorder.totals.hit_tokens == 4 * 128
