"""``kvplan.plan/1``: candidates for a deployment, how many instances each needs, and which is cheapest."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kvplan.reporting.schema.origin import Assumption, Provenance
from kvplan.reporting.schema.part import Amount, Count, Part
from kvplan.reporting.schema.plain import check_plain
from kvplan.reporting.schema.sweep import Axis, Failure, Figures, Key, Warnings
from kvplan.scenario.rank import rank
from kvplan.units import currency_name

SCHEMA = "kvplan.plan/1"

MAX_CANDIDATES = 10_000

Ordinal = Annotated[int, Field(ge=1, le=10**9)]


Sizes = Annotated[list[Ordinal], Field(min_length=1, max_length=2)]
"""Instances of every pool, in the order of the pools."""


class Pool(Part):
    """Instances of one kind: the scenario field that says how many, and the GPUs of one of them."""

    field: Literal["parallel.replicas", "disaggregation.prefill.instances", "disaggregation.decode.instances"]
    gpu: Annotated[str, Field(max_length=200)] | None
    gpus: Ordinal


class Candidate(Part):
    """One kind of deployment: its pools, and their cheapest ``sizes`` that meet every objective.

    ``missed``: the dearest below them that do not. Where none do, ``sizes`` are the most that were tried, and
    ``figures`` are theirs. ``gpus``: of all instances. ``error``: why none was simulated, or why no more or
    fewer were. ``warnings``: of the run of ``sizes``.
    """

    candidate: Ordinal
    values: dict[Key, Any]
    status: Literal["meets", "misses", "does not fit", "failed", "not run"]
    pools: Annotated[list[Pool], Field(min_length=1, max_length=2)]
    sizes: Sizes | None
    gpus: Ordinal | None
    missed: Sizes | None
    figures: Figures | None
    error: Failure | None
    warnings: Warnings

    @model_validator(mode="after")
    def _status_is_what_it_has(self) -> Self:
        simulated = self.status in ("meets", "misses")
        if simulated != (self.figures is not None) or simulated != (self.sizes is not None):
            raise ValueError(f"status {self.status!r} contradicts its figures")
        if not simulated and (self.status != "not run") != (self.error is not None):
            raise ValueError(f"status {self.status!r} contradicts its error")
        if any(sizes is not None and len(sizes) != len(self.pools) for sizes in (self.sizes, self.missed)):
            raise ValueError("sizes are not those of the pools")
        if self.gpus != (None if self.sizes is None else sum(size * pool.gpus for pool, size in self.sized)):
            raise ValueError(f"{self.sizes} instances do not have {self.gpus} GPUs")
        return self

    @property
    def sized(self) -> list[tuple[Pool, int]]:
        """The pools and their sizes; empty where nothing is known."""
        return [] if self.sizes is None else list(zip(self.pools, self.sizes, strict=True))

    @property
    def least_gpus(self) -> int:
        """Of one instance of every pool."""
        return sum(pool.gpus for pool in self.pools)

    def rank(self) -> tuple[float, ...]:
        """Those that meet every objective, cheapest first; those that miss one; then the others."""
        figures = self.figures
        if self.status != "meets" or figures is None or self.gpus is None:
            return (1 if self.status == "misses" else 2, self.candidate)
        return (0, *rank(self.gpus, figures.model_dump(), self.candidate))


class SizesRange(Part):
    """Sizes of the best with every step ``faster`` and ``slower``; None for more than allowed."""

    faster: Amount
    slower: Amount
    low: Sizes | None
    high: Sizes | None


class Plan(Part):
    """A whole ``kvplan.plan/1`` document.

    ``requests``: of the runs that the answers rest on, None where the trace says. ``settled``: whether they
    were long enough to tell. ``best``: number of the cheapest candidate that meets every objective; ``serve``
    starts the engine of one instance of each of its pools, None where there is no command. ``assumptions``:
    of its run.
    """

    schema_: Literal["kvplan.plan/1"] = Field(alias="schema")
    complete: bool
    axes: Annotated[list[Axis], Field(min_length=1, max_length=64)]
    scenario: dict[str, Any]
    most_gpus: Ordinal
    requests: Count | None
    settled: bool | None
    best: Ordinal | None
    range: SizesRange | None
    assumptions: Annotated[list[Assumption], Field(default_factory=list, max_length=1000)]
    serve: Annotated[list[Annotated[str, Field(max_length=4000)] | None], Field(max_length=2)]
    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=MAX_CANDIDATES)]
    provenance: Provenance

    @model_validator(mode="after")
    def _candidates_have_the_axes(self) -> Self:
        keys = [axis.key for axis in self.axes]
        for place, item in enumerate(self.candidates):
            if list(item.values) != keys:
                raise ValueError(f"candidates[{place}].values are not those of the axes")
            if item.candidate != place + 1:
                raise ValueError(f"candidates[{place}] is numbered {item.candidate}")
        if self.best is not None and (
            self.best > len(self.candidates) or self.candidates[self.best - 1].status != "meets"
        ):
            raise ValueError(f"best is {self.best}, which meets nothing")
        first = min(self.candidates, key=Candidate.rank)
        if self.best != (first.candidate if first.status == "meets" else None):
            raise ValueError(f"best is {self.best}, and {first.candidate} is cheaper")
        pools = 0 if self.answer is None else len(self.answer.pools)
        if len(self.serve) != pools:
            raise ValueError(f"{len(self.serve)} commands for {pools} pools")
        ends = () if self.range is None else (self.range.low, self.range.high)
        if any(sizes is not None and len(sizes) != pools for sizes in ends):
            raise ValueError("range is not one of the best candidate's pools")
        check_plain(self.model_dump())
        return self

    @property
    def answer(self) -> Candidate | None:
        """The best candidate."""
        return None if self.best is None else self.candidates[self.best - 1]

    @property
    def currency(self) -> str | None:
        """Of all costs; None where nothing has a price."""
        price = self.scenario.get("price")
        known = any(item.figures and item.figures.cost_per_hour is not None for item in self.candidates)
        name = price.get("currency") if isinstance(price, dict) else None
        if not known:
            return None
        try:
            return currency_name(name) if isinstance(name, str) else "?"
        except ValueError:
            return "?"

    def document(self) -> dict[str, Any]:
        """The document as ``kvplan plan -o`` wrote it."""
        return self.model_dump(mode="json", by_alias=True)
