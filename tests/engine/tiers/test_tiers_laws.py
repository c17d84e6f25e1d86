"""Engines with tiers under pressure: books in every tier, liveness, causality, determinism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from audited import Audited
from crowds import Crowd, crowds
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from workloads import cases, stride_of

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.engine.replica import Replica
from kvplan.engine.tiers.replica import TieredReplica
from kvplan.engine.tiers.residency import Run
from kvplan.engine.tiers.stack import TierSpec, TierStack
from kvplan.engine.tiers.strategy import Tiers
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)


class Wire:
    """So many seconds a block."""

    def __init__(self, seconds: float) -> None:
        self.each = seconds

    def seconds(self, size: int, operations: int = 1) -> float:
        return self.each * operations if size else 0.0


@st.composite
def strategies(draw: st.DrawFn) -> Tiers:
    """Tiers from nothing to plenty, links from instant to hopeless."""
    seconds = st.sampled_from([0.0, 1e-4, 2e-3, 0.05])
    host = draw(st.integers(0, 40))

    def tier(name: str, blocks: int) -> TierSpec:
        write = draw(st.sampled_from(["through", "back"]))
        return TierSpec(name, blocks, 8, Wire(draw(seconds)), Wire(draw(seconds)), write)

    tiers = [tier("host", host)]
    if draw(st.booleans()):
        tiers.append(tier("disk", host + draw(st.integers(0, 40))))
    return Tiers(8, tuple(tiers), draw(st.sampled_from(["recompute", "swap", "auto"])), draw(st.booleans()))


@st.composite
def tight_cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Request]]:
    """Pools that hold little more than one request: preemptions and evictions all the time."""
    config, requests = draw(cases())
    least = 1 + -(-config.max_model_len // config.block_size)
    return replace(config, num_blocks=least + draw(st.integers(0, 5)), watermark=0.0), requests


class AuditedTiers(Audited, TieredReplica):
    """Checks the books of every tier, too."""

    def _holders(self) -> list[LiveRequest]:
        queue = self.scheduler.queue
        return [*super()._holders(), *queue.holders, *queue.orphaned, *self.scheduler.fenced]

    def audit(self) -> None:
        super().audit()
        stack = self.stack
        cached = [0] * len(stack.tiers)
        self._count(stack.residency.root, cached)
        assert [tier.cached for tier in stack.tiers] == cached
        for tier in stack.tiers:
            assert tier.cached + tier.reserved + tier.free == tier.capacity
            assert tier.free >= 0
            assert tier.stored - tier.evicted == tier.cached
        assert stack.host.reserved == sum(swapped.blocks for swapped in self.tiered.swapped.values())

    def _count(self, run: Run, cached: list[int]) -> None:
        for child in run.children.values():
            for index, place in enumerate(child.places):
                if place is not None:
                    cached[index] += child.blocks
            self._count(child, cached)


def stack_of(strategy: Tiers, config: EngineConfig) -> TierStack:
    return TierStack(config.block_size, strategy.block_bytes, strategy.tiers)


def play(
    make: Callable[[Recorder], Replica], requests: list[Request], *, log: bool
) -> tuple[Replica, list[RequestRow], tuple[object, ...]]:
    rows: list[RequestRow] = []
    lines: list[str] = []
    recorder = Recorder(on_request=rows.append, on_decision=lines.append if log else None)
    recorder.series_stride = stride_of(requests)
    engine = make(recorder)
    engine.run(requests)
    engine.close()
    told = (rows, recorder.totals.to_dict(), recorder.series, recorder.rejections, recorder.sections)
    return engine, rows, told


laws = fuzz(250)


@laws
@given(tight_cases(), strategies())
def test_the_books_are_kept_and_nothing_hangs(
    case: tuple[EngineConfig, list[Request]], strategy: Tiers
) -> None:
    config, requests = case

    def audited(to: Recorder) -> Replica:
        return AuditedTiers(
            config, CLOCK, to, stack_of(strategy, config),
            preemption=strategy.preemption, prefetch=strategy.prefetch,
        )  # fmt: skip

    engine, rows, told = play(audited, requests, log=True)
    assert isinstance(engine, AuditedTiers)
    engine.audit()
    totals, counts = engine.recorder.totals, engine.tiered.counts
    assert totals.finished + totals.rejected == len(requests)
    assert engine.scheduler.free_blocks == config.usable_blocks
    assert not engine.tiered.swapped
    assert engine.stack.host.reserved == 0
    # Every preemption swapped or dropped; every swap came back, once, or was not needed.
    assert counts.out + counts.dropped == totals.preemptions
    assert counts.back + counts.unused == counts.out
    for row in rows:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        assert 0 <= row.cached_tokens < row.prompt_tokens
    # What is decided in bulk is what is decided step by step, and twice the same.
    assert play(lambda to: strategy.engine(config, CLOCK, to), requests, log=False)[2] == told


@laws
@given(tight_cases(), strategies(), crowds)
def test_the_books_are_kept_when_clients_give_up(
    case: tuple[EngineConfig, list[Request]], strategy: Tiers, crowd: Crowd
) -> None:
    config, requests = case
    engine = AuditedTiers(
        config, CLOCK, Recorder(), stack_of(strategy, config),
        preemption=strategy.preemption, prefetch=strategy.prefetch,
    )  # fmt: skip
    engine.run(crowd.arrivals(requests))
    engine.close()
    engine.audit()
    totals, queue = engine.recorder.totals, engine.scheduler.queue
    assert totals.finished + totals.rejected + totals.timed_out == totals.requests
    assert engine.scheduler.free_blocks == config.usable_blocks
    assert not engine.tiered.swapped
    assert not queue.orphaned
    assert engine.stack.host.reserved == 0


@laws
@given(tight_cases())
def test_tiers_without_blocks_are_the_plain_engine(case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = case
    # With overlapping steps an engine that could load preempts nobody in flight.
    config = replace(config, async_scheduling=False)
    empty = Tiers(8, (TierSpec("host", 0, 8, Wire(1.0), Wire(1.0)),))
    plain = play(lambda to: Replica(config, CLOCK, to), requests, log=False)
    for strategy in (empty, replace(empty, preemption="swap")):
        told = play(lambda to, s=strategy: s.engine(config, CLOCK, to), requests, log=False)[2]  # type: ignore[misc]
        assert told[:4] == plain[2][:4]


class Watched(TieredReplica):
    """No two requests' blocks overlap in time beyond the pool; a swapped request computes nothing twice."""

    computed: dict[str, int]

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        for request, tokens in plan.scheduled:
            self.computed[request.request.id] = self.computed.get(request.request.id, 0) + tokens
        return super().planned(plan, clock, until)


@laws
@given(tight_cases())
def test_with_room_for_all_swapping_computes_every_token_once(
    case: tuple[EngineConfig, list[Request]],
) -> None:
    config, requests = case
    config = replace(config, enable_prefix_caching=False, policy="fcfs")
    plenty = Tiers(8, (TierSpec("host", 10_000, 8, Wire(1e-4), Wire(1e-4)),), "swap")
    engines: list[Watched] = []

    def watched(to: Recorder) -> Replica:
        engine = Watched(config, CLOCK, to, stack_of(plenty, config), preemption="swap")
        engine.computed = {}
        engines.append(engine)
        return engine

    engine, rows, _ = play(watched, requests, log=True)
    assert isinstance(engine, Watched)
    for row in rows:
        # The last output never gets KV; nothing else is computed twice.
        assert engine.computed[row.id] == row.prompt_tokens + row.output_tokens - 1
