"""Clients that give up: what the engines do with their requests, and what the books say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import pytest
from agreement import agree, in_strides
from audited import Audited
from crowds import Crowd, conversing, crowds
from fuzzing import fuzz
from grouped import grouped_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from radix_runs import runs
from workloads import cases, stride_of

from kvplan.engine.cluster import Cluster
from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck, OutOfKvMemory
from kvplan.engine.holding.laws import Capped
from kvplan.engine.holding.placed import GrowthRule
from kvplan.engine.holding.strategy import ContiguousGrowth, SlotAllocation, TokenDropping
from kvplan.engine.hybrid.replica import HybridReplica
from kvplan.engine.impatient import BETWEEN, Impatient
from kvplan.engine.instance import simulated_in_segments
from kvplan.engine.lockstep.engine import LockstepEngine
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder, RequestRow, SeriesPoint
from kvplan.engine.reference.loop import ReferenceEngine
from kvplan.engine.reference.sglang_loop import ReferenceSglangEngine
from kvplan.engine.replica import Replica
from kvplan.engine.reuse.pins import PinRule
from kvplan.engine.reuse.strategy import PrefixReuse
from kvplan.engine.router import ROUTERS
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.replica import SglangReplica
from kvplan.engine.strategy import Engine
from kvplan.engine.tiers.stack import TierSpec
from kvplan.engine.tiers.strategy import Tiers
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
FUZZ = fuzz(300)


@dataclass
class Outcome:
    rows: list[RequestRow]
    lines: list[str]
    gone: list[tuple[str, float]]
    totals: dict[str, int | float]
    series: list[SeriesPoint]
    stuck: str | None
    arrivals: Impatient

    @property
    def told(self) -> tuple[object, ...]:
        return self.rows, self.gone, self.totals, self.series, self.stuck


def play(make: Callable[[Recorder], Engine], workload: list[Request], crowd: Crowd, *, log: bool) -> Outcome:
    rows: list[RequestRow] = []
    lines: list[str] = []
    gone: list[tuple[str, float]] = []
    away: list[str] = []
    recorder = Recorder(
        on_request=rows.append,
        on_rejected=lambda name, *_: away.append(name),
        on_timed_out=lambda name, time_s: gone.append((name, time_s)),
        on_decision=lines.append if log else None,
    )
    recorder.series_stride = stride_of(workload)
    engine = in_strides(make(recorder), recorder)
    arrivals = crowd.arrivals(workload)
    stuck = None
    try:
        engine.run(arrivals)
    except (EngineStuck, OutOfKvMemory) as exc:
        stuck = str(exc)
    engine.close()
    outcome = Outcome(rows, lines, gone, recorder.totals.to_dict(), recorder.series, stuck, arrivals)
    if stuck is None:
        check_books(outcome, workload, crowd, away)
    return outcome


def check_books(outcome: Outcome, workload: list[Request], crowd: Crowd, away: list[str]) -> None:
    """Everybody is answered in time, gave up when it was time to, or was turned away."""
    totals, patience, arrivals = outcome.totals, crowd.patience, outcome.arrivals
    assert arrivals.over
    assert totals["unfinished"] == 0
    assert totals["requests"] == len(workload)
    assert totals["timed_out"] == arrivals.lost
    assert len(outcome.gone) == arrivals.times == arrivals.retries + arrivals.lost
    assert len(outcome.rows) + len(away) + arrivals.lost == len(workload)
    dropped = {name for name, _ in outcome.gone}
    for row in outcome.rows:
        assert row.id not in dropped
        if BETWEEN in row.id:  # it counts from the first try, which was given up
            assert row.id.partition(BETWEEN)[0] in dropped
            continue
        assert row.finish_s <= row.arrival_s + patience.answer_s
        assert row.first_token_s <= row.arrival_s + patience.first_token_s
    if crowd.limit is None and not crowd.conversations:
        own_s = {request.id: request.arrival_s for request in workload}
        least = min(patience.answer_s, patience.first_token_s)
        for name, time_s in outcome.gone:
            assert time_s >= own_s[name.partition("~")[0]] + least


@st.composite
def plain_cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Request], Crowd]:
    config, workload = draw(cases())
    return config, draw(conversing(workload)), draw(crowds)


@FUZZ
@given(plain_cases())
def test_fast_engine_equals_reference(case: tuple[EngineConfig, list[Request], Crowd]) -> None:
    config, workload, crowd = case
    agree(
        lambda make, log: play(make, workload, crowd, log=log),
        lambda r: ReferenceEngine(config, CLOCK, r, check=True),
        lambda r: Replica(config, CLOCK, r),
        lambda r: Audited(config, CLOCK, r),
    )


@st.composite
def hybrid_cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Request], Crowd]:
    config, workload = draw(grouped_cases())
    return config, draw(conversing(workload)), draw(crowds)


@FUZZ
@given(hybrid_cases())
def test_engine_of_several_groups_equals_reference(case: tuple[EngineConfig, list[Request], Crowd]) -> None:
    config, workload, crowd = case
    fast = HybridReplica if simulated_in_segments(config) else ReferenceEngine
    agree(
        lambda make, log: play(make, workload, crowd, log=log),
        lambda r: ReferenceEngine(config, CLOCK, r, check=True),
        lambda r: fast(config, CLOCK, r),
        lambda r: fast(config, CLOCK, r),
    )


def test_a_queue_whose_last_client_has_gone_holds_back_nobodys_prompt_any_more() -> None:
    """``prefill_schedule_interval``: while somebody waits whom it cannot let in, vLLM lets in prompts at any step.

    Whoever waited leaves in a step with a prompt, and somebody else comes in the quiet one behind it.
    """
    config = EngineConfig(
        100, 4, 200, 2, 100, policy="priority", prefill_schedule_interval=50, async_scheduling=False
    )
    workload = [
        Request(name, arrival_s, ((start, 8),), 8, ((start + 100, output),), output, priority)
        for name, arrival_s, start, output, priority in (
            ("long", 0.0, 0, 150, 0), ("short", 0.0, 1000, 1, 0), ("gone", 0.0, 2000, 9, 1),
            ("next", 0.004, 3000, 1, 0), ("late", 0.0125, 4000, 9, 0),
        )
    ]  # fmt: skip
    crowd = Crowd(Patience(inf, 0.009), 0, 0.0, None, conversations=False)
    told = [
        play(lambda r, kind=kind: kind(config, CLOCK, r), workload, crowd, log=False)
        for kind in (ReferenceEngine, Replica)
    ]
    assert [name for name, _ in told[0].gone] == ["gone", "late"]
    assert told[1].told == told[0].told


def ranks(config: EngineConfig, recorder: Recorder) -> LockstepEngine:
    return LockstepEngine(2, "least-loaded", config, CLOCK, recorder)


class Wire:
    """So many seconds a block."""

    def __init__(self, seconds_a_block: float) -> None:
        self.seconds_a_block = seconds_a_block

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.seconds_a_block * operations if size else 0.0


def tiers(preemption: str, seconds_a_block: float) -> Tiers:
    wire = Wire(seconds_a_block)
    host = TierSpec("host", 40, 8, wire, wire, "through" if preemption == "recompute" else "back")
    disk = TierSpec("disk", 200, 8, wire, wire, "back")
    return Tiers(8, (host, disk), preemption)  # type: ignore[arg-type]


def without_prefixes(config: EngineConfig) -> EngineConfig:
    return replace(config, enable_prefix_caching=False)


SYSTEMS: dict[str, Callable[[EngineConfig, Recorder], Engine]] = {
    "ranks": ranks,
    "tiers": lambda c, r: tiers("recompute", 1e-3).engine(c, CLOCK, r),
    "slow tiers": lambda c, r: tiers("recompute", 5e-2).engine(c, CLOCK, r),
    "swap": lambda c, r: tiers("swap", 2e-2).engine(c, CLOCK, r),
    "swap behind a router": lambda c, r: Cluster(2, "prefix-aware", c, CLOCK, r, tiers("swap", 2e-2)),
    "units": lambda c, r: PrefixReuse(2 * c.block_size).engine(c, CLOCK, r),
    "pins": lambda c, r: PrefixReuse(
        None, (PinRule(max(c.block_size, 4), 0.05, 1),), memory=0.5
    ).engine(c, CLOCK, r),
    "slots": lambda c, r: SlotAllocation().engine(without_prefixes(c), CLOCK, r),
    "contiguous": lambda c, r: ContiguousGrowth(GrowthRule(0, True, 100, 1e6)).engine(without_prefixes(c), CLOCK, r),
    "window": lambda c, r: TokenDropping(Capped("window", c.block_size, 2 * c.block_size)).engine(without_prefixes(c), CLOCK, r),
    **{
        f"cluster, {router}": lambda c, r, router=router: Cluster(3, router, c, CLOCK, r)
        for router in ROUTERS.names()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(SYSTEMS))
@settings(FUZZ, max_examples=max(60, FUZZ.max_examples // 4))
@given(case=plain_cases())
def test_every_system_lets_go_of_who_gave_up(
    name: str, case: tuple[EngineConfig, list[Request], Crowd]
) -> None:
    config, workload, crowd = case
    make = SYSTEMS[name]
    try:
        make(config, Recorder())
    except UsageError:
        return  # a pool too small for what is asked of it
    logged = play(lambda r: make(config, r), workload, crowd, log=True)
    assert play(lambda r: make(config, r), workload, crowd, log=False).told == logged.told


@FUZZ
@given(plain_cases())
def test_one_rank_or_one_replica_is_the_engine_itself(
    case: tuple[EngineConfig, list[Request], Crowd],
) -> None:
    config, workload, crowd = case
    alone = play(lambda r: Replica(config, CLOCK, r), workload, crowd, log=False)
    rank = play(lambda r: LockstepEngine(1, "round-robin", config, CLOCK, r), workload, crowd, log=False)
    assert rank.told == alone.told
    routed = play(lambda r: Cluster(1, "round-robin", config, CLOCK, r), workload, crowd, log=False)
    # A router's series has points at arrivals.
    assert replace(routed, series=alone.series).told == alone.told


@st.composite
def sglang_cases(draw: st.DrawFn) -> tuple[SglangConfig, list[Request], Crowd]:
    config, workload = draw(runs())
    return config, draw(conversing(workload)), draw(crowds)


@FUZZ
@given(sglang_cases())
def test_sglang_engine_equals_reference(case: tuple[SglangConfig, list[Request], Crowd]) -> None:
    config, workload, crowd = case
    agree(
        lambda make, log: play(make, workload, crowd, log=log),
        lambda r: ReferenceSglangEngine(config, CLOCK, r, check=True),
        lambda r: SglangReplica(config, CLOCK, r),
        lambda r: SglangReplica(config, CLOCK, r),
    )
