"""``kvplan.result/1``: what a simulation leaves behind, and the border at which it is checked.

Times are float seconds, sizes integer bytes, token counts integers; NaN and infinities are refused. The
same model is used by whoever writes a result and by everything that reads one, so that a report never has
to ask whether a number makes sense. Two rules go beyond types: requests are conserved
(``requests == finished + rejected + timed_out + unfinished``) and the columns of ``series`` have one length.
"""

import json
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kvplan.reporting.schema.accuracy import Accuracy, Intervals, StatisticIntervals
from kvplan.reporting.schema.cost import Cost
from kvplan.reporting.schema.hardware import CapacityCurve, Gpu, Memory, Model, Pool
from kvplan.reporting.schema.origin import Assumption, Provenance, Trace
from kvplan.reporting.schema.outcome import (
    Distributions,
    Latency,
    Metric,
    Offered,
    Series,
    Slo,
    Throughput,
    Totals,
)
from kvplan.reporting.schema.part import Part
from kvplan.reporting.schema.plain import check_plain
from kvplan.reporting.schema.step_time import StepTime

SCHEMA = "kvplan.result/1"


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
    offered: Offered | None = None
    """Results written before it was counted have none."""
    totals: Totals
    strategies: dict[str, list[Metric]] = Field(default_factory=dict)
    latency: Latency
    throughput: Throughput
    cost: Cost | None = None
    step_time: StepTime | None = None
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
        check_plain(scenario)
        return scenario

    @property
    def hit_ratio(self) -> float | None:
        """Prompt tokens found in the cache over those looked up; ``None`` when none were, or nobody knows."""
        queried = self.totals.queried_tokens
        return self.totals.hit_tokens / queried if queried and self.hits_known else None

    @property
    def hits_known(self) -> bool:
        """Whether no hits mean none: not where the trace does not say what prompts share."""
        return self.trace.reuse_known or self.totals.hit_tokens > 0

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


def result_json(result: Result, *, indent: int | None = 2) -> str:
    """The document as text: keys in the order of the schema, numbers as they were, no NaN."""
    document = result.model_dump(mode="json", by_alias=True, exclude_unset=True)
    separators = (",", ":") if indent is None else None
    return json.dumps(document, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
