"""Prefill and decode instances with drafts: what happens between them happens in time."""

from __future__ import annotations

import pytest
from pools import Line

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.rules import DraftRules
from kvplan.engine.speculation.strategy import Speculation
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

ONE = (CacheGroup("full", 4),)
HYBRID = (CacheGroup("sliding", 4, 8), CacheGroup("full", 4))


def asked(number: int, prompt: int) -> Request:
    return Request(f"r{number}", 0.0, ((1000 * number, prompt),), prompt, ((10**6, 2),), 2)


@pytest.mark.parametrize("groups", [ONE, HYBRID])
@pytest.mark.parametrize("overlap", [True, False])
def test_a_cache_that_is_read_gives_its_blocks_back_meanwhile(
    groups: tuple[CacheGroup, ...], overlap: bool
) -> None:
    """The second prompt takes long, and needs the blocks of the first one in the end."""
    config = EngineConfig(
        14 if groups is ONE else 19 + 2 * overlap, 4, 64, 4, 8, groups=groups, scheduler_reserve_full_isl=False,
        async_scheduling=overlap,
    )  # fmt: skip
    rows: list[RequestRow] = []
    recorder = Recorder(on_request=rows.append, series=False)
    strategy = Disaggregation(
        (Stage("link", Line(1e6, 1e-3), prefill=True, decode=True, link=True),),
        1,
        PoolPlan(config=config),
        PoolPlan(config=EngineConfig(200, 4, 64, 4, 8, groups=groups, async_scheduling=overlap)),
        drafts=Speculation(DraftRules(1, 1, drops_block=True), geometric(0.7, 1, 0)),
    )
    engine = strategy.engine(config, LinearLatency(0.01, 0.0, 0.0), recorder)
    engine.run([asked(0, 8), asked(1, 44)])
    engine.close()
    assert len(rows) == 2
    found = {metric.name: metric.value for metric in recorder.sections["disaggregation"]}
    assert found["prefill_preemptions"] == 0
