"""One engine whose cache is used again in whole units, and keeps what is pinned."""

from __future__ import annotations

from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.plan import StepPlan
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Metric, Recorder
from kvplan.engine.replica import Replica
from kvplan.engine.reuse.pins import PinRule, Pins
from kvplan.engine.reuse.units import UnitIndex, UnitSteady, unit_index
from kvplan.engine.scheduler_vllm import VllmScheduler

_NEVER = float("inf")


class ReuseScheduler(VllmScheduler):
    """vLLM's scheduler on a ``UnitIndex``; the last request left does not yield to pins."""

    def __init__(
        self, config: EngineConfig, unit: int, rules: tuple[PinRule, ...], budget: int, *, keep_schedule: bool
    ) -> None:
        super().__init__(config, keep_schedule=keep_schedule)
        if unit > 1:
            self.index = unit_index(config.eviction, config.block_size, config.usable_blocks, unit)
            self.pool = self.index.pool
            self.steady = UnitSteady(config.block_size, unit)
        self.pins = Pins(rules, budget, self.index, unit)
        self.now = 0.0

    def allocate(self, request: LiveRequest, tokens: int) -> bool:
        """As the base class; where preempting others no longer helps, pins are given up."""
        while not super().allocate(request, tokens):
            if len(self.running) > 1 or not self.give_up_pin():
                return False
        return True

    def give_up_pin(self) -> bool:
        """Let go of one pin; False without pins."""
        if not self.pins.give_up(self.now):
            return False
        self.version += 1
        return True


class ReuseReplica(Replica):
    """A vLLM engine whose prefixes are found in units of ``unit`` blocks, some of them pinned.

    Pins hold blocks as requests do: ``used_blocks`` counts them. A pin is given up before its time only
    when nothing runs, and nothing would, because of the blocks that pins hold.
    """

    scheduler: ReuseScheduler

    def __init__(
        self,
        config: EngineConfig,
        latency: LatencyModel,
        recorder: Recorder,
        *,
        unit: int = 1,
        rules: tuple[PinRule, ...] = (),
        budget: int = 0,
    ) -> None:
        self.unit = unit
        self._rules, self._budget = rules, budget
        super().__init__(config, latency, recorder)
        self._pinning = bool(rules)
        self._gave_up = False

    def make_scheduler(self) -> ReuseScheduler:
        """One that pins."""
        return ReuseScheduler(self.config, self.unit, self._rules, self._budget, keep_schedule=self.logging)

    def advance(self, until: float) -> None:
        """As the base class; pins expire on the way."""
        if not self._pinning:
            super().advance(until)
            return
        scheduler, pins = self.scheduler, self.scheduler.pins
        while True:
            self._gave_up = False
            super().advance(min(until, pins.next_expiry()))
            if self.stopped:
                return
            if self._gave_up:
                continue
            due = pins.next_expiry()
            idle = not scheduler.has_requests and not self.in_flight
            if due <= self.clock or (idle and due < until < _NEVER):
                pins.expire(due)
                scheduler.version += 1
            elif idle or self.clock >= until:
                return

    def planned(self, plan: StepPlan, clock: float, until: float) -> float:
        """As the base class; pins that end bound ``until``."""
        until = super().planned(plan, clock, until)
        if not self._pinning:
            return until
        pins = self.scheduler.pins
        self.scheduler.now = clock
        for request in plan.admitted:
            pins.used(request, clock)
        pins.pin_published(clock)
        return min(until, pins.next_expiry())

    def _nothing_fits(self, clock: float) -> None:
        self.scheduler.now = clock
        if self.scheduler.give_up_pin():
            self._gave_up = True
        else:
            super()._nothing_fits(clock)

    def close(self) -> None:
        """Bring the totals up to date, and report what reuse came to."""
        super().close()
        sections = self.recorder.sections
        if self.unit > 1:
            sections["reuse granularity"] = self._unit_metrics()
        if self._pinning:
            sections["pinned prefixes"] = self._pin_metrics()

    def _unit_metrics(self) -> list[Metric]:
        index = self.scheduler.index
        assert isinstance(index, UnitIndex)
        tokens = self.unit * self.config.block_size
        return [
            Metric("granularity", tokens, "tokens", "published, found and evicted together"),
            Metric("unit_blocks", self.unit, "blocks", "of the pool in a unit"),
            Metric(
                "unfinished_blocks", index.unfinished, "blocks",
                "full blocks forgotten when their request let go, because their unit was not full",
            ),
        ]  # fmt: skip

    def _pin_metrics(self) -> list[Metric]:
        pins, totals = self.scheduler.pins, self.recorder.totals
        pins.close(self.clock)
        found, hits = pins.counters, totals.hit_tokens
        return [
            Metric("pinned", found.pinned, "prefixes", "pinned in the course of the run"),
            Metric("peak_pinned", found.peak_pins, "prefixes", "pinned at once"),
            Metric("budget_blocks", pins.budget, "blocks", "most that pins may hold"),
            Metric("peak_blocks", found.peak_blocks, "blocks", "held by pins at once"),
            Metric(
                "mean_blocks", found.time / self.clock if self.clock else 0.0, "blocks",
                "held by pins, averaged over the run",
            ),
            Metric("hits", found.hits, "requests", "began with a pinned prefix and found tokens of it"),
            Metric("hit_tokens", found.hit_tokens, "tokens", "found in pinned prefixes"),
            Metric(
                "hit_share", found.hit_tokens / hits if hits else None, "1",
                "of all tokens found in the cache",
            ),
            Metric("expired", found.expired, "prefixes", "not used for their time to live"),
            Metric("refused", found.refused, "times", "a prefix was not pinned: over the budget"),
            Metric("given_up", found.given_up, "prefixes", "let go early, because nothing else could run"),
            Metric("left", len(pins.pins), "prefixes", "still pinned at the end"),
        ]  # fmt: skip
