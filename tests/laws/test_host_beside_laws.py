"""SGLang with host memory beside drafts and states: nothing to keep is the engine without a host, fast equals
slow, and books balance."""

from __future__ import annotations

from dataclasses import replace

from fuzzing import fuzz
from host_runs import CLOCK, WAYS, Case, Way, drafts, room, told
from host_tokens import HostTokens
from hypothesis import assume, given
from hypothesis import strategies as st
from radix_runs import below_a_host, runs

from kvplan.engine.hicache.copies import Copies, GatheredLine
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import WRITE_POLICIES, HierarchicalIndex, WritePolicy
from kvplan.engine.hicache.states.index import HostedStateIndex
from kvplan.engine.hicache.states.memory import HostStates
from kvplan.engine.hicache.states.node import HostedStateNode
from kvplan.engine.hicache.states.replica import HostedStateReplica
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.speculation.sglang.hicache import DraftedHierarchicalReplica
from kvplan.engine.speculation.strategy import Speculation

FUZZ = fuzz(100)


@FUZZ
@given(runs(), drafts(), st.sampled_from(WRITE_POLICIES))
def test_a_host_without_memory_is_the_engine_that_drafts(
    case: Case, drafting: Speculation, write: WritePolicy
) -> None:
    # Insertions are not counted then.
    assume(write != "write_back" or case[0].radix_eviction_policy not in ("lfu", "slru"))
    case = room(case, drafting)
    found = []
    for strategy in (drafting, HierarchicalCache(1, 0, WAYS[2], WAYS[2], write).with_drafts(drafting)):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        found.append(told(strategy.sglang_engine(case[0], CLOCK, recorder), recorder, case, rows))
    assert found[0] == found[1]


@FUZZ
@given(
    runs(), drafts(), st.integers(1, 150), st.sampled_from(WRITE_POLICIES), st.sampled_from(WAYS),
)  # fmt: skip
def test_fast_index_equals_reference(
    case: Case, drafting: Speculation, pages: int, write: WritePolicy, way: Way
) -> None:
    case = room(case, drafting)
    config, size = drafting.unmixed(case[0]), case[0].page_size
    found = []
    for kind in (HierarchicalIndex, HostTokens):
        copies = Copies(GatheredLine("to_host", way, 1), GatheredLine("from_host", way, 1), size)
        index = kind(size, config.leaf_key, write, HostMemory(pages * size), copies)
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        engine = DraftedHierarchicalReplica(
            config, CLOCK, recorder, rules=drafting.rules, acceptance=drafting.acceptance, index=index
        )
        outcome = told(engine, recorder, case, rows)
        memory = index.host
        found.append((outcome, memory.used, memory.peak, memory.stored, memory.evicted))
    assert found[0] == found[1]


# -- recurrent states -----------------------------------------------------------------------------------


@st.composite
def state_runs(draw: st.DrawFn) -> tuple[Case, StateRules]:
    """Engines whose pools of states hardly have more slots than their requests may take."""
    config, workload = draw(runs())
    spare = draw(st.booleans())
    config = replace(below_a_host(config), max_running_requests=min(config.max_running_requests, 3))
    if not spare:
        config = replace(config, page_size=1, disable_overlap_schedule=True)
    rules = StateRules(1, draw(st.sampled_from([1, 2, 4])), spare, draw(st.sampled_from([4, 8, 16])))
    slots = rules.slots_per_request(config) * config.max_running_requests + draw(st.integers(0, 6))
    return (config, workload), replace(rules, slots=slots)


class Checked(HostedStateReplica):
    """Looks at the books of states after every batch that is made."""

    def _plan(self, clock: float) -> tuple[SglangPlan, float]:
        planned = super()._plan(clock)
        self.check()
        return planned

    def check(self) -> None:
        index, pool = self.index, self.states.pool
        nodes: list[HostedStateNode] = list(index.root.children.values())
        for node in nodes:
            nodes += node.children.values()
        assert index.states == sum(node.state for node in nodes)
        assert pool.held + index.states <= pool.slots
        assert index.host_beside.used == sum(node.beside_on_host for node in nodes)
        assert index.host_beside.used <= index.host_beside.capacity
        assert index.host_beside.stored - index.host_beside.evicted == index.host_beside.used
        assert index.host.used == sum(node.tokens for node in nodes if node.on_host) <= index.host.capacity
        free = [node for node in nodes if node.state and not node.state_lock]
        assert len(index.unheld_states) == len(free)
        for node in nodes:
            assert node.on_device or (node.on_host and not node.state)
            assert bool(node.state_ticket) == (node in free)
            assert node.pinned_from < 0 or node.lock_ref


@FUZZ
@given(
    state_runs(), st.sampled_from([0, 3, 30, 150]), st.sampled_from([0, 1, 2, 20]),
    st.sampled_from(WRITE_POLICIES), st.sampled_from(WAYS),
)  # fmt: skip
def test_books_of_states_balance(
    asked: tuple[Case, StateRules], pages: int, slots: int, write: WritePolicy, way: Way
) -> None:
    case, rules = asked
    config, size = case[0], case[0].page_size
    found = []
    for kind in (Checked, HostedStateReplica):
        copies = Copies(GatheredLine("to_host", way, 1, 3), GatheredLine("from_host", way, 1, 3), size)
        memory = HostMemory(pages * size)
        index = HostedStateIndex(size, config.leaf_key, write, memory, copies, HostStates(slots))
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        engine = kind(config, CLOCK, recorder, rules, index)
        found.append((told(engine, recorder, case, rows), memory.stored, index.host_beside.stored))
        assert copies.get.moved_beside == 2 * engine.hierarchical.loads
        for row in rows:
            assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
    assert found[0] == found[1]


@FUZZ
@given(state_runs(), st.sampled_from(WRITE_POLICIES))
def test_a_host_without_memory_is_the_engine_with_states(
    asked: tuple[Case, StateRules], write: WritePolicy
) -> None:
    case, rules = asked
    assume(write != "write_back" or case[0].radix_eviction_policy not in ("lfu", "slru"))
    plain = RecurrentStates(rules)
    found = []
    for strategy in (plain, HierarchicalCache(1, 0, WAYS[2], WAYS[2], write, 3, 0).with_pool(plain)):
        rows: list[RequestRow] = []
        recorder = Recorder(on_request=rows.append)
        found.append(told(strategy.sglang_engine(case[0], CLOCK, recorder), recorder, case, rows))
    assert found[0] == found[1]
