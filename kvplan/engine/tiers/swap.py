"""Preemption: swap a request's KV to the host, or drop it and compute it again.

``auto`` compares, for one victim, how much longer requests take, all of them together::

    swap       = wait(out) + t_out(blocks) + wait(in) + t_in(blocks that must come back)
    recompute  = running * sum over chunks of (t_step(chunk) - t_step(one token))

Copies run beside computing, so a swap delays its own request only; whatever is computed again makes the steps
longer for every request that runs. Both count only what would not be hit anyway: blocks that other requests
hold stay on the device, and those that the tiers have are fetched on the way of ``recompute`` (whose cost
then has that transfer in it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvplan.engine.blocks import Segment
from kvplan.engine.live import LiveRequest
from kvplan.engine.protocols import HeardLatency, LatencyModel, StepBatch
from kvplan.engine.tiers.line import PENDING
from kvplan.engine.tiers.stack import TierStack

Preemption: TypeAlias = Literal["recompute", "swap", "auto"]


class Swapped:
    """A request's KV in the host: its first ``tokens`` tokens, in ``blocks`` blocks, there at ``done_s``."""

    __slots__ = ("blocks", "done_s", "tokens")

    def __init__(self, tokens: int, blocks: int) -> None:
        self.tokens = tokens
        self.blocks = blocks
        self.done_s = PENDING


@dataclass(slots=True)
class SwapCounts:
    """What preemptions did. Blocks are those copied; seconds are those of the copies alone on the link."""

    out: int = 0
    out_blocks: int = 0
    out_s: float = 0.0
    back: int = 0
    back_blocks: int = 0
    back_s: float = 0.0
    unused: int = 0
    """Swapped requests that did not need their copy: the device still had everything."""
    dropped: int = 0
    dropped_tokens: int = 0
    dropped_s: float = 0.0
    """Seconds of computing those tokens again, predicted, if nothing of them is hit."""
    host_full: int = 0


class RecomputeCost:
    """Predicted seconds of computing a sequence's KV again.

    A prompt is computed in chunks of the step's budget. The steps run anyway, for others, so a chunk costs
    what it adds to a step.
    """

    def __init__(self, latency: LatencyModel, budget: int) -> None:
        self.latency = latency.unheard if isinstance(latency, HeardLatency) else latency
        self.budget = budget

    def seconds(self, begin: int, end: int) -> float:
        """Of the tokens ``begin .. end`` of one sequence."""
        total = 0.0
        step = self.latency.step_seconds
        while begin < end:
            tokens = min(self.budget, end - begin)
            chunk = StepBatch(scheduled_tokens=tokens, prefill_chunks=[(begin, tokens)])
            total += max(0.0, step(chunk) - step(StepBatch(1, 1, 1, 1, [], 1)))
            begin += tokens
        return total


def swap_is_cheaper(
    stack: TierStack,
    cost: RecomputeCost,
    request: LiveRequest,
    tokens: int,
    block_size: int,
    *,
    running: int,
    now: float,
) -> bool:
    """Whether swapping costs less time than computing ``tokens`` tokens again; see the module."""
    blocks = -(-tokens // block_size)
    held = min(_held_by_others(request), blocks)
    out, back = stack.puts[0], stack.gets[0]
    swap = out.wait(now) + out.seconds(blocks) + back.wait(now) + back.seconds(blocks - held)
    below = stack.lookup(request.content, held, tokens // block_size)
    again = running * cost.seconds((held + below) * block_size, tokens)
    if below:
        again += back.wait(now) + back.seconds(below)
    return swap < again


def _held_by_others(request: LiveRequest) -> int:
    """Leading blocks that other running requests hold, too: they cannot leave the device."""
    shared = 0
    for segment, first in request.held:
        piece: Segment | None = segment
        while piece is not None:
            if piece.ref > 1:
                shared = max(shared, piece.node.end)
            if piece.node.start <= first:
                break
            piece = piece.above
    return shared
