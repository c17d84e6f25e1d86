"""Random prefill and decode pools for tests of disaggregation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.engine.router import ROUTERS
from kvplan.latency.linear import LinearLatency

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)


@dataclass(frozen=True)
class Line:
    """Bytes a second, and a fixed time each."""

    rate: float
    latency_s: float

    def seconds(self, size: int, /) -> float:
        return self.latency_s + size / self.rate


@st.composite
def disaggregations(draw: st.DrawFn, config: EngineConfig) -> Disaggregation:
    """Pools down to the smallest that can serve a request at all, links from none to hopeless."""
    least = -(-config.max_model_len // config.block_size) + 1

    def pool() -> PoolPlan:
        blocks = draw(st.sampled_from([least, least + 1, least + 3, config.num_blocks]))
        seats = draw(st.sampled_from([1, 2, config.max_num_seqs]))
        return PoolPlan(
            draw(st.integers(1, 3)), draw(st.sampled_from(ROUTERS.names())),
            replace(config, num_blocks=max(least, blocks), max_num_seqs=seats), CLOCK,
        )  # fmt: skip

    carrier = Line(
        draw(st.sampled_from([1e3, 1e5, 1e9, float("inf")])), draw(st.sampled_from([0.0, 1e-4, 0.02]))
    )
    route = [
        Stage("link", carrier, prefill=True, decode=True, ratio=draw(st.sampled_from([1.0, 0.5])), link=True)
    ]
    if draw(st.booleans()):
        route = [Stage("out", carrier, prefill=True), *route, Stage("in", carrier, decode=True)]
    return Disaggregation(
        tuple(route), 100, pool(), pool(), draw(st.sampled_from([0, 0, 1, 4, 32])),
        draw(st.sampled_from(list(FirstToken))), handover=draw(st.sampled_from(list(Handover))),
    )  # fmt: skip
