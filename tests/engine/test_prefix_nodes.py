"""How many nodes the prefix index needs for copies that come and go block by block."""

from __future__ import annotations

from kvplan.engine.blocks import BlockPool
from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.engine.prefix_node import Node
from kvplan.engine.recorder import Recorder
from kvplan.engine.replica import Replica
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request


def engine(blocks: int) -> Replica:
    config = EngineConfig(blocks, max_model_len=8192, async_scheduling=False)
    return Replica(config, LinearLatency(5e-3, 2e-5, 1e-8), Recorder())


def nodes(index: PrefixIndex) -> list[Node]:
    found, left = [], [index.root]
    while left:
        found += left[-1].children.values()
        left += left.pop().children.values()
    return found


def twin(name: str, arrival_s: float, output: int) -> Request:
    """Requests that get the same answer."""
    return Request(name, arrival_s, ((0, 320),), 320, ((10_000, output),), output)


def test_who_computes_block_by_block_what_is_cached_leaves_few_nodes() -> None:
    replica = engine(1000)
    replica.push(twin("first", 0.0, 1600))
    replica.advance(3.0)
    replica.push(twin("second", replica.clock, 1600))
    most = 0
    for step in range(1, 40):
        replica.advance(3.0 + 0.1 * step)
        most = max(most, len(nodes(replica.scheduler.index)))
    assert replica.scheduler.pool.cached == 0
    assert most <= 6


def test_a_copy_that_is_evicted_block_by_block_leaves_few_nodes() -> None:
    replica = engine(330)
    replica.push(twin("first", 0.0, 1600))
    replica.advance(2.0)
    replica.push(twin("second", replica.clock, 3200))
    replica.advance(12.0)
    index, pool = replica.scheduler.index, replica.scheduler.pool
    cached = pool.cached
    assert cached > 50  # the first one's copy
    most = 0
    for _ in range(cached // 2):
        index.take(pool.blank + 1)
        most = max(most, len(nodes(index)))
    assert pool.cached == cached - cached // 2
    assert most <= 6


def test_turns_that_nobody_holds_become_one_node() -> None:
    replica = engine(1000)
    history = 0
    for turn in range(8):
        prompt, answer = history + 100, 60
        replica.run([Request(str(turn), replica.clock, ((0, prompt),), prompt, ((prompt, answer),), answer)])
        history = prompt + answer
        assert len(nodes(replica.scheduler.index)) == 1
    assert replica.scheduler.pool.cached == (history - 1) // 16


def test_a_node_that_is_handed_blocks_is_known_by_the_content_that_has_them() -> None:
    """Whose prompt the node was made from ended otherwise, and that end is evicted."""
    index: PrefixIndex[LiveRequest] = PrefixIndex(1, BlockPool(100))

    def start(name: str, ending: int) -> LiveRequest:
        prompt = ((0, 4), (ending, 2))
        return LiveRequest(Request(name, 0.0, prompt, 6, ((500, 1),), 1), index.root)

    gone, found, again = start("gone", 50), start("found", 70), start("again", 70)
    index.take(6)
    index.publish(gone, 6)
    index.release(gone, 6)
    index.hold(found, index.match(found.content, 6))
    index.take(96)  # evicts the end of "gone"
    index.publish(again, 2)
    index.publish(found, 6)
    index.release(found, 6)
    assert len(nodes(index)) == 2
    index.publish(again, 5)
    assert len(nodes(index)) == 2
    assert index.match(gone.content, 6).blocks == 4
    assert index.match(found.content, 6).blocks == 6
