"""Steps that run out of blocks or budget, and so may preempt.

Under ``fcfs`` the last in line makes room for those before it: as long as that is all, whoever decodes in
step stays in step. Everything else takes the explicit way, request by request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan

if TYPE_CHECKING:
    from kvplan.engine.scheduler_vllm import VllmScheduler


def schedule_crowded(scheduler: VllmScheduler, plan: StepPlan, threshold: int, defer_prefills: bool) -> int:
    """Give running requests their tokens, preempting where blocks run out; returns the budget left."""
    if _stays_in_step(scheduler):
        _preempt_from_the_end(scheduler, plan, threshold, defer_prefills)
        if plan.preempted and scheduler.regular(plan, threshold, defer_prefills):
            return scheduler.config.max_num_batched_tokens - plan.batch.scheduled_tokens
    return schedule_one_by_one(scheduler, plan, threshold, defer_prefills)


def _preempt_from_the_end(
    scheduler: VllmScheduler, plan: StepPlan, threshold: int, defer_prefills: bool
) -> None:
    """Preempt until all that are left find their blocks, so that the step is regular.

    What was given out before a preemption is taken from what was free then, as it is one by one.
    """
    steady, pool = scheduler.steady, scheduler.pool
    size, tick = steady.block_size, steady.tick
    needs: dict[LiveRequest, int] = {}
    if scheduler.prefills and not defer_prefills:
        budget = scheduler.config.max_num_batched_tokens - steady.count
        chunks = scheduler.chunks(budget, threshold)
        if chunks is None:
            return
        needs = {request: blocks for request, _, blocks in chunks}
    line = [
        (request, needs.get(request, 1))
        for request in scheduler.running
        if request in needs or (request.steady is not None and (request.base + tick) % size == 0)
    ]
    given = promised = position = 0
    while position < len(line):
        blocks = line[position][1]
        if promised + blocks <= scheduler.free_blocks:
            promised += blocks
            position += 1
            continue
        scheduler.index.take(promised)
        given += promised
        promised = 0
        victim = _preempt_last(scheduler, plan)
        if line[-1][0] is victim:
            line.pop()
    # The step itself takes all its blocks at once.
    pool.blank += given
    pool.allocated -= given


def _preempt_last(scheduler: VllmScheduler, plan: StepPlan) -> LiveRequest:
    """Preempt the last in line, whatever it does."""
    victim = next(reversed(scheduler.running))
    in_flight = scheduler.in_flight
    if victim.steady is not None:
        scheduler.steady.leave(victim, in_flight)
        if in_flight:
            assert scheduler.last_plan is not None
            scheduler.last_plan.samples[victim] = None
    elif scheduler.prefills and scheduler.prefills[-1] is victim:
        scheduler.prefills.pop()
    scheduler.preempt(victim, 0)
    plan.preempted.append(victim)
    return victim


def _stays_in_step(scheduler: VllmScheduler) -> bool:
    """Whether all who decode do so in step, are preempted from the end, and have their tokens for sure."""
    from kvplan.engine.scheduler_vllm import VllmScheduler

    steady, config, kind = scheduler.steady, scheduler.config, type(scheduler)
    return (
        not scheduler.explicit
        and 0 < steady.count <= config.max_num_batched_tokens
        and config.policy == "fcfs"
        # Other orders than lru depend on whether a block is published before or after others are released.
        and config.eviction == "lru"
        # Whoever has ways of their own to allocate or publish wants to hear of every request.
        and kind.allocate is VllmScheduler.allocate
        and kind.publish is VllmScheduler.publish
        # Who is in the step in flight may have to stay.
        and not (scheduler.in_flight and kind.preemptible is not VllmScheduler.preemptible)
    )


def schedule_one_by_one(
    scheduler: VllmScheduler, plan: StepPlan, threshold: int, defer_prefills: bool
) -> int:
    """Give running requests their tokens in admission order; returns the budget left.

    Afterwards ``scheduler.explicit`` lists the requests that decode on, and ``all_in_step`` says whether
    every one of them got its token, so that they can be advanced together again.
    """
    _leave_step(scheduler)
    running = list(scheduler.running)
    prefilling = set(scheduler.prefills)
    granted: dict[LiveRequest, int] = {}
    budget = scheduler.config.max_num_batched_tokens
    index = 0
    while index < len(running) and budget > 0:
        request = running[index]
        held_back = defer_prefills and request in prefilling
        tokens = 0 if held_back else scheduler.wanted(request, threshold, budget)
        if tokens == 0:
            index += 1
            continue
        fits = scheduler.allocate(request, tokens)
        while not fits:
            position = victim_of(scheduler, running)
            victim = running[position]
            if not scheduler.preemptible(victim):
                break
            del running[position]
            if position < index:
                index -= 1
            taken_back = granted.pop(victim, 0)
            budget += taken_back
            scheduler.preempt(victim, taken_back)
            plan.preempted.append(victim)
            if victim is request:
                break
            fits = scheduler.allocate(request, tokens)
        if not fits:
            if request.status is Status.RUNNING:
                break  # nobody may make room for it: those behind it get nothing either
            continue  # it preempted itself: the next request now stands at its index
        granted[request] = tokens
        # Also if it is taken back: vLLM counts the interval between prompts from here.
        plan.carries_prefill |= request in prefilling
        budget -= tokens
        index += 1
    _account(scheduler, plan, running, granted)
    return budget


def _leave_step(scheduler: VllmScheduler) -> None:
    in_flight = scheduler.in_flight
    leaving = list(scheduler.steady.members)
    for request in leaving:
        scheduler.steady.leave(request, in_flight)
    if in_flight and leaving:
        # The step in flight samples every one of them; its outputs are now delivered one by one.
        assert scheduler.last_plan is not None
        scheduler.last_plan.samples.update(dict.fromkeys(leaving))


def victim_of(scheduler: VllmScheduler, running: Sequence[LiveRequest]) -> int:
    """Where in line the request stands that is preempted next."""
    if scheduler.config.policy == "fcfs":
        return len(running) - 1
    return max(
        range(len(running)),
        key=lambda i: (running[i].request.priority, running[i].request.arrival_s, -i),
    )


def _account(
    scheduler: VllmScheduler, plan: StepPlan, running: list[LiveRequest], granted: dict[LiveRequest, int]
) -> None:
    scheduler.prefills = [request for request in scheduler.prefills if request.status is Status.RUNNING]
    prefilling = set(scheduler.prefills)
    explicit: list[LiveRequest] = []
    scheduler.all_in_step = True
    for request, tokens in granted.items():
        plan.add(request, request.computed - tokens, tokens)
    if scheduler.keep_schedule:
        plan.scheduled = list(granted.items())
    for request in running:
        if request in prefilling or request.samples == request.max_tokens:
            continue
        if request not in granted:
            scheduler.all_in_step = False
        else:
            request.samples += 1
            request.placeholders += 1
            plan.batch.sampled_requests += 1
            plan.samples[request] = None
            if request.samples == request.max_tokens:
                plan.finish.append(request)
                continue
        explicit.append(request)
    scheduler.explicit = explicit
