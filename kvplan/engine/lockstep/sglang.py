"""SGLang's ranks in step: each makes its batch, then all run together (``prepare_mlp_sync_batch``).

Ranks decide for themselves: one may extend while others decode, and one without a batch runs an empty one
beside the others. As all gather before they launch, they go round their loops together, and a rank is idle,
which starts its estimate of answers over, only when all are.
"""

from __future__ import annotations

from collections.abc import Callable
from math import nextafter
from typing import NamedTuple

from kvplan.engine.errors import EngineStuck
from kvplan.engine.lockstep.ranks import RankGroup
from kvplan.engine.lockstep.sglang_coast import quiet_ranks
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang.plan import SglangPlan
from kvplan.engine.sglang.replica import SglangReplica

_NEVER = float("inf")


class Flight(NamedTuple):
    """The batches of all ranks that run together, and when they are through."""

    plans: tuple[SglangPlan, ...]
    end_s: float


class SglangLockstepEngine(RankGroup[SglangReplica]):
    """Ranks in step. With one rank it decides and times what a ``SglangReplica`` does.

    Args:
        ranks: how many.
        router, latency, recorder: as in ``RankGroup``; ``latency`` also times each rank's part of a step.
        config: options of each rank: its own pool, its own limits.
        make: a rank.
    """

    waits_for_prefills = False
    """Whether nobody decodes in a step in which a rank computes prompts."""

    def __init__(
        self, ranks: int, router: str, config: SglangConfig, latency: LatencyModel, recorder: Recorder,
        make: Callable[[SglangConfig, LatencyModel, Recorder], SglangReplica] = SglangReplica,
    ) -> None:  # fmt: skip
        super().__init__(router, recorder)
        self.ranks = [make(config, latency, self.recorder_of(index)) for index in range(ranks)]
        self._overlap = self.ranks[0].scheduler.overlap
        self._device_free = 0.0
        self._in_flight: Flight | None = None
        self._stalled = False
        """Whether the last round planned nothing and waited for nothing."""

    def advance(self, until: float) -> None:
        """Go on until the clock is at ``until`` or later, or nothing is left to do; see also ``stops``."""
        ranks = self.ranks
        self.stopped = False
        while True:
            for rank in ranks:
                if self.clock > rank.gives_up_s and rank.give_up(self.clock):
                    self.stopped, self._stalled = self.stops, False
            if self.clock >= until or self.stopped:
                break
            if not self.busy:
                for rank in ranks:
                    rank.scheduler.idle()
                break
            if self.recorder.on_decision is None and self._coast(until):
                continue
            plans = self._plan()
            if any(plan.aborted for plan in plans):
                self.stopped |= self.stops
            running = any(plan.batch.scheduled_tokens for plan in plans)
            before, self._in_flight = self._in_flight, None
            if running:
                self._in_flight = Flight(plans, self._launch(plans))
            due = before if self._overlap else self._in_flight
            if not self._overlap:
                self._in_flight = None
            if due is not None:
                self.clock = max(self.clock, due.end_s)
                self._stalled = False
                self._deliver(due)
            elif not running:
                for rank in ranks:
                    if not rank.busy:
                        rank.scheduler.idle()
                if any(rank.scheduler.pause.left for rank in ranks):
                    for rank in ranks:
                        rank.scheduler.pause.end()
                    continue
                if self._stalled and not any(plan.moves for plan in plans):
                    gives_up_s = min(rank.gives_up_s for rank in ranks)
                    self._wait(min(until, nextafter(gives_up_s, _NEVER)))
                self._stalled = True
            else:
                self._stalled = False

    def _plan(self) -> tuple[SglangPlan, ...]:
        """Have every rank make its next batch, and write them down when all have."""
        plans = self._batches()
        self._gather()
        for rank, plan in zip(self.ranks, plans, strict=True):
            if rank.record(plan, self.clock):
                self.stopped = self.stops
        if any(plan.batch.scheduled_tokens or plan.retracted for plan in plans):
            self.note(self.clock)
        return plans

    def _batches(self) -> tuple[SglangPlan, ...]:
        """The next batch of every rank."""
        schedulers = [rank.scheduler for rank in self.ranks]
        before = [scheduler.settle() for scheduler in schedulers]
        extending = [scheduler.prefill(last) for scheduler, last in zip(schedulers, before, strict=True)]
        if self.waits_for_prefills:
            self._gather()
        extends = any(extending)
        if extends:  # all pause together, whoever has let somebody in
            for scheduler in schedulers:
                scheduler.pause.begin()
        waits = extends and self.waits_for_prefills
        return tuple(
            plan or (scheduler.new_plan() if waits else scheduler.decode(last))
            for plan, scheduler, last in zip(extending, schedulers, before, strict=True)
        )

    def _gather(self) -> None:
        """Every rank waits until all are as far as it is."""

    def _launch(self, plans: tuple[SglangPlan, ...]) -> float:
        """All begin together; returns when the slowest is through."""
        running = [
            (rank, plan.batch)
            for rank, plan in zip(self.ranks, plans, strict=True)
            if plan.batch.scheduled_tokens
        ]
        batches = [batch for _, batch in running]
        self.meet(batches)
        seconds = self.account(batches, [rank.step_seconds(batch) for rank, batch in running])
        self._device_free = max(self.clock, self._device_free) + seconds
        return self._device_free

    def _deliver(self, flight: Flight) -> None:
        heard = False
        for rank, plan in zip(self.ranks, flight.plans, strict=True):
            if plan.batch.scheduled_tokens:
                heard |= rank.deliver(plan, self.clock)
        self.stopped |= self.stops and heard

    def _wait(self, until: float) -> None:
        """Nothing runs, and nobody who waits fits: go on when that may have changed, or at ``until``.

        Raises:
            EngineStuck: it never will.
        """
        for rank in self.ranks:
            first = rank.scheduler.chunked or next(iter(rank.scheduler.waiting), None)
            if first is not None:
                raise EngineStuck(self.clock, first.request.id)
        raise AssertionError("stuck without a request")

    def _coast(self, until: float) -> bool:
        """Take steps in which no rank decides anything; whether there were any."""
        if self._overlap and self._in_flight is None:
            return False
        parts = quiet_ranks(self.ranks)
        if not parts:
            return False
        recorder, began = self.recorder, self.clock
        point = -recorder.totals.steps % recorder.series_stride
        limit = min(point, *[part.steps for part in parts])
        for part in parts:
            limit = part.fitting(limit)
        gives_up_s = min(rank.gives_up_s for rank in self.ranks)
        until = min(until, nextafter(gives_up_s, _NEVER))
        clock, device_free, overlap = began, self._device_free, self._overlap
        batches = [part.batch for part in parts]
        self.meet(batches)
        done = 0
        while done < limit and clock < until:
            seconds = self.account(batches, [part.next_seconds() for part in parts])
            if overlap:
                clock, device_free = device_free, device_free + seconds
            else:
                clock = device_free = clock + seconds
            done += 1
        if not done:
            return False
        self.clock, self._device_free = clock, device_free
        plans = [SglangPlan()] * len(self.ranks)
        for part in parts:
            plans[part.number] = part.settle(done)
        for rank in self.ranks:
            if rank.waits:
                rank.pass_by(done)
        if overlap:
            self._in_flight = Flight(tuple(plans), device_free)
        recorder.totals.steps += done
        return True
