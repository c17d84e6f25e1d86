"""A host that holds everything, on a real trace: no more and no less is hit than its content allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan.engine.config import EngineConfig
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.tiers.stack import TierSpec
from kvplan.engine.tiers.strategy import Tiers
from kvplan.latency.linear import LinearLatency
from kvplan.traces.trace import open_trace


class Instant:
    """A link without limits."""

    def seconds(self, size: int, operations: int = 1) -> float:
        return 0.0


@pytest.mark.slow
@pytest.mark.shared
def test_below_a_tiny_pool_a_huge_host_reaches_the_content_bound(shared: Path) -> None:
    """Mooncake conversation, 875 blocks of 512: the device alone hits 4.5 % of its tokens.

    The bound is known from elsewhere: 37.34 % of tokens, 36.64 % of blocks. That figure of blocks counts the
    last one of a prompt, too, of which vLLM's rule always leaves a token to compute: 118 of the trace's
    288,500 blocks.
    """
    device = EngineConfig(num_blocks=876, block_size=512, max_model_len=131_072)
    tiers = Tiers(64 << 20, (TierSpec("host", 10**7, 64 << 20, Instant(), Instant()),))
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append)
    engine = tiers.engine(device, LinearLatency(5e-3, 2e-5, 1e-8), recorder)
    trace = open_trace(shared / "data/traces/mooncake-conversation/conversation_trace.jsonl")
    engine.run(trace.requests())
    engine.close()
    cached, asked = [row.cached_tokens for row in rows], [row.prompt_tokens for row in rows]
    blocks = sum(-(-tokens // 512) for tokens in asked)
    assert recorder.totals.finished == 12_031
    assert sum(cached) / sum(asked) == pytest.approx(0.3734, abs=5e-5)
    assert (sum(tokens // 512 for tokens in cached) + 118) / blocks == pytest.approx(0.36641, abs=1e-5)
    assert recorder.totals.hit_tokens / recorder.totals.queried_tokens < 0.05
