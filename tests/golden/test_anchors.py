"""Hit ratios of the Mooncake conversation trace that other projects measured too."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import make_engine
from kvplan.engine.recorder import Recorder
from kvplan.latency.linear import LinearLatency
from kvplan.traces.reuse import LruDistances, content_bound
from kvplan.traces.trace import Trace, open_trace

BLOCK = 512


@pytest.fixture
def conversation(shared: Path) -> Trace:
    return open_trace(shared / "data" / "traces" / "mooncake-conversation" / "conversation_trace.jsonl")


@pytest.mark.shared
def test_an_infinite_cache(conversation: Trace) -> None:
    found = content_bound(conversation.requests(), BLOCK)
    assert round(100 * found.block_hit_ratio, 2) == 36.64


@pytest.mark.shared
def test_an_lru_cache_of_875_blocks(conversation: Trace) -> None:
    distances = LruDistances(BLOCK)
    references = 0
    for request in conversation.requests():
        distances.add(request)
        references += -(-request.prompt_tokens // BLOCK)
    curve = distances.curve([875])
    assert curve is not None
    hit_blocks = curve.hit_ratio[875] * 144_793_823 / BLOCK
    # The anchor is 4.34 %; touching a prompt root first or leaf first moves it by up to 0.04 points.
    assert 100 * hit_blocks / references == pytest.approx(4.34, abs=0.04)


@pytest.mark.shared
def test_the_engine_stays_below_the_content_bound(conversation: Trace) -> None:
    recorder = Recorder()
    config = EngineConfig(
        num_blocks=400_000, block_size=BLOCK, max_num_seqs=1, max_num_batched_tokens=131_072
    )
    engine = make_engine("fast", config, LinearLatency(1e-3, 0.0, 0.0), recorder)
    engine.run(conversation.requests())
    engine.close()
    # One request at a time and a pool that never evicts: nothing but content
    # decides, and every prompt finds all that came before it.
    assert recorder.totals.evicted_blocks == 0
    assert recorder.totals.hit_tokens == 54_063_104
