"""``kvplan.sweep/1``: one scenario at many values, a row a point, and the border at which it is checked."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kvplan.reporting.schema.origin import Provenance
from kvplan.reporting.schema.part import Amount, Count, Part, Seconds, SignedAmount
from kvplan.reporting.schema.plain import check_plain

SCHEMA = "kvplan.sweep/1"

MAX_POINTS = 100_000

Key = Annotated[str, Field(min_length=1, max_length=400)]


class Axis(Part):
    """A field of the scenario and the values it takes, in order."""

    key: Key
    values: Annotated[list[Any], Field(min_length=1, max_length=MAX_POINTS)]


class Objective(Part):
    """A limit and the value reached; ``interval_s`` as the clock's stated ``band`` has it."""

    name: Annotated[str, Field(pattern=r"^(ttft|tpot|e2e)_p(50|90|99)_s$")]
    limit_s: Seconds
    value_s: Seconds | None
    passed: bool
    interval_s: Annotated[list[Seconds], Field(min_length=2, max_length=2)] | None
    band: Annotated[list[SignedAmount], Field(min_length=2, max_length=2)] | None


class Figures(Part):
    """The figures by which points are compared; ``None`` where there is none."""

    finished: Count
    rejected: Count
    timed_out: Count
    unfinished: Count
    hit_ratio: Annotated[float, Field(ge=0, le=1)] | None
    ttft_p50_s: Seconds | None
    ttft_p99_s: Seconds | None
    tpot_p50_s: Seconds | None
    tpot_p99_s: Seconds | None
    output_tokens_per_s: Amount
    preemptions: Count
    evicted_blocks: Count
    evicted_bytes: Count | None = None
    moved_bytes: Count
    peak_used_blocks: Count
    peak_used_bytes: Count | None
    makespan_s: Seconds
    slo_met: bool | None
    arrivals_s: Seconds | None = None
    e2e_p99_s: Seconds | None = None
    growth: Amount | None = None
    cost_per_hour: Amount | None = None
    cost_per_million_output_tokens: Amount | None = None
    objectives: Annotated[list[Objective], Field(default_factory=list, max_length=64)]

    @property
    def served(self) -> bool:
        """Whether every request was."""
        return not self.rejected and not self.timed_out and not self.unfinished


class Failure(Part):
    """Why a point has no figures."""

    code: str
    message: str
    where: str | None
    hint: str | None
    exit_code: int


Warnings = Annotated[
    list[Annotated[str, Field(max_length=4000)]], Field(default_factory=list, max_length=1000)
]
"""What to know of a simulation's deployment and clock."""


class Point(Part):
    """One simulation: its number from 1, what was varied, and what came of it."""

    point: Annotated[int, Field(ge=1)]
    values: dict[Key, Any]
    status: Literal["done", "failed", "not run"]
    figures: Figures | None
    error: Failure | None
    warnings: Warnings

    @model_validator(mode="after")
    def _status_is_what_it_has(self) -> Self:
        had = "done" if self.figures is not None else "failed" if self.error is not None else "not run"
        if (self.figures is not None and self.error is not None) or self.status != had:
            raise ValueError(f"status {self.status!r} contradicts its figures and error")
        return self


class Shorter(Part):
    """What the search found with fewer requests."""

    requests: Count
    passed: Amount | None
    missed: Amount | None


class Range(Part):
    """The answer with every step ``slower`` and ``faster`` times as long; ``low``: None for no value."""

    low: Amount | None
    high: Amount
    slower: Amount
    faster: Amount


class Highest(Part):
    """What a search over one axis found: the highest value that met every objective, and what missed.

    ``settled``: whether the run was long enough to tell, None where that is not known. ``binding``: the
    objective that more would miss. ``requests``: of the runs that the answer rests on.
    """

    key: Key
    passed: Amount | None
    missed: Amount | None
    met_above: Amount | None = None
    requests: Count | None = None
    settled: bool | None = None
    binding: Annotated[str, Field(max_length=40)] | None = None
    range: Range | None = None
    shorter: Annotated[list[Shorter], Field(default_factory=list, max_length=100)]


class Sweep(Part):
    """A whole ``kvplan.sweep/1`` document."""

    schema_: Literal["kvplan.sweep/1"] = Field(alias="schema")
    complete: bool
    axes: Annotated[list[Axis], Field(min_length=1, max_length=64)]
    scenario: dict[str, Any] | None
    points: Annotated[list[Point], Field(min_length=1, max_length=MAX_POINTS)]
    provenance: Provenance
    highest: Highest | None = None

    @model_validator(mode="after")
    def _points_have_the_axes(self) -> Self:
        keys = [axis.key for axis in self.axes]
        if self.highest is not None and self.highest.key not in keys:
            raise ValueError(f"highest.key {self.highest.key!r} is no axis")
        for place, point in enumerate(self.points):
            if list(point.values) != keys:
                raise ValueError(f"points[{place}].values are not those of the axes")
        check_plain(self.model_dump())
        return self

    def document(self) -> dict[str, Any]:
        """The document as ``kvplan sweep -o`` wrote it."""
        whole = self.model_dump(mode="json", by_alias=True)
        if self.highest is None:
            del whole["highest"]
        return whole
