"""Engines with vLLM's offloading connector over invented links; a helper of tests."""

from __future__ import annotations

from collections.abc import Callable

from crowds import Crowd
from hypothesis import strategies as st
from workloads import stride_of

from kvplan.engine.config import EngineConfig
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.order import EvictionPolicy
from kvplan.engine.offloading.replica import OffloadingReplica
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.engine.tiers.line import Line
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)

Host = tuple[int, int, EvictionPolicy, float, float]
"""Chunks, blocks of each, which go first, and seconds a block takes to the host and back."""

speeds = st.sampled_from([0.0, 1e-4, 1e-3, 0.02])
hosts = st.tuples(st.integers(0, 40), st.integers(1, 3), st.sampled_from(["lru", "arc"]), speeds, speeds)


class Wire:
    """A carrier: so long a block."""

    def __init__(self, seconds: float) -> None:
        self.each = seconds

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.each * operations if size else 0.0


def engine(
    kind: type[OffloadingReplica], config: EngineConfig, host: Host, recorder: Recorder
) -> OffloadingReplica:
    chunks, chunk_blocks, policy, put, get = host
    return kind(
        config, CLOCK, recorder, HostCache(chunks, chunk_blocks * config.block_size, policy), chunk_blocks,
        Line("to_host", Wire(put), 1, 1), Line("from_host", Wire(get), 1, 1),
    )  # fmt: skip


def may_hang(config: EngineConfig) -> bool:
    """As any engine with loads: who has loaded may lack blocks, and stand before who holds them."""
    return config.policy == "priority" and not config.scheduler_reserve_full_isl


def play(
    make: Callable[[Recorder], Replica], requests: list[Request], crowd: Crowd | None, *, log: bool
) -> tuple[Replica, list[RequestRow], list[str], tuple[object, ...]]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride_of(requests)
    replica = make(recorder)
    replica.run(requests if crowd is None else crowd.arrivals(requests))
    replica.close()
    return replica, rows, lines, (rows, recorder.totals.to_dict(), recorder.series, recorder.rejections)
