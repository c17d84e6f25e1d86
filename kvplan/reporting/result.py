"""``kvplan.result/1``: what a simulation leaves behind, and the border at which it is checked.

Times are float seconds, sizes integer bytes, token counts integers; NaN and infinities are refused. The
same model is used by whoever writes a result and by everything that reads one, so that a report never has
to ask whether a number makes sense. Two rules go beyond types: requests are conserved
(``requests == finished + rejected + unfinished``) and the columns of ``series`` have one length.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kvplan.errors import DataError, near_names

SCHEMA = "kvplan.result/1"

MAX_RESULT_BYTES = 256 << 20
"""A result is a few hundred kilobytes; a file beyond this bound is something else and is not read."""

PERCENTILES = 101

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Scalar = str | int | float | bool | None


class _Part(BaseModel):
    """Strict, closed and without NaN: a typing error in a producer is an error, not a missing chart."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Model(_Part):
    """The model as it was sized."""

    name: str
    summary: str
    kv_bytes_per_token: Count
    state_bytes_per_sequence: Count
    weights_bytes: Count | None
    kv_dtype: str


class Gpu(_Part):
    """The device; ``memory_bytes`` is of one of the ``count`` devices of a replica."""

    name: str
    memory_bytes: Count
    bandwidth_bytes_per_s: Amount | None
    count: Annotated[int, Field(ge=1)]


class BillItem(_Part):
    """One line of the bill of memory."""

    name: str
    bytes: Count
    formula: str
    source: str


class Memory(_Part):
    """The bill of one GPU, and what its KV pool holds."""

    bill: list[BillItem]
    total_bytes: Count
    num_blocks: Count
    block_size: Annotated[int, Field(ge=1)]
    kv_tokens: Count
    max_concurrency: Amount | None
    max_concurrency_context: Count | None


class Pool(_Part):
    """The block pool the simulation used; ``usable_blocks`` leaves out the reserved null block."""

    num_blocks: Count
    usable_blocks: Count
    block_size: Annotated[int, Field(ge=1)]


class CapacityPoint(_Part):
    """How many sequences of one context length fit at once."""

    context_tokens: Annotated[int, Field(ge=1)]
    max_concurrency: Amount


class CapacityCurve(_Part):
    """Concurrency against context for one KV number format."""

    dtype: str
    points: list[CapacityPoint]


class Totals(_Part):
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


class Statistics(_Part):
    """Summary of one latency over the ``count`` requests it is defined for, in seconds."""

    count: Annotated[int, Field(ge=1)]
    mean: Seconds
    p50: Seconds
    p90: Seconds
    p99: Seconds
    max: Seconds


class Latency(_Part):
    """``None`` where no request has that latency (one output token has no time per output token)."""

    ttft_s: Statistics | None
    tpot_s: Statistics | None
    e2e_s: Statistics | None
    queue_s: Statistics | None


class Throughput(_Part):
    """Averages over the makespan; 0 when nothing ran."""

    requests_per_s: Amount
    prompt_tokens_per_s: Amount
    output_tokens_per_s: Amount


class Distributions(_Part):
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


class Series(_Part):
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


class Slo(_Part):
    """One service-level objective; ``value_s`` is ``None`` when no request counts, and then it is missed."""

    name: str
    limit_s: Seconds
    value_s: Seconds | None
    passed: bool


Band = Annotated[list[float], Field(min_length=2, max_length=2)]


class Bands(_Part):
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


class Accuracy(_Part):
    """What the clock of the simulation was, and how far it may be off."""

    model: Literal["linear", "roofline", "profile"]
    name: str
    statement: str
    bands: Bands | None
    source: str


class Trace(_Part):
    """What was replayed, with every row accounted for."""

    name: str
    format: str
    rows_read: Count
    requests: Count
    dropped: dict[str, Count]
    notes: list[str]
    reuse_known: bool


class Assumption(_Part):
    """A value that was not given but chosen or derived, and why."""

    name: str
    value: Scalar
    source: str


class Input(_Part):
    """A file the run read."""

    path: str
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Provenance(_Part):
    """What is needed to run it again."""

    command: str
    seed: int
    inputs: list[Input]
    versions: dict[str, str]


class Result(_Part):
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

    @property
    def hit_ratio(self) -> float | None:
        """Prompt tokens found in the cache over prompt tokens looked up; ``None`` when none were."""
        queried = self.totals.queried_tokens
        return self.totals.hit_tokens / queried if queried else None

    @property
    def peak_use(self) -> float | None:
        """Largest share of the usable blocks that running requests held at once."""
        usable = self.pool.usable_blocks
        return self.totals.peak_used_blocks / usable if usable else None


def parse_result(document: object, *, where: str | None = None) -> Result:
    """Check a decoded document (lists for arrays, as ``json`` gives them).

    Raises:
        DataError: not ``kvplan.result/1``; names the key path of the first problem and counts the others.
    """
    if not isinstance(document, Mapping):
        raise DataError(
            f"a result is a JSON object, not {_json_kind(document)}", where=where, hint=_HINT_PRODUCER
        )
    schema = document.get("schema")
    if schema != SCHEMA:
        found = f"{schema!r:.60}" if "schema" in document else "none"
        raise DataError(f"expected schema {SCHEMA!r}, found {found}", where=where, hint=_schema_hint(schema))
    try:
        return Result.model_validate(document)
    except ValidationError as exc:
        _raise(exc, where)


def loads_result(text: str | bytes, *, where: str | None = None) -> Result:
    """Parse and check the text of a result.

    Raises:
        DataError: not JSON (says line and column), or not ``kvplan.result/1`` (says the key path).
    """
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        place = f"{where or 'result'}:{exc.lineno}:{exc.colno}"
        hint = "the file is empty" if not text.strip() else "was the file cut off while being written?"
        raise DataError(f"not valid JSON: {exc.msg}", where=place, hint=hint) from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"not UTF-8 text: {exc.reason} at byte {exc.start}", where=where) from exc
    except RecursionError as exc:
        raise DataError("nested too deeply to be a result", where=where, hint=_HINT_PRODUCER) from exc
    except ValueError as exc:
        raise DataError(f"not a usable number: {exc}", where=where) from exc
    return parse_result(document, where=where)


def load_result(path: str | Path, *, max_bytes: int = MAX_RESULT_BYTES) -> Result:
    """Read a result file, or stdin when ``path`` is ``-``.

    Raises:
        DataError: too large, not JSON, or not ``kvplan.result/1``.
        OSError: the file cannot be read.
    """
    if str(path) == "-":
        data, where = sys.stdin.buffer.read(max_bytes + 1), "<stdin>"
    else:
        with open(path, "rb") as handle:
            data = handle.read(max_bytes + 1)
        where = str(path)
    if len(data) > max_bytes:
        raise DataError(
            f"larger than the {max_bytes:,} bytes a result may have", where=where, hint=_HINT_PRODUCER
        )
    return loads_result(data, where=where)


def result_json(result: Result, *, indent: int | None = 2) -> str:
    """The document as text: keys in the order of the schema, numbers as they were, no NaN."""
    document = result.model_dump(mode="json", by_alias=True, exclude_unset=True)
    separators = (",", ":") if indent is None else None
    return json.dumps(document, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)


_HINT_PRODUCER = "give the file that `kvplan simulate -o result.json` wrote"


def _schema_hint(schema: object) -> str:
    if isinstance(schema, str) and schema.startswith("kvplan.result/"):
        return f"this kvplan reads {SCHEMA}; use the version of kvplan that wrote the file, or run it again"
    return _HINT_PRODUCER


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; a missing number is null")


def _json_kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _raise(exc: ValidationError, where: str | None) -> NoReturn:
    problems = exc.errors(include_url=False)
    first = problems[0]
    path = key_path(first["loc"])
    message = f"{path or 'result'}: {_message(first)}"
    if len(problems) > 1:
        message += f" (and {len(problems) - 1} more problem{'s' if len(problems) > 2 else ''})"
    hint = None
    if first["type"] == "extra_forbidden":
        near = near_names(str(first["loc"][-1]), _sibling_names(first["loc"][:-1]))
        hint = f"did you mean {', '.join(near)}?" if near else f"{SCHEMA} has no such key"
    raise DataError(message, where=where, hint=hint) from exc


def key_path(location: Iterable[int | str]) -> str:
    """``('series', 't_s', 3)`` -> ``'series.t_s[3]'``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _message(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "missing":
        return "missing"
    if problem["type"] == "extra_forbidden":
        return "unknown key"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = problem.get("input")
    if isinstance(shown, (str, int, float, bool)) or shown is None:
        text = repr(shown) if not isinstance(shown, (bool, type(None))) else json.dumps(shown)
        message += f", found {text[:60]}"
    return message


def _sibling_names(location: Iterable[int | str]) -> list[str]:
    """The keys a closed object at ``location`` may have."""
    part: Any = Result
    for step in location:
        if isinstance(step, int):
            continue
        field = next((f for n, f in part.model_fields.items() if step in (n, f.alias)), None)
        part = _part_of(field.annotation) if field is not None else None
        if part is None:
            return []
    return [field.alias or name for name, field in part.model_fields.items()]


def _part_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, _Part):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _part_of(argument)) is not None:
            return found
    return None
