"""Steps in which nothing is decided: the same requests take one token each, and at most one prompt grows.

Between two admissions only the clock, the context and the free blocks move, blocks fill and requests end.
``coast`` goes through such steps without planning them, in a tight loop from one calendar entry to the next.
It adds up the clock step by step, in the order the latency model defines, so that times equal the
reference's bit for bit. What has to be decided, and what does not fit, is left to the scheduler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.errors import InvalidLatency
from kvplan.engine.plan import StepPlan

if TYPE_CHECKING:
    from kvplan.engine.replica import Replica

_NEVER = float("inf")


def coast(replica: Replica, clock: float, device_free: float, until: float) -> tuple[float, float, float]:
    """Go on until a step has something to decide, or the clock is at ``until``; the next step has nothing.

    It also ends where ``Replica.stops`` says so. Returns the clock, the time at which the device is free
    (both unchanged where the next step does not fit), and the time to go on until as it is known now.

    Raises:
        InvalidLatency: the latency model answered with no time.
    """
    scheduler, in_flight = replica.scheduler, replica.in_flight
    overlap = replica.config.async_scheduling
    flying: StepPlan | None = None
    if overlap:
        if len(in_flight) != 1 or not in_flight[0][0].batch.scheduled_tokens:
            return clock, device_free, until
        flying = in_flight[0][0]
    recorder, step_seconds = replica.recorder, replica.latency.step_seconds
    steady, pool, totals = scheduler.steady, scheduler.pool, recorder.totals
    needs, waiting = steady.needs, scheduler.waiting
    period, most = len(needs), replica.config.max_num_seqs
    quiet = scheduler.new_plan()
    batch = quiet.batch
    while clock < until:
        if scheduler.prefills:
            plan = scheduler.proceed(1 if overlap else 0)
            if plan is None:
                break
            seconds = replica.step_seconds(plan)
            until = replica.planned(plan, clock, until)
            if overlap:
                clock, device_free = device_free, device_free + seconds
            else:
                clock = device_free = clock + seconds
        else:
            # Decoding requests only, up to the next calendar entry, that step included; but a block that
            # fills may let in, in that very step, who is waiting.
            limit = due = steady.quiet_steps()
            if waiting.items and len(scheduler.running) < most:
                limit -= 1
            if limit < 1:
                break
            steps, count = totals.steps, steady.count
            # A point of the series is what a stretch of steps ends with.
            point = -steps % recorder.series_stride
            if flying is not None and flying is not quiet:
                if flying.finish or flying.samples or replica.hears_every_step:
                    # What it brings comes when the next step has begun: that one is taken alone.
                    limit = 1
                else:
                    # It brings first tokens, if anything, which no decision depends on.
                    replica.deliver(flying, device_free)
                    flying = quiet
            if point < limit:
                limit = point + 1
            batch.scheduled_tokens = batch.decode_requests = batch.sampled_requests = count
            free = pool.blank + pool.cached
            taken = done = 0
            phase = steady.tick % period
            for context in steady.contexts(limit):
                if clock >= until:
                    break
                began = clock
                blocks = needs[phase]
                if blocks:
                    if taken + blocks > free:
                        break
                    taken += blocks
                phase += 1
                if phase == period:
                    phase = 0
                batch.decode_context = batch.decode_kv_tokens = context
                seconds = step_seconds(batch)
                if not 0.0 <= seconds < _NEVER:
                    raise InvalidLatency(seconds, steps + done)
                if overlap:
                    clock, device_free = device_free, device_free + seconds
                else:
                    clock = device_free = clock + seconds
                done += 1
            if not done:
                break
            steady.glide(done)
            steady.lag = 1 if overlap else 0
            replica.watchdog.fruitless = 0
            scheduler.steps_since_prefill += done
            totals.steps = steps + done
            if taken:
                used = scheduler.take(taken)
                if used > totals.peak_used_blocks:
                    totals.peak_used_blocks = used
            queued = len(waiting)
            if queued > totals.peak_waiting:
                totals.peak_waiting = queued
            plan = quiet
            if done == due and steady.next_event() <= steady.tick:
                plan = scheduler.settle_calendar(quiet)
            if done > point:
                replica.add_point(began)
        ended = plan
        if flying is not None:
            ended, flying = flying, plan
        gave_up = clock > replica.gives_up_s
        if gave_up:
            replica.give_up(clock, (ended,) if flying is None else (ended, flying))
        if ended is not quiet:
            replica.deliver(ended, clock)
            if ended.finish and replica.stops:
                replica.stopped = True
        if gave_up or replica.stopped:
            break
        if (
            scheduler.prefills or waiting.items or not steady.count or scheduler.watchful
        ) and scheduler.undecided():
            break
    if flying is not None:
        in_flight[0] = (flying, device_free)
        scheduler.last_plan = flying
    return clock, device_free, until
