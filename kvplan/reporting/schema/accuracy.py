"""How far the latencies of a result may be off."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvplan.reporting.schema.part import Count, Part, Seconds

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
