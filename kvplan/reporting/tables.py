"""The tables of a report, once, for the page, the Markdown file and the terminal alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvplan.reporting.cost import cost_rows
from kvplan.reporting.result import Result
from kvplan.reporting.schema.origin import Assumption, Provenance
from kvplan.reporting.verdict import band_text
from kvplan.reporting.wording import (
    LATENCIES,
    count,
    decimal,
    label,
    percent,
    plain,
    plural,
    seconds,
    seconds_range,
    value_text,
)
from kvplan.units import format_bytes

MAX_ROWS = 200
"""Most rows of one table; what is left off is counted below it."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a caption.

    Attributes:
        numeric: index of each right-aligned column.
        total: whether the last row is a sum and is set apart.
        left_off: rows not shown.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()
    total: bool = False
    left_off: int = 0


def _table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()
) -> Table:
    shown = tuple(tuple(row) for row in rows[:MAX_ROWS])
    return Table(caption, tuple(columns), shown, tuple(numeric), left_off=max(0, len(rows) - MAX_ROWS))


def inputs_table(result: Result) -> Table:
    """What was given and what was assumed, each with where it comes from."""
    rows: list[tuple[str, str, str]] = []
    if result.model is not None:
        rows.append(("Model", f"{plain(result.model.name)} · {plain(result.model.summary)}", "scenario"))
        per_token = f"{count(result.model.kv_bytes_per_token)} B a token, {plain(result.model.kv_dtype)}"
        rows.append(("KV cache", per_token, "computed from the model"))
    if result.gpu is not None:
        gpu = result.gpu
        what = f"{count(gpu.count)} x {plain(gpu.name)}, {format_bytes(gpu.memory_bytes)} each"
        if gpu.bandwidth_bytes_per_s:
            what += f", {decimal(gpu.bandwidth_bytes_per_s / 1e12)} TB/s"
        rows.append(("GPU", what, "scenario"))
    pool = f"{count(result.pool.usable_blocks)} usable blocks of {plural(result.pool.block_size, 'token')}"
    given = not result.memory or _at(result.scenario, "cache.blocks") is not None
    rows.append(("Pool", pool, "scenario" if given else "memory bill"))
    rows += _settings_rows(result)
    for slo in result.slo:
        rows.append((f"{label(slo.name)} limit", seconds(slo.limit_s), "scenario"))
    accuracy = result.accuracy
    rows.append(("Step time", f"{accuracy.model}: {plain(accuracy.name)}", plain(accuracy.source)))
    rows += _assumed(result.assumptions)
    return _table(
        "What was given, what was chosen, and where each value comes from",
        ("What", "Value", "Source"),
        rows,
    )


def assumptions_table(assumptions: Sequence[Assumption]) -> Table:
    """What a run chose because nobody said it."""
    return _table("What was chosen, and why", ("What", "Value", "Source"), list(_assumed(assumptions)))


def _assumed(assumptions: Sequence[Assumption]) -> Iterator[tuple[str, str, str]]:
    for item in assumptions:
        yield plain(item.name), _setting(item.name, item.value), plain(item.source)


def _settings_rows(result: Result) -> Iterator[tuple[str, str, str]]:
    """What the scenario chose, and the defaults that every run should name, as they came to be."""
    usual = default_settings(result.scenario.get("engine"))
    for name, path in _SHOWN:
        by_source: dict[str, list[str]] = {}
        for key, value in leaves(_at(result.scenario, path), path):
            asked = key == "workload.synthesize" or (key == "engine.kind" and value != "vllm")
            chosen = asked or usual.get(key) != value
            if not chosen and key not in _ALWAYS:
                continue
            source = "scenario" if chosen else "default"
            if key == _BLOCK and value != result.pool.block_size:
                value, source = result.pool.block_size, f"effective, from {value}"
            shown = f"{key.removeprefix(path).lstrip('.')} {_setting(key, value)}".strip()
            by_source.setdefault(source, []).append(shown)
        if path == "cache" and _at(result.scenario, _BLOCK) is None:
            by_source.setdefault("default", []).append(f"block_size {result.pool.block_size}")
        for source, found in by_source.items():
            yield name, ", ".join(found), source


_BLOCK = "cache.block_size"

_SHOWN = (
    ("Parallelism", "parallel"), ("Routing", "routing"), ("Cache", "cache"), ("Tiers", "tiers"),
    ("Engine", "engine"), ("Sampling", "sampling"), ("Disaggregation", "disaggregation"),
    ("Workload", "workload"), ("Price", "price"), ("Seed", "seed"),
)  # fmt: skip
"""Parts of a scenario; what a run left at its default is not listed, but for ``_ALWAYS``."""

_ALWAYS = frozenset(
    (
        "parallel.tp", _BLOCK, "engine.kind", "engine.version", "workload.synthesize",
        "workload.trace", "seed",
    )
)  # fmt: skip


def default_settings(engine: object, parts: Sequence[str] = ()) -> dict[str, Any]:
    """Every leaf of a scenario that says nothing, for the engine of one that does.

    ``parts`` are there and say nothing either: most are not there unless asked for.

    What follows from the engine's version is usual with that version; the version itself is not.
    """
    from kvplan.scenario.schema import Scenario

    def leaves_of(engine: dict[str, Any]) -> dict[str, Any]:
        empty = {"model": "", "gpu": "", "engine": engine, "workload": {"synthesize": "chat"}}
        empty |= {part: {} for part in parts}
        return dict(leaves(Scenario.model_validate(empty).to_dict()))

    said = engine if isinstance(engine, Mapping) else {}
    kind = {"kind": "sglang" if said.get("kind") == "sglang" else "vllm"}
    usual = leaves_of(kind)
    version = said.get("version", usual["engine.version"])
    if version == usual["engine.version"] or not isinstance(version, str):
        return usual
    return {**leaves_of({**kind, "version": version}), "engine.version": usual["engine.version"]}


def _setting(key: str, value: object) -> str:
    """A value in the unit its name says, as ``host.memory``, ``block_bytes`` and ``step_s`` do."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if key.endswith(("memory", "_bytes")):
            return format_bytes(value)
        if key.endswith("_s") and value >= 0:
            return seconds(float(value))
    return value_text(value)


def scenario_table(result: Result) -> Table:
    """Every leaf of the resolved scenario by its key path."""
    rows = [(key, value_text(value)) for key, value in leaves(result.scenario, keep_unset=True)]
    return _table("The resolved scenario", ("Key", "Value"), rows)


def unvaried_table(scenario: Mapping[str, Any], varied: Sequence[str]) -> Table:
    """Every leaf of a resolved scenario, without the fields that are varied and what is in them."""
    rows = [
        (key, value_text(value))
        for key, value in leaves(scenario)
        if not any(key == field or key.startswith((f"{field}.", f"{field}[")) for field in varied)
    ]
    return _table("The scenario, without what is varied", ("Key", "Value"), rows)


def _at(scenario: Mapping[str, Any], path: str) -> Any:
    node: Any = scenario
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def leaves(node: Any, path: str = "", *, keep_unset: bool = False) -> Iterator[tuple[str, Any]]:
    """``(key path, value)`` of every scalar below ``node``, in order; unset ones only on request."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{plain(key)}" if path else plain(key), keep_unset=keep_unset)
    elif isinstance(node, list) and any(isinstance(item, (Mapping, list)) for item in node):
        for index, value in enumerate(node):
            yield from leaves(value, f"{path}[{index}]", keep_unset=keep_unset)
    elif isinstance(node, list):
        yield path, ", ".join(value_text(item) for item in node) or "none"
    elif node is not None or keep_unset:
        yield path, node


def memory_table(result: Result) -> Table | None:
    """The bill of one GPU with its sum; ``None`` when the result has none."""
    if result.memory is None:
        return None
    total = result.memory.total_bytes
    rows = [
        (label(i.name), format_bytes(i.bytes), count(i.bytes), percent(i.bytes / total if total else None),
         plain(i.formula), plain(i.source))
        for i in result.memory.bill
    ]  # fmt: skip
    whole = percent(1.0 if total else None)
    rows = [*rows[: MAX_ROWS - 1], ("Total", format_bytes(total), count(total), whole, "", "")]
    columns = ("Part", "Size", "Bytes", "Share", "Formula", "Source")
    left_off = len(result.memory.bill) - len(rows) + 1
    return Table(
        "The bill of one GPU, line by line", columns, tuple(rows), (1, 2, 3), total=True, left_off=left_off
    )


def capacity_table(result: Result) -> Table | None:
    """Sequences that fit at once, a row a context length and a column a KV format."""
    if not result.capacity:
        return None
    curves = result.capacity[:8]
    contexts = sorted({point.context_tokens for curve in curves for point in curve.points})
    found = [{point.context_tokens: point.max_concurrency for point in curve.points} for curve in curves]
    rows = [
        (count(context), *(decimal(curve[context], 4) if context in curve else "–" for curve in found))
        for context in contexts
    ]
    columns = ("Context (tokens)", *(plain(curve.dtype, 40) for curve in curves))
    return _table("Sequences that fit at once", columns, rows, numeric=range(len(columns)))


def latency_table(result: Result) -> Table:
    """Mean, percentiles and maximum of every latency."""
    rows = []
    for field, (name, meaning) in LATENCIES.items():
        item = getattr(result.latency, field)
        if item is None:
            rows.append((name, meaning, "0", *["–"] * 5))
        else:
            values = (item.mean, item.p50, item.p90, item.p99, item.max)
            rows.append((name, meaning, count(item.count), *map(seconds, values)))
    columns = ("Latency", "Meaning", "Requests", "Mean", "p50", "p90", "p99", "Max")
    return _table("Latencies over all requests that have them", columns, rows, numeric=range(2, 8))


def intervals_table(result: Result) -> Table | None:
    """Where nine real latencies in ten are expected; ``None`` when the clock makes no claim."""
    if result.accuracy.intervals is None:
        return None
    rows = [
        (LATENCIES[field][0], *(seconds_range(result.interval(field, key)) for key in INTERVAL_STATISTICS))
        for field in ("ttft_s", "tpot_s", "e2e_s")
    ]
    made = plain(result.accuracy.intervals_source) or "not said how"
    columns = ("90% interval", "Mean", "p50", "p90", "p99")
    return _table(f"Where nine real values in ten are expected: {made}", columns, rows, numeric=range(1, 5))


INTERVAL_STATISTICS = ("mean", "p50", "p90", "p99")


def _rejected_for(result: Result) -> str:
    """What requests may have been rejected for."""
    engine = result.scenario.get("engine")
    limited = isinstance(engine, dict) and engine.get("max_queued_requests") is not None
    return f"longer than the pool or the engine admits{', or the queue was full' if limited else ''}"


def totals_table(result: Result) -> Table:
    """The counters of the run."""
    totals, rate = result.totals, result.throughput
    hits = (
        f"hit ratio {percent(result.hit_ratio)}" if result.hits_known else "what prompts share is not known"
    )
    rows = [
        ("Requests", count(totals.requests), f"finished at {decimal(rate.requests_per_s)} a second"),
        ("Finished", count(totals.finished), ""),
        ("Rejected", count(totals.rejected), _rejected_for(result)),
        ("Timed out", count(totals.timed_out), "dropped, as the client had given up"),
        ("Unfinished", count(totals.unfinished), "waiting or running at the end"),
        ("Prompt tokens", count(totals.prompt_tokens), f"{decimal(rate.prompt_tokens_per_s)} a second"),
        ("Output tokens", count(totals.output_tokens), f"{decimal(rate.output_tokens_per_s)} a second"),
        ("Tokens looked up", count(totals.queried_tokens), "in the prefix cache"),
        ("Tokens found", count(totals.hit_tokens), hits),
        ("Engine steps", count(totals.steps), ""),
        ("Makespan", seconds(totals.makespan_s), "until the last token, or the last client that gave up"),
        ("Preemptions", count(totals.preemptions), ""),
        ("Blocks allocated", count(totals.allocated_blocks), ""),
        ("Blocks evicted", count(totals.evicted_blocks), "cached content overwritten"),
        ("Peak blocks in use", count(totals.peak_used_blocks),
         f"{percent(result.peak_use)} of {count(result.pool.usable_blocks)}"),
        ("Peak running", count(totals.peak_running), "requests at once"),
        ("Peak waiting", count(totals.peak_waiting), "requests at once"),
        *cost_rows(result.cost),
    ]  # fmt: skip
    return _table("Counters over the whole run", ("Counter", "Value", "Note"), rows, numeric=(1,))


def series_table(result: Result, moments: int = 12) -> Table:
    """The state at ``moments`` evenly spaced samples, for readers who cannot use the charts."""
    series = result.series
    rows = len(series.t_s)
    picked = sorted({round(i * (rows - 1) / max(1, moments - 1)) for i in range(moments)}) if rows else []
    body = []
    for i in picked:
        queried = series.queried_tokens[i] if result.hits_known else 0
        hit = percent(series.hit_tokens[i] / queried if queried else None)
        state = (series.used_blocks[i], series.cached_blocks[i], series.running[i], series.waiting[i])
        body.append((seconds(series.t_s[i]), *map(count, state), hit, count(series.preemptions[i])))
    columns = ("Time", "Used blocks", "Cached blocks", "Running", "Waiting", "Hit ratio", "Preemptions")
    return _table(f"State at {len(body)} moments of the run", columns, body, numeric=range(7))


def accuracy_table(result: Result) -> Table | None:
    """Where the real latency is expected around the predicted one; ``None`` without bands."""
    bands = result.accuracy.bands
    if bands is None:
        return None
    rows = []
    for field, band in (("ttft_s", bands.ttft), ("tpot_s", bands.tpot), ("e2e_s", bands.e2e)):
        item = getattr(result.latency, field)
        expected = "–"
        if item is not None and band is not None:
            stated = (max(0.0, item.p99 * (1 + band[0])), item.p99 * (1 + band[1]))
            expected = " to ".join(map(seconds, result.interval(field, "p99") or stated))
        rows.append((LATENCIES[field][0], band_text(band), seconds(item.p99 if item else None), expected))
    columns = ("Latency", "Error band", "Predicted p99", "Expected p99")
    return _table("Accuracy of the predicted latencies", columns, rows, numeric=(1, 2, 3))


def trace_table(result: Result) -> Table:
    """Every row of the trace, accounted for."""
    trace = result.trace
    rows = [("Rows read", count(trace.rows_read)), ("Requests replayed", count(trace.requests))]
    rows += [(f"Dropped: {plain(reason)}", count(number)) for reason, number in trace.dropped.items()]
    name, form = plain(trace.name, 80), plain(trace.format, 40)
    caption = f"Rows of {name}" if name.endswith(f"({form})") else f"Rows of {name} ({form})"
    return _table(caption, ("Rows", "Count"), rows, numeric=(1,))


def files_table(result: Result) -> Table:
    """The files the run read, by content."""
    return files_of(result.provenance)


def files_of(provenance: Provenance) -> Table:
    """The files that were read, by content."""
    rows = [(plain(item.path), count(item.bytes), item.sha256) for item in provenance.inputs]
    return _table("Input files", ("File", "Bytes", "SHA-256"), rows, numeric=(1,))


def versions_table(result: Result) -> Table:
    """Versions of what computed the result, and its seed."""
    return versions_of(result.provenance)


def versions_of(provenance: Provenance) -> Table:
    """Versions of what was computed with, and the seed."""
    rows = [(plain(name), plain(version)) for name, version in provenance.versions.items()]
    return _table("Versions", ("Software", "Version"), [*rows, ("seed", str(provenance.seed))])
