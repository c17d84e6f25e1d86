"""What the loops around both reference schedulers share: patience of clients, and how long a step takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Generic

from kvplan.engine.errors import InvalidLatency
from kvplan.engine.patience import AwaitedT, Deadlines, Patience
from kvplan.engine.protocols import LatencyModel, StepBatch
from kvplan.engine.recorder import Recorder


class ReferenceInstance(Generic[AwaitedT]):
    """One engine instance, simulated step by step.

    Args:
        latency: how long a step takes.
        recorder: where everything that happens is written.
        abort: takes a request out of the scheduler.
        check: assert the conservation law after every step (slow).
    """

    def __init__(
        self, latency: LatencyModel, recorder: Recorder, abort: Callable[[AwaitedT], object], *, check: bool
    ) -> None:
        self.latency = latency
        self.recorder = recorder
        self.check = check
        self._abort = abort
        self._deadlines: Deadlines[AwaitedT] = Deadlines(Patience())

    def _give_up(self, clock: float) -> bool:
        """Tell the scheduler whose clients have gone; whether there were any."""
        passed = self._deadlines.passed(clock)
        for deadline_s, state in passed:
            self._abort(state)
            self.recorder.timed_out(state.request.id, deadline_s)
        return bool(passed)

    def _seconds(self, parts: Iterable[tuple[int, int, int]], sampled: int) -> float:
        """Seconds of a step.

        Args:
            parts: of each request in it, tokens computed before, tokens of the step, tokens of the prompt.
            sampled: requests that sample an output token.

        Raises:
            InvalidLatency: the latency model answered with no time.
        """
        batch = StepBatch(sampled_requests=sampled)
        for before, tokens, prompt_tokens in parts:
            batch.scheduled_tokens += tokens
            if before >= prompt_tokens:
                batch.decode_context += before + tokens
                if tokens == 1:
                    batch.decode_requests += 1
                    batch.decode_kv_tokens += before + 1
                    continue
            batch.prefill_chunks.append((before, tokens))
        seconds = self.latency.step_seconds(batch)
        if not (seconds >= 0.0 and math.isfinite(seconds)):
            raise InvalidLatency(seconds, self.recorder.totals.steps)
        return seconds
