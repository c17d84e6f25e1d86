"""Contracts between the engine and what is plugged into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Together:
    """What all ranks of data-parallel attention compute in one step of theirs.

    Attributes:
        ranks: how many there are, those without anything to compute among them.
        tokens: of them all. largest: of the rank that has most.
        sampled: requests of them all that sample. most_sampled: of the rank that has most.
        decodes: no rank computes a prompt.
        drafting: drafts made after the step, of the rank that makes most for a request.
    """

    ranks: int
    tokens: int
    largest: int
    sampled: int
    most_sampled: int
    decodes: bool
    drafting: int = 0

    def one_token_each(self) -> Together:
        """A pass in which every request that samples has one more token."""
        return Together(
            self.ranks, self.sampled, self.most_sampled, self.sampled, self.most_sampled, decodes=True
        )


def together(batches: Sequence[StepBatch], ranks: int) -> None:
    """Tell the batches of one step what they are together.

    Args:
        batches: of every rank that has something to compute. ranks: all of them.
    """
    tokens = [batch.scheduled_tokens for batch in batches]
    sampled = [batch.sampled_requests for batch in batches]
    whole = Together(
        ranks, sum(tokens), max(tokens), sum(sampled), max(sampled),
        not any(batch.prefill_chunks for batch in batches), max(batch.drafting for batch in batches),
    )  # fmt: skip
    for batch in batches:
        batch.together = whole


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
        together: of a rank in step with others: what they all compute in the step.
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
        "together",
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
        together: Together | None = None,
    ) -> None:
        self.scheduled_tokens = scheduled_tokens
        self.decode_context = decode_context
        self.decode_requests = decode_requests
        self.decode_kv_tokens = decode_kv_tokens
        self.prefill_chunks: list[tuple[int, int]] = [] if prefill_chunks is None else prefill_chunks
        self.sampled_requests = sampled_requests
        self.drafting = drafting
        self.drafting_s = 0.0
        self.together = together


class LatencyModel(Protocol):
    """How long a step takes."""

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds the step occupies the device: finite, not negative, not falling when the batch grows.

        Of a rank in step with others: its own part, and what all of them do together.
        """
        ...


@runtime_checkable
class HeardLatency(LatencyModel, Protocol):
    """One whose answers are added up as the time of steps that are taken."""

    @property
    def unheard(self) -> LatencyModel:
        """The same model for whoever only asks what a step would take."""
        ...
