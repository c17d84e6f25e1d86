"""``kvplan.result/1``: what a simulation leaves behind, and the border at which it is checked.

Times are float seconds, sizes integer bytes, token counts integers; NaN and infinities are refused. The
same model is used by whoever writes a result and by everything that reads one, so that a report never has
to ask whether a number makes sense. Two rules go beyond types: requests are conserved
(``requests == finished + rejected + unfinished``) and the columns of ``series`` have one length.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA = "kvplan.result/1"

PERCENTILES = 101

MAX_DEPTH = 32
"""A scenario is a handful of levels deep."""

MOST = 1e30
"""Larger than any time, size or number of a run, and small enough to be scaled, squared and drawn."""

Count = Annotated[int, Field(ge=0, le=10**30)]
Seconds = Annotated[float, Field(ge=0, le=MOST)]
Amount = Annotated[float, Field(ge=0, le=MOST)]
Scalar = str | int | float | bool | None


class Part(BaseModel):
    """Strict, closed and without NaN: a typing error in a producer is an error, not a missing chart."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Model(Part):
    """The model as it was sized."""

    name: str
    summary: str
    kv_bytes_per_token: Count
    state_bytes_per_sequence: Count
    weights_bytes: Count | None
    kv_dtype: str


class Gpu(Part):
    """The device; ``memory_bytes`` is of one of the ``count`` devices of a replica."""

    name: str
    memory_bytes: Count
    bandwidth_bytes_per_s: Amount | None
    count: Annotated[int, Field(ge=1)]


class BillItem(Part):
    """One line of the bill of memory."""

    name: str
    bytes: Count
    formula: str
    source: str


class Memory(Part):
    """The bill of one GPU, and what its KV pool holds."""

    bill: list[BillItem]
    total_bytes: Count
    num_blocks: Count
    block_size: Annotated[int, Field(ge=1)]
    kv_tokens: Count
    max_concurrency: Amount | None
    max_concurrency_context: Count | None


class Pool(Part):
    """The block pool the simulation used; ``usable_blocks`` leaves out the reserved null block."""

    num_blocks: Count
    usable_blocks: Count
    block_size: Annotated[int, Field(ge=1)]


class Metric(Part):
    """One figure of a strategy for managing memory, and what it means."""

    name: str
    value: int | Amount | str | None
    unit: str
    meaning: str


class CapacityPoint(Part):
    """How many sequences of one context length fit at once."""

    context_tokens: Annotated[int, Field(ge=1, le=10**30)]
    max_concurrency: Amount


class CapacityCurve(Part):
    """Concurrency against context for one KV number format."""

    dtype: str
    points: list[CapacityPoint]


class Totals(Part):
    """Counters over the whole run."""

    requests: Count
    finished: Count
    rejected: Count
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
        if self.requests != self.finished + self.rejected + self.unfinished:
            raise ValueError(
                f"{self.requests} requests, but {self.finished} finished + {self.rejected} rejected + "
                f"{self.unfinished} unfinished"
            )
        if self.hit_tokens > self.queried_tokens:
            raise ValueError(f"{self.hit_tokens} tokens hit of {self.queried_tokens} queried")
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


Band = Annotated[list[float], Field(min_length=2, max_length=2)]


class Bands(Part):
    """Relative error bands of the predicted latencies: ``[-0.3, 0.3]`` is 30 % either way."""

    ttft: Band | None = None
    tpot: Band | None = None
    e2e: Band | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in type(self).model_fields:
            band: list[float] | None = getattr(self, name)
            if band is not None and band[0] > band[1]:
                raise ValueError(f"{name}: the low end {band[0]} lies above the high end {band[1]}")
        return self


Interval = Annotated[list[Seconds], Field(min_length=2, max_length=2)]


class StatisticIntervals(Part):
    """Where nine real values in ten are expected, ``[low, high]`` in seconds, for each statistic."""

    mean: Interval
    p50: Interval
    p90: Interval
    p99: Interval

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in type(self).model_fields:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the low end {low} lies above the high end {high}")
        return self


class Intervals(Part):
    """Intervals of the latencies that have any; ``None`` where no request has that latency."""

    ttft_s: StatisticIntervals | None
    tpot_s: StatisticIntervals | None
    e2e_s: StatisticIntervals | None


class Accuracy(Part):
    """What the clock of the simulation was, and how far it may be off.

    ``bands`` are the clock's own, relative; ``intervals`` are around this run's latencies, from ``ensemble``
    simulations with perturbed clocks and as ``intervals_source`` says. Results written before there were
    intervals have none.
    """

    model: Literal["linear", "roofline", "profile"]
    name: str
    statement: str
    bands: Bands | None
    source: str
    intervals: Intervals | None = None
    ensemble: Count = 0
    intervals_source: str = ""


class Trace(Part):
    """What was replayed, with every row accounted for."""

    name: str
    format: str
    rows_read: Count
    requests: Count
    dropped: dict[str, Count]
    notes: list[str]
    reuse_known: bool


class Assumption(Part):
    """A value that was not given but chosen or derived, and why."""

    name: str
    value: Scalar
    source: str


class Input(Part):
    """A file the run read."""

    path: str
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Provenance(Part):
    """What is needed to run it again."""

    command: str
    seed: int
    inputs: list[Input]
    versions: dict[str, str]


class Result(Part):
    """A whole ``kvplan.result/1`` document."""

    schema_: Literal["kvplan.result/1"] = Field(alias="schema")
    complete: bool
    scenario: dict[str, Any]
    model: Model | None
    gpu: Gpu | None
    memory: Memory | None
    pool: Pool
    capacity: list[CapacityCurve] | None
    totals: Totals
    strategies: dict[str, list[Metric]] = {}
    latency: Latency
    throughput: Throughput
    distributions: Distributions
    series: Series
    slo: list[Slo]
    accuracy: Accuracy
    trace: Trace
    assumptions: list[Assumption]
    warnings: list[str]
    provenance: Provenance

    @model_validator(mode="after")
    def _intervals_contain_what_they_are_about(self) -> Self:
        for name in Intervals.model_fields if self.accuracy.intervals is not None else ():
            statistics, intervals = getattr(self.latency, name), getattr(self.accuracy.intervals, name)
            if (statistics is None) != (intervals is None):
                raise ValueError(f"accuracy.intervals.{name} and latency.{name}: only one of them is null")
            for key in StatisticIntervals.model_fields if intervals is not None else ():
                (low, high), value = getattr(intervals, key), getattr(statistics, key)
                if not low <= value <= high:
                    raise ValueError(
                        f"accuracy.intervals.{name}.{key} [{low}, {high}] does not contain the value {value}"
                    )
        return self

    @field_validator("scenario")
    @classmethod
    def _plain_json(cls, scenario: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(scenario, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise ValueError(f"not plain JSON: {exc}") from exc
        if _depth(scenario) > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        return scenario

    @property
    def hit_ratio(self) -> float | None:
        """Prompt tokens found in the cache over prompt tokens looked up; ``None`` when none were."""
        queried = self.totals.queried_tokens
        return self.totals.hit_tokens / queried if queried else None

    def interval(self, latency: str, statistic: str) -> tuple[float, float] | None:
        """Interval of a statistic in seconds: ``("ttft_s", "p99")``; None where there is none."""
        if self.accuracy.intervals is None:
            return None
        found = getattr(getattr(self.accuracy.intervals, latency, None), statistic, None)
        return None if found is None else (found[0], found[1])

    @property
    def peak_use(self) -> float | None:
        """Largest share of the usable blocks that running requests held at once."""
        usable = self.pool.usable_blocks
        return self.totals.peak_used_blocks / usable if usable else None


def _depth(node: Any) -> int:
    """Levels of containers, counted level by level so that depth cannot exhaust the stack."""
    depth, level = 0, [node]
    while level := [child for item in level if isinstance(item, (dict, list)) for child in _children(item)]:
        depth += 1
    return depth


def _children(container: dict[str, Any] | list[Any]) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else container


def result_json(result: Result, *, indent: int | None = 2) -> str:
    """The document as text: keys in the order of the schema, numbers as they were, no NaN."""
    document = result.model_dump(mode="json", by_alias=True, exclude_unset=True)
    separators = (",", ":") if indent is None else None
    return json.dumps(document, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
