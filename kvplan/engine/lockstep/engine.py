"""The ranks' common loop: every step is planned for all of them, and lasts as long as the slowest needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, nextafter

from kvplan.engine.config import EngineConfig
from kvplan.engine.errors import EngineStuck
from kvplan.engine.instance import make_replica
from kvplan.engine.lockstep.coast import Part, quiet_parts
from kvplan.engine.lockstep.ranks import RankGroup
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.remote.plan import RemotePlan
from kvplan.engine.replica import Replica

ASKING = 16
"""Rounds after which ranks ask (``dp_sync_interval``); they also do after the first."""


@dataclass(frozen=True, slots=True)
class Group:
    """One step of all ranks: their plans, and when it ends."""

    plans: tuple[StepPlan, ...]
    end_s: float

    @property
    def tokens(self) -> int:
        """Tokens of all ranks."""
        return sum(plan.batch.scheduled_tokens for plan in self.plans)

    @property
    def preempts(self) -> bool:
        """Whether a rank preempted a request."""
        return any(plan.preempted for plan in self.plans)

    @property
    def brings(self) -> bool:
        """Whether its end changes more than the clock."""
        return self.tells or any(plan.first or plan.finish or plan.samples for plan in self.plans)

    @property
    def tells(self) -> bool:
        """Whether workers of a rank have found something that has come."""
        return any(isinstance(plan, RemotePlan) and plan.told for plan in self.plans)


class LockstepEngine(RankGroup[Replica]):
    """Ranks in step. With one rank it decides and times what a ``Replica`` does.

    Args:
        ranks: how many.
        router, latency, recorder: as in ``RankGroup``; ``latency`` also times each rank's part of a step.
        config: options of each rank: its own blocks, its own limits.
        make: a rank.
    """

    def __init__(
        self, ranks: int, router: str, config: EngineConfig, latency: LatencyModel, recorder: Recorder,
        make: Callable[[EngineConfig, LatencyModel, Recorder], Replica] = make_replica,
    ) -> None:  # fmt: skip
        super().__init__(router, recorder)
        self.ranks = [make(config, latency, self.recorder_of(index)) for index in range(ranks)]
        self.config = config = self.ranks[0].config
        self._device_free = 0.0
        self._in_flight: deque[Group] = deque()
        self._idle = [rank.scheduler.new_plan() for rank in self.ranks]
        """Steps of ranks that ask for none."""
        self._depth = 2 if config.async_scheduling else 1
        self._interval = config.prefill_schedule_interval if ranks > 1 else 1
        self._calls = 0
        """Rounds since all ranks were idle (``step_counter``)."""

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return self._waits or bool(self._in_flight)

    @property
    def _waits(self) -> bool:
        return any(rank.scheduler.has_requests for rank in self.ranks)

    @property
    def works(self) -> bool:
        """Whether somebody runs, or waits and may be let in."""
        return any(rank.works for rank in self.ranks)

    @property
    def ends_s(self) -> float:
        """When the first step in flight ends; infinite without one."""
        return self._in_flight[0].end_s if self._in_flight else inf

    @property
    def polls(self) -> bool:
        """Whether steps without a token count, too."""
        return any(rank.polls for rank in self.ranks)

    @property
    def owes(self) -> bool:
        """Whether a rank is due a step though nobody runs or waits there."""
        return any(rank.owes for rank in self.ranks)

    def advance(self, until: float) -> None:
        """Go on until the clock is at ``until`` or later, or nothing is left to do; see also ``stops``."""
        in_flight = self._in_flight
        self.stopped = False
        while self.clock < until and not self.stopped:
            rounds = 1
            if self.works or self.owes or (in_flight and self.polls):
                if self.recorder.on_decision is None and self._coast(until):
                    continue
                group = self._plan()
                if not group.tokens:
                    if not group.preempts and not self._goes_on(group):
                        self._nothing_fits()
                        self._calls = 0
                        break
                    rounds = 1 if any(flying.tokens for flying in in_flight) else 0
                until = self._planned(group, until)
                counts = group.tokens or self.polls
                if counts or group.preempts:
                    in_flight.append(group)
                if counts and len(in_flight) < self._depth:
                    self._count(rounds)
                    continue
            elif not in_flight:
                self._calls = 0
                break
            group = in_flight.popleft()
            self.clock = max(self.clock, group.end_s)
            self._deliver(group, in_flight)
            self._count(rounds)

    def _plan(self) -> Group:
        """Plan a step of every rank that has requests, and empty ones of others."""
        in_flight, interval = self._in_flight, self._interval
        plans = []
        # Ranks compute prompts in the same steps, whoever computed one last (vLLM's ``step_counter``).
        since_prefill = 0 if self._calls % interval else interval
        for number, rank in enumerate(self.ranks):
            if not rank.asks:
                plans.append(self._idle[number])
                continue
            scheduler = rank.scheduler
            if interval > 1:
                scheduler.steps_since_prefill = since_prefill
            running = in_flight[-1].plans[number] if in_flight else None
            scheduler.in_flight = 1 if running is not None and running.batch.scheduled_tokens else 0
            plans.append(scheduler.schedule())
        return Group(tuple(plans), self._launch(plans))

    def _planned(self, group: Group, until: float) -> float:
        """A step was planned; returns the time to go on until, now that it is known."""
        for rank, plan, idle in zip(self.ranks, group.plans, self._idle, strict=True):
            if plan is not idle:
                until = rank.planned(plan, self.clock, until)
        if group.tokens or group.preempts:
            self.note(self.clock)
        return until

    def _goes_on(self, group: Group) -> bool:
        """Whether this step, in which nothing can be computed, may be followed by another one."""
        return bool(self._in_flight)

    def _launch(self, plans: Sequence[StepPlan]) -> float:
        """All begin together; returns when the slowest is through."""
        running = [item for item in zip(self.ranks, plans, strict=True) if item[1].batch.scheduled_tokens]
        if not running:
            return self.clock
        batches = [plan.batch for _, plan in running]
        self.meet(batches)
        seconds = self.account(batches, [rank.step_seconds(plan) for rank, plan in running])
        self._device_free = max(self.clock, self._device_free) + seconds
        return self._device_free

    def _count(self, rounds: int) -> None:
        """All ranks have gone round so often; not at all where none of them had anything to compute.

        Now and then they ask one another whether anybody has a request left, and start over if nobody has,
        whoever comes next.
        """
        self._calls = self._calls + rounds if rounds else 0
        if not self._waits and (self._calls == 1 or not self._calls % ASKING):
            self._calls = 0

    def _deliver(self, group: Group, flying: Iterable[Group]) -> None:
        """What a step brings, after those have left who have given up meanwhile."""
        left = False
        for number, rank in enumerate(self.ranks):
            if self.clock > rank.gives_up_s:
                left |= rank.give_up(self.clock, [step.plans[number] for step in (group, *flying)])
        for rank, plan, idle in zip(self.ranks, group.plans, self._idle, strict=True):
            if plan is not idle:
                rank.deliver(plan, self.clock)
        self.stopped = self.stops and (left or any(plan.finish for plan in group.plans))

    def _nothing_fits(self) -> None:
        """Requests wait, nothing runs and none of them can be admitted.

        Raises:
            EngineStuck: nothing will ever change that.
        """
        for rank in self.ranks:
            if rank.scheduler.waiting.items:
                raise EngineStuck(self.clock, rank.scheduler.waiting.head().request.id)

    def _coast(self, until: float) -> bool:
        """Take steps in which no rank decides anything; whether there were any."""
        in_flight, overlap = self._in_flight, self.config.async_scheduling
        if overlap and len(in_flight) != 1:
            return False
        before = in_flight[0] if overlap else None
        parts = quiet_parts(self.ranks, before)
        if not parts:
            return False
        recorder, began = self.recorder, self.clock
        # What the step in flight brings comes when the next one has begun: then that one is taken alone.
        brings = before is not None and before.brings
        point = -recorder.totals.steps % recorder.series_stride
        limit = min(1 if brings or not point else point, *[part.steps for part in parts])
        for part in parts:
            limit = part.fitting(limit)
        gives_up_s = min(rank.gives_up_s for rank in self.ranks)
        done = self._glide(parts, limit, min(until, nextafter(gives_up_s, inf)))
        if not done:
            return False
        plans = list(self._idle)
        for part in parts:
            plans[part.number] = part.settle(done, overlap=overlap)
        self._idle_steps += done * (len(plans) - len(parts))
        # Among them a step that could have let in who waits?
        if self._interval > 1 and -self._calls % self._interval < done:
            for part in parts:
                part.rank.scheduler.prefill_capacity_bound = part.rank.scheduler.left_over()
        recorder.totals.steps += done - 1
        self.note(began)
        ended = group = Group(tuple(plans), self._device_free)
        if before is not None:
            in_flight[0], ended = group, before
        if ended.brings or self.clock > gives_up_s:
            self._deliver(ended, in_flight)
        self._count(done)
        return True

    def _glide(self, parts: list[Part], limit: int, until: float) -> int:
        """Up to ``limit`` steps of these parts, begun before ``until``; how many there were."""
        clock, device_free, overlap = self.clock, self._device_free, self.config.async_scheduling
        busy_s, own_s, ranks = self._busy_s, self._own_s, len(self.ranks)
        self.meet([part.batch for part in parts])
        done = 0
        while done < limit and clock < until:
            slowest = needed = 0.0
            for part in parts:
                batch = part.batch
                batch.decode_context = batch.decode_kv_tokens = batch.decode_context + part.count
                seconds = part.rank.step_seconds(part.plan)
                needed += seconds
                if seconds > slowest:
                    slowest = seconds
            busy_s += slowest * ranks
            own_s += needed
            if overlap:
                clock, device_free = device_free, device_free + slowest
            else:
                clock = device_free = clock + slowest
            done += 1
        self.clock, self._device_free, self._busy_s, self._own_s = clock, device_free, busy_s, own_s
        return done
