"""A server as simple as one can be, whose clients write down when every token came."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

from kvplan.engine.protocols import LatencyModel
from kvplan.scenario.fit_steps import decoding
from kvplan.scenario.measured import Measured

Sent = tuple[float, int, int]
"""When a request came, its prompt and its answer."""


def sent(count: int, rate: float, seed: str = "sent") -> list[Sent]:
    """Requests at random moments and of many lengths."""
    rng, at, found = random.Random(seed), 0.0, []
    for _ in range(count):
        at += rng.expovariate(rate)
        found.append((at, rng.randint(200, 1800), rng.randint(40, 200)))
    return found


def served(
    clock: LatencyModel,
    requests: Sequence[Sent],
    *,
    outside_s: float = 0.01,
    every: int = 1,
    shared: int = 0,
    drafts: random.Random | None = None,
    slower: Callable[[float], float] = lambda now: 1.0,
) -> list[Measured]:
    """What their clients saw: prompts are computed whole, beside everybody's next token.

    Args:
        outside_s: between a token's step and its client. every: tokens that are sent at a time.
        shared: tokens at the beginning of prompts that need not be computed.
        drafts: with them, up to three tokens a step.
        slower: times that steps take as long, by when they begin.
    """
    waiting = [(at, [prompt, answer, []]) for at, prompt, answer in requests]
    order = [request for _, request in waiting]
    running: list[list] = []
    now = 0.0
    while waiting or running:
        if not running:
            now = max(now, waiting[0][0])
        come = [request for at, request in waiting if at <= now]
        waiting = waiting[len(come) :]
        kept = sum(request[0] + len(request[2]) for request in running)
        prompts = [(min(shared, request[0] - 1), max(request[0] - shared, 1)) for request in come]
        now += clock.step_seconds(decoding(len(running), kept, prompts)) * slower(now)
        for request in [*running, *come]:
            request[2] += [now] * (1 if drafts is None or not request[2] else drafts.randint(1, 3))
            del request[2][request[1] :]
        running = [request for request in [*running, *come] if len(request[2]) < request[1]]
    return [_seen(at, request, outside_s, every) for (at, *_), request in zip(requests, order, strict=True)]


def _seen(at: float, request: list, outside_s: float, every: int) -> Measured:
    prompt, answer, tokens = request
    told = sorted({*tokens[0::every], tokens[-1]})
    gaps = tuple(after - before for before, after in pairwise(told))
    ttft_s = told[0] - at + outside_s
    return Measured(at, prompt, answer, ttft_s, ttft_s + math.fsum(gaps), None, None, gaps)
