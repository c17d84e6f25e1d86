"""What happened: counters, latencies, throughput, the state over time, objectives, figures of strategies."""

from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from kvplan.reporting.schema.part import Amount, Count, Part, Seconds, SignedAmount, SignedCount

PERCENTILES = 101


class Totals(Part):
    """Counters over the whole run."""

    requests: Count
    finished: Count
    rejected: Count
    timed_out: Count
    unfinished: Count
    steps: Count
    prompt_tokens: Count
    output_tokens: Count
    queried_tokens: Count
    hit_tokens: Count
    preemptions: Count
    evicted_blocks: Count
    allocated_blocks: Count
    peak_used_blocks: Count
    peak_running: Count
    peak_waiting: Count
    makespan_s: Seconds

    @model_validator(mode="after")
    def _conserved(self) -> Self:
        if self.requests != self.finished + self.rejected + self.timed_out + self.unfinished:
            raise ValueError(
                f"{self.requests} requests, but {self.finished} finished + {self.rejected} rejected + "
                f"{self.timed_out} timed out + {self.unfinished} unfinished"
            )
        if self.hit_tokens > self.queried_tokens:
            raise ValueError(f"{self.hit_tokens} tokens hit of {self.queried_tokens} queried")
        return self


class Offered(Part):
    """What clients asked for, served or not; tokens of a request are those of its prompt and its answer.

    ``requests_per_s`` is ``None`` where requests had no times of their own, or all the same one;
    ``sustained_per_s`` is what was finished while others waited, where that is less: then it is saturated.
    """

    requests: Count
    prompt_tokens: Count
    output_tokens: Count
    tokens_mean: Amount | None
    tokens_p99: Amount | None
    requests_per_s: Amount | None
    sustained_per_s: Amount | None
    saturated: bool

    @model_validator(mode="after")
    def _saturated_by_rates(self) -> Self:
        rates = (self.requests_per_s, self.sustained_per_s)
        if self.saturated and None in rates:
            raise ValueError("saturated, without the rates that were offered and sustained")
        return self


class Statistics(Part):
    """Summary of one latency over the ``count`` requests it is defined for, in seconds."""

    count: Annotated[int, Field(ge=1)]
    mean: Seconds
    p50: Seconds
    p90: Seconds
    p99: Seconds
    max: Seconds


class Latency(Part):
    """``None`` where no request has that latency (one output token has no time per output token)."""

    ttft_s: Statistics | None
    tpot_s: Statistics | None
    e2e_s: Statistics | None
    queue_s: Statistics | None


class Throughput(Part):
    """Averages over the makespan; 0 when nothing ran."""

    requests_per_s: Amount
    prompt_tokens_per_s: Amount
    output_tokens_per_s: Amount


class Distributions(Part):
    """Percentiles 0, 1, ... 100 of each latency, or an empty list."""

    ttft_s: list[Seconds]
    tpot_s: list[Seconds]
    e2e_s: list[Seconds]
    queue_s: list[Seconds]

    @model_validator(mode="after")
    def _percentiles(self) -> Self:
        for name in type(self).model_fields:
            values: list[float] = getattr(self, name)
            if len(values) not in (0, PERCENTILES):
                raise ValueError(f"{name} has {len(values)} values; percentiles 0 to 100 are {PERCENTILES}")
            if any(later < earlier for earlier, later in pairwise(values)):
                raise ValueError(f"{name} falls; percentiles never do")
        return self


class Series(Part):
    """State sampled at ``t_s``; ``queried_tokens``, ``hit_tokens`` and ``preemptions`` are cumulative.

    ``used_blocks`` are referenced by a running request, ``cached_blocks`` are unreferenced but still
    findable, so used + cached + free is the pool.
    """

    t_s: list[Seconds]
    used_blocks: list[Count]
    cached_blocks: list[Count]
    running: list[Count]
    waiting: list[Count]
    queried_tokens: list[Count]
    hit_tokens: list[Count]
    preemptions: list[Count]

    @model_validator(mode="after")
    def _columns(self) -> Self:
        rows = len(self.t_s)
        for name in type(self).model_fields:
            column: list[float] = getattr(self, name)
            if len(column) != rows:
                raise ValueError(f"{name} has {len(column)} values, t_s has {rows}")
        for name in ("t_s", "queried_tokens", "hit_tokens", "preemptions"):
            column = getattr(self, name)
            if any(later < earlier for earlier, later in pairwise(column)):
                raise ValueError(f"{name} must never fall")
        return self


class Slo(Part):
    """One service-level objective; ``value_s`` is ``None`` when no request counts, and then it is missed."""

    name: str
    limit_s: Seconds
    value_s: Seconds | None
    passed: bool


class Metric(Part):
    """One figure of a strategy for managing memory, and what it means.

    ``unit`` is ``bytes``, ``s``, ``bytes/s``, ``1`` (a ratio, or a plain number), or what is counted.
    """

    name: str
    value: SignedCount | SignedAmount | str | None
    unit: str
    meaning: str
