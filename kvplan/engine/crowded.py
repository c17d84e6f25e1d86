"""The explicit way through a step: running requests one by one, with preemption when blocks run out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.plan import StepPlan

if TYPE_CHECKING:
    from kvplan.engine.scheduler_vllm import VllmScheduler


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
            position = _victim(scheduler, running)
            victim = running.pop(position)
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
            continue  # it preempted itself: the next request now stands at its index
        granted[request] = tokens
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


def _victim(scheduler: VllmScheduler, running: list[LiveRequest]) -> int:
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
        if request in prefilling:
            plan.carries_prefill = True
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
