"""SGLang's prefill servers with host memory below their caches."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fuzzing import examples
from host_runs import WAYS, Way
from hypothesis import given
from hypothesis import strategies as st
from radix_runs import below_a_host
from sglang_servers import FREE, Case, a_request, deployments, one_of_each, play, told

from kvplan.engine.disaggregation.pool import Ranks
from kvplan.engine.disaggregation.sglang.hosted import HostedPrefillReplica
from kvplan.engine.disaggregation.sglang.hosted_ranks import HostedServerRanks
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.disaggregation.strategy import PoolPlan
from kvplan.engine.hicache.index import WRITE_POLICIES, WritePolicy
from kvplan.engine.hicache.node import HostedNode
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.recorder import RequestRow
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.rules import StateRules
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.engine.sglang_windows.windows import SlidingWindows
from kvplan.errors import UsageError
from kvplan.traces.request import Request

hosts = st.builds(
    HierarchicalCache, st.just(1), st.sampled_from([1, 3, 20, 200]), st.sampled_from(WAYS),
    st.sampled_from(WAYS), st.sampled_from(WRITE_POLICIES),
)  # fmt: skip


def hosted(case: Case, host: HierarchicalCache | None) -> Case:
    """The same with host memory below the prefill servers, or below each of their ranks."""
    config, strategy, requests = case
    pools = {}
    for name in ("prefill", "decode"):
        plan = getattr(strategy, name)
        pools[name] = replace(plan, config=below_a_host(plan.config))
    return below_a_host(config), replace(strategy, host=host, **pools), requests


def nodes_of(root: HostedNode) -> list[HostedNode]:
    found = list(root.children.values())
    for node in found:
        found += node.children.values()
    return found


@examples(80)
@given(deployments(), st.sampled_from(WRITE_POLICIES))
def test_a_host_that_holds_nothing_is_none(case: Case, write: WritePolicy) -> None:
    policy = case[0].radix_eviction_policy
    if write == "write_back" and policy in ("lfu", "slru"):
        return  # insertions are not counted then
    none = HierarchicalCache(1, 0, WAYS[2], WAYS[2], write)
    assert told(hosted(case, none)) == told(hosted(case, None))


@examples(40)
@given(deployments(), st.sampled_from(WRITE_POLICIES), st.integers(1, 40), st.integers(1, 60))
def test_a_host_without_windows_or_states_is_none(
    case: Case, write: WritePolicy, span: int, interval: int
) -> None:
    """One that holds nothing beside tokens has no use where these are needed, and here holds no tokens either."""
    config, strategy, requests = hosted(case, None)
    if write == "write_back" and config.radix_eviction_policy in ("lfu", "slru"):
        return
    own = strategy.prefill.config
    assert isinstance(own, SglangConfig)
    windows = WindowPools(
        SlidingWindows(span, max(own.pool_tokens * 4 // 5, span + 3 * own.page_size), interval)
    )
    none = HierarchicalCache(1, 0, WAYS[2], WAYS[2], write, 3, 0)
    for beside in (windows, RecurrentStates(StateRules(10_000))):
        plain = replace(
            strategy, drafts=None, prefill=replace(strategy.prefill, beside=beside),
            decode=replace(strategy.decode, beside=beside),
        )  # fmt: skip
        below = replace(plain, host=none)
        assert told((config, below, requests)) == told((config, plain, requests))


@examples(80)
@given(deployments(), hosts)
def test_books_balance_and_every_page_is_sent_once(case: Case, host: HierarchicalCache) -> None:
    config, strategy, requests = hosted(case, host)
    rows, recorder, engine = play(config, strategy, requests)
    assert len(rows) == len(requests) - recorder.totals.rejected
    for replica in (rank for server in engine.prefills for rank in server.members):
        assert isinstance(replica, HostedPrefillReplica)
        index, pool = replica.index, replica.prefill.pool
        index.copies.now = float("inf")
        index.settle()
        nodes = nodes_of(index.root)
        assert index.protected == 0
        assert pool.free + index.evictable == replica.config.pool_tokens
        assert index.evictable == sum(node.tokens for node in nodes if node.on_device)
        assert index.host.used == sum(node.tokens for node in nodes if node.on_host) <= index.host.capacity
        assert not replica.prefill.held
    if not recorder.totals.rejected:
        facts, page = {request.id: request for request in requests}, config.page_size
        pages = sum(-(-facts[row.id].prompt_tokens // page) for row in rows)
        assert engine.fabric.moved_bytes == pages * strategy.block_bytes


@examples(60)
@given(deployments(), hosts)
def test_a_log_changes_nothing(case: Case, host: HierarchicalCache) -> None:
    case = hosted(case, host)
    assert told(case) == told(case, log=True)


def requests_of(*prompts: tuple[int, int]) -> list[Request]:
    """Prompts that begin at these tokens and are so long, a second after one another, each answered once."""
    return [
        Request(str(number), float(number), ((start, length),), length, ((10**6 * (number + 1), 1),), 1)
        for number, (start, length) in enumerate(prompts)
    ]


def served(requests: list[Request], **values: object) -> dict[str, RequestRow]:
    """By one server of each kind, the prefill server's pool of 100 tokens above a host of 1,000."""
    config = SglangConfig(100, **values)  # type: ignore[arg-type]
    strategy = one_of_each(config)
    roomy = PoolPlan(config=replace(config, pool_tokens=10_000))
    host = HierarchicalCache(1, 1000, Way(0.01, 0.0), Way(0.5, 0.0))
    rows, _, _ = play(config, replace(strategy, decode=roomy, options=DecodeOptions(0), host=host), requests)
    return {row.id: row for row in rows}


@pytest.mark.parametrize("overlap", [True, False])
def test_what_left_the_device_comes_back_and_the_step_takes_as_long(overlap: bool) -> None:
    rows = served(requests_of((0, 80), (1000, 80), (0, 90)), disable_overlap_schedule=not overlap)
    assert [rows[name].cached_tokens for name in "012"] == [0, 0, 80]
    assert rows["1"].first_token_s - rows["1"].scheduled_s < 0.1
    assert rows["2"].first_token_s - rows["2"].scheduled_s == pytest.approx(0.5, abs=0.02)


def test_a_server_without_room_looks_again_when_a_copy_has_arrived() -> None:
    """What is written to the host is held, and nothing else tells the server that it can go."""
    config = SglangConfig(100)
    slow = HierarchicalCache(1, 1000, Way(3.0, 0.0), Way(0.0, 0.0))
    roomy = PoolPlan(config=replace(config, pool_tokens=10_000))
    strategy = SglangDisaggregation(FREE, 100, PoolPlan(), roomy, DecodeOptions(0), host=slow)
    rows, _, engine = play(config, strategy, requests_of((0, 80), (1000, 80)))
    (prefill,) = engine.prefills
    assert isinstance(prefill, HostedPrefillReplica)
    first, second = sorted(rows)
    written_s = first.first_token_s + 3.0
    assert second.scheduled_s == pytest.approx(written_s, abs=0.05)
    assert prefill.copies.put.moved_blocks == 160


@pytest.mark.parametrize("overlap", [True, False])
def test_one_rank_is_a_server(overlap: bool) -> None:
    """In time, too, which the one with ranks has from another loop."""
    requests = requests_of((0, 80), (1000, 80), (0, 90), (2000, 40), (1000, 95))
    config = SglangConfig(100, disable_overlap_schedule=not overlap)
    roomy = PoolPlan(config=replace(config, pool_tokens=10_000))
    found = []
    for write in WRITE_POLICIES:
        for ranks in (None, Ranks(1)):
            host = HierarchicalCache(1, 1000, Way(0.01, 0.0), Way(0.5, 0.0), write)
            strategy = SglangDisaggregation(
                FREE, 100, PoolPlan(ranks=ranks), roomy, DecodeOptions(0), host=host
            )
            rows, recorder, _ = play(config, strategy, requests)
            found.append((sorted(rows), recorder.totals.to_dict()))
        assert found[-1] == found[-2]
    assert found[0] != found[-1]


def test_all_ranks_wait_for_what_one_of_them_loads_or_evicts() -> None:
    """Of four prompts the first two go to one rank each, the third pushes its rank's out, and the fourth is new
    to the other rank."""
    config = SglangConfig(100)
    roomy = PoolPlan(config=replace(config, pool_tokens=10_000))
    took = []
    for write in ("write_through", "write_back"):
        host = HierarchicalCache(1, 1000, Way(2.0, 0.0), Way(0.0, 0.0), write)
        strategy = SglangDisaggregation(
            FREE, 100, PoolPlan(ranks=Ranks(2, router="round-robin")), roomy, DecodeOptions(0), host=host
        )
        late = [
            request._replace(arrival_s=10.0)
            for request in requests_of(*[(9000, 80)] * 2, (5000, 80), (6000, 10))
        ]
        requests = [*requests_of((0, 80), (1000, 80)), *late[2:]]
        rows, _, engine = play(config, strategy, requests)
        (server,) = engine.prefills
        assert isinstance(server, HostedServerRanks)
        took.append({row.id: row.first_token_s - row.arrival_s for row in rows}["3"])
    assert took[0] < 0.1
    assert took[1] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config": SglangConfig(100, disable_radix_cache=True)}, "without a radix cache"),
        ({"config": SglangConfig(100, tree="radix")}, "the classic radix cache"),
    ],
)
def test_what_it_does_not_go_with(changes: dict[str, object], says: str) -> None:
    config = changes.pop("config", SglangConfig(100))
    assert isinstance(config, SglangConfig)
    host = HierarchicalCache(1, 10, WAYS[0], WAYS[0])
    strategy = replace(one_of_each(config), host=host, **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=says):
        play(config, strategy, [a_request("0", 10, 1)])
