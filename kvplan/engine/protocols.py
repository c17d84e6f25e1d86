"""Contracts between the engine and what is plugged into it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class StepBatch:
    """What one engine step executes, as a latency model needs to know it.

    The engine keeps one of these and rewrites it every step, so a model must not hold on to it.

    Attributes:
        scheduled_tokens: tokens computed in the step, all requests together.
        decode_context: the linear model's: sum over scheduled requests whose prompt was wholly computed
            before the step of (tokens computed before + tokens scheduled now).
        decode_requests: how many of those requests compute exactly one token, or one and drafts.
        decode_kv_tokens: sum of (computed before + scheduled now) over the requests counted in
            ``decode_requests``.
        prefill_chunks: ``(tokens computed before, tokens scheduled now)`` of every other scheduled request.
        sampled_requests: requests that sample an output token in this step.
        drafting: drafts that are made after the step for each request that samples; 0 is none.
        drafting_s: a model's answer beside ``step_seconds``, where it knows: how much of the step that takes.
    """

    __slots__ = (
        "decode_context",
        "decode_kv_tokens",
        "decode_requests",
        "drafting",
        "drafting_s",
        "prefill_chunks",
        "sampled_requests",
        "scheduled_tokens",
    )

    def __init__(
        self,
        scheduled_tokens: int = 0,
        decode_context: int = 0,
        decode_requests: int = 0,
        decode_kv_tokens: int = 0,
        prefill_chunks: list[tuple[int, int]] | None = None,
        sampled_requests: int = 0,
        drafting: int = 0,
    ) -> None:
        self.scheduled_tokens = scheduled_tokens
        self.decode_context = decode_context
        self.decode_requests = decode_requests
        self.decode_kv_tokens = decode_kv_tokens
        self.prefill_chunks: list[tuple[int, int]] = [] if prefill_chunks is None else prefill_chunks
        self.sampled_requests = sampled_requests
        self.drafting = drafting
        self.drafting_s = 0.0


class LatencyModel(Protocol):
    """How long a step takes."""

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds the step occupies the device: finite, not negative, not falling when the batch grows."""
        ...


@runtime_checkable
class HeardLatency(LatencyModel, Protocol):
    """One whose answers are added up as the time of steps that are taken."""

    @property
    def unheard(self) -> LatencyModel:
        """The same model for whoever only asks what a step would take."""
        ...


@runtime_checkable
class JointLatency(LatencyModel, Protocol):
    """Of ranks in step: ``step_seconds`` is a rank's own part; after the slowest, all work together."""

    def joint_seconds(self, batch: StepBatch) -> float:
        """Seconds of what all ranks do together; 0 where there is none.

        Of the batch only its tokens, the requests that sample and drafts are counted, of all ranks together.
        What making drafts takes of the answer is written to ``drafting_s``.
        """
        ...
