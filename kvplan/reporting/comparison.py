"""Two results side by side: what was asked differently, what came out differently, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from kvplan.reporting.result import Result
from kvplan.reporting.schema.outcome import Metric
from kvplan.reporting.verdict import reused_ratio
from kvplan.reporting.wording import plain, plural
from kvplan.scenario.figures import COSTS

SCHEMA = "kvplan.diff/1"

STATISTICS = ("mean", "p50", "p90", "p99")

Judgement: TypeAlias = Literal["equal", "beyond", "within", "unknown"]


@dataclass(frozen=True, slots=True)
class Change:
    """One value in both results; ``None`` where a result has none.

    ``unit`` is ``s``, ``bytes``, ``1`` or the noun that is counted.
    """

    name: str
    a: Any
    b: Any
    unit: str = ""

    @property
    def ratio(self) -> float | None:
        """How much larger b is: 0.1 is 10 % more; None where that has no meaning."""
        numbers = all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in (self.a, self.b)
        )
        return self.b / self.a - 1.0 if numbers and self.a else None

    def to_dict(self) -> dict[str, Any]:
        """Part of ``kvplan.diff/1``."""
        return {"name": self.name, "a": self.a, "b": self.b, "unit": self.unit, "ratio": self.ratio}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class LatencyChange:
    """One statistic of one latency in both results, in seconds, with the intervals around it.

    ``judgement``: ``beyond`` when the intervals do not touch, ``within`` when they do, ``equal``, or
    ``unknown`` where a result has no interval.
    """

    change: Change
    interval_a: tuple[float, float] | None
    interval_b: tuple[float, float] | None

    @property
    def judgement(self) -> Judgement:
        """Whether the difference is more than the clocks can be wrong."""
        one, other = self.interval_a, self.interval_b
        if self.change.a == self.change.b:
            return "equal"
        if one is None or other is None:
            return "unknown"
        return "beyond" if one[1] < other[0] or other[1] < one[0] else "within"

    def to_dict(self) -> dict[str, Any]:
        """Part of ``kvplan.diff/1``."""
        return {
            **self.change.to_dict(),
            "interval_a": None if self.interval_a is None else list(self.interval_a),
            "interval_b": None if self.interval_b is None else list(self.interval_b),
            "judgement": self.judgement,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that differs, and every latency.

    Attributes:
        scenario: fields by key path; only those that differ.
        totals: counters, throughput, memory; only those that differ.
        latency: all statistics both or either have.
        strategies: figures of strategies by section; only those that differ.
        missed: names of the objectives that A and B miss; None for one that has no objectives.
        notes: what to know before believing the rest.
    """

    scenario: tuple[Change, ...]
    totals: tuple[Change, ...]
    latency: tuple[LatencyChange, ...]
    strategies: tuple[Change, ...]
    missed: tuple[tuple[str, ...] | None, tuple[str, ...] | None]
    notes: tuple[str, ...]

    def to_dict(self, a: str, b: str) -> dict[str, Any]:
        """The ``kvplan.diff/1`` document of results called ``a`` and ``b``."""
        return {
            "schema": SCHEMA,
            "a": a,
            "b": b,
            "scenario": [change.to_dict() for change in self.scenario],
            "totals": [change.to_dict() for change in self.totals],
            "latency": [change.to_dict() for change in self.latency],
            "strategies": [change.to_dict() for change in self.strategies],
            "missed": dict(zip("ab", self.missed, strict=True)),
            "notes": list(self.notes),
        }


def compare(a: Result, b: Result) -> Comparison:
    """Put two results side by side."""
    return Comparison(
        scenario=tuple(_differing(dict(_leaves(a.scenario)), dict(_leaves(b.scenario)), {})),
        totals=(*_differing(_totals(a), _totals(b), _UNITS), *_reuse(a, b), *_costs(a, b)),
        latency=tuple(_latencies(a, b)),
        strategies=tuple(_strategies(a, b)),
        missed=(_missed(a), _missed(b)),
        notes=tuple(_notes(a, b)),
    )


_UNITS = {
    "hit_ratio": "1", "makespan_s": "s", "kv_pool_bytes": "bytes", "weights_bytes": "bytes",
    "block_size": "tokens", "requests_per_s": "requests/s", "output_tokens_per_s": "tokens/s",
}  # fmt: skip


def _missed(result: Result) -> tuple[str, ...] | None:
    return tuple(slo.name for slo in result.slo if not slo.passed) if result.slo else None


def _totals(result: Result) -> dict[str, Any]:
    bill = {} if result.memory is None else {item.name: item.bytes for item in result.memory.bill}
    return {
        **result.totals.model_dump(),
        "hit_ratio": result.hit_ratio,
        "requests_per_s": result.throughput.requests_per_s,
        "output_tokens_per_s": result.throughput.output_tokens_per_s,
        "block_size": result.pool.block_size,
        "usable_blocks": result.pool.usable_blocks,
        "weights_bytes": bill.get("weights"),
        "kv_pool_bytes": bill.get("kv_pool"),
    }


def _reuse(a: Result, b: Result) -> Iterator[Change]:
    """Hits on the GPU and in tiers below it, where either has tiers."""
    found = [reused_ratio(result) for result in (a, b)]
    if found != [None, None]:
        one, other = (r.hit_ratio if ratio is None else ratio for r, ratio in zip((a, b), found, strict=True))
        if one != other:
            yield Change("reused_ratio", one, other, "1")


def _costs(a: Result, b: Result) -> Iterator[Change]:
    """What their GPUs cost, where that is in one currency."""
    currencies = {result.cost.currency for result in (a, b) if result.cost is not None}
    for name in COSTS if len(currencies) == 1 else ():
        one, other = (getattr(result.cost, name, None) for result in (a, b))
        if one != other:
            yield Change(f"cost_{name}", one, other, *currencies)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any], units: Mapping[str, str]) -> Iterator[Change]:
    for name in dict.fromkeys((*a, *b)):
        one, other = a.get(name), b.get(name)
        if one != other or type(one) is not type(other):
            yield Change(name, one, other, units.get(name, ""))


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Key path and value of everything that is set below ``node``; a list is one value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif node is not None:
        yield path, node


def _latencies(a: Result, b: Result) -> Iterator[LatencyChange]:
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        one, other = getattr(a.latency, name), getattr(b.latency, name)
        for key in STATISTICS if one is not None or other is not None else ():
            change = Change(
                f"{name.removesuffix('_s')}_{key}", getattr(one, key, None), getattr(other, key, None), "s"
            )
            yield LatencyChange(change, a.interval(name, key), b.interval(name, key))


def _strategies(a: Result, b: Result) -> Iterator[Change]:
    found = [_metrics(a), _metrics(b)]
    for name in dict.fromkeys((*found[0], *found[1])):
        one, other = found[0].get(name), found[1].get(name)
        was, now = (None if metric is None else metric.value for metric in (one, other))
        unit = next(metric.unit for metric in (one, other) if metric is not None)
        if was != now:
            yield Change(name, was, now, unit)


def _metrics(result: Result) -> dict[str, Metric]:
    return {
        f"{section}: {metric.name}": metric
        for section, metrics in result.strategies.items()
        for metric in metrics
    }


def _limits(result: Result) -> dict[str, float]:
    return {slo.name: slo.limit_s for slo in result.slo}


def _notes(a: Result, b: Result) -> Iterator[str]:
    for name, result in (("A", a), ("B", b)):
        if not result.complete:
            yield f"{name} is incomplete: it was stopped early"
    if [item.sha256 for item in a.provenance.inputs] != [item.sha256 for item in b.provenance.inputs]:
        yield "they replay different traces"
    elif a.trace.name != b.trace.name:
        yield f"they serve different workloads: {plain(a.trace.name, 60)} and {plain(b.trace.name, 60)}"
    if a.totals.requests != b.totals.requests:
        yield "they serve different numbers of requests: their counters do not compare"
    if a.slo and b.slo and _limits(a) != _limits(b):
        yield "they are judged by different objectives"
    if a.pool.block_size != b.pool.block_size:
        sizes = f"{plural(a.pool.block_size, 'token')} in A and {b.pool.block_size:,} in B"
        yield f"a block holds {sizes}: counts of blocks do not compare"
    if a.trace.reuse_known != b.trace.reuse_known:
        silent = "B" if a.trace.reuse_known else "A"
        yield f"what the prompts of {silent} share is unknown, not nothing: prefix hits do not compare"
    if a.cost is not None and b.cost is not None and a.cost.currency != b.cost.currency:
        yield f"their prices are in {a.cost.currency} and {b.cost.currency}: costs do not compare"
    if a.totals.rejected != b.totals.rejected:
        refused = f"{a.totals.rejected:,} requests of A and {b.totals.rejected:,} of B"
        yield f"the engine rejected {refused}: latencies are of those who were served"
    if a.totals.timed_out != b.totals.timed_out:
        lost = f"{a.totals.timed_out:,} requests of A and {b.totals.timed_out:,} of B"
        yield f"clients gave up on {lost}: latencies are of those who were served"
    versions = [result.provenance.versions.get("kvplan") for result in (a, b)]
    if versions[0] != versions[1]:
        made = [plain(version, 40) for version in versions]
        yield f"kvplan {made[0]} made A, kvplan {made[1]} made B"
    if (a.accuracy.model, a.accuracy.name) != (b.accuracy.model, b.accuracy.name):
        yield "their clocks differ: what is beyond the bands of both may still be the clocks' difference"
    elif a.accuracy.intervals is not None and b.accuracy.intervals is not None:
        yield (
            "error bands say how far predicted times may be off; both results have the same clock, whose "
            "errors they share: a difference within the bands can be real, one beyond them is"
        )
