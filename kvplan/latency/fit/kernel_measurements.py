"""Reading what the kernels' GPU script measured: ``kvplan.kernel-measurements/1``, one JSON object.

The script (``make gpu``, or ``python -m kvplan.kernels.benchmark -o FILE``) documents the file; this reader
trusts nothing in it. A row is refused, with its place, when a time is no positive finite number, when
quartiles are out of order, when sizes contradict each other, or when a key comes twice. A file is refused
whole when it is a dry run (its durations are made up), of another schema, or of kernels that computed wrong
results.

From ``make gpu`` to a profile in the repository
------------------------------------------------
1. ``make gpu`` on the machine with the GPU; call it again until it says ``complete yes``.
2. ``kvplan calibrate --from reports/local/gpu/measurements.json -o GPU-kvplan.json --name GPU-kvplan
   --source WHO --license L``, where GPU is the GPU's spec (``kvplan gpus``). Look at the registered hold-out:
   median at most 4 %, 90th percentile at most 12 %, the band covering 85 to 95 %.
3. Commit the profile as ``kvplan/latency/profiles/GPU-kvplan.json`` (a scenario finds it by that name) and
   the measurements, with what calibrate printed, in ``reports/kernels-GPU/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kvplan.errors import DataError
from kvplan.specs.json_document import read_json

SCHEMA = "kvplan.kernel-measurements/1"
MAX_BYTES = 32 << 20
MAX_ROWS = 20_000
HOLDOUT = "holdout"
"""The stage of rows that were registered before measuring, for scoring alone."""

Seconds = Annotated[float, Field(gt=0, le=3600)]
Size = Annotated[int, Field(ge=1, le=1 << 50)]
Amount = Annotated[int, Field(ge=0, le=1 << 62)]
Key = Annotated[str, Field(min_length=1, max_length=300)]
_ELEMENT_BYTES = (0.1, 4.5)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)


class Timed(_Part):
    """A row with a time: quartiles over repetitions, in seconds of one call."""

    key: Key
    median_s: Seconds
    p25_s: Seconds
    p75_s: Seconds
    least_s: Seconds

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.least_s <= self.p25_s <= self.median_s <= self.p75_s:
            raise ValueError("least_s <= p25_s <= median_s <= p75_s does not hold")
        return self


class Point(Timed):
    """One timed kernel call; sizes as the script's ``Point`` defines them."""

    stage: Annotated[str, Field(pattern=r"^[a-z_]{1,24}$")]
    op: Literal["decode", "append", "mla", "write", "mla_write"]
    format: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
    hq: Size
    hkv: Size
    d: Size
    batch: Size
    context: Size
    block_size: Size
    window: Amount = 0
    new_tokens: Size = 1
    ragged: Amount = 0
    repeat: Amount = 0
    kv_bytes: Size
    io_bytes: Size
    splits: Amount = 0

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.hq % self.hkv:
            raise ValueError("hq is no multiple of hkv")
        if self.op == "append" and self.context < self.new_tokens:
            raise ValueError("context counts the new tokens, so it cannot be smaller than new_tokens")
        low, high = _ELEMENT_BYTES
        if not self.ragged and not low <= self.element_bytes <= high:
            raise ValueError(f"kv_bytes is {self.element_bytes:.3g} bytes an element of this shape")
        return self

    @property
    def element_bytes(self) -> float:
        """Bytes of one cached element, scales included (MLA: one latent counts as K and V of half its
        width)."""
        if self.op in ("write", "mla_write"):
            seen = self.new_tokens
        else:
            seen = min(self.context, self.window) if self.window else self.context
        width = self.d if self.op in ("mla", "mla_write") else 2 * self.d
        return self.kv_bytes / (self.batch * seen * self.hkv * width)


class Ceiling(Timed):
    """What the machine itself did: copies, reads, matrix products, host copies, launches."""

    bytes: Size | None = None
    flops: Size | None = None
    tokens: Size | None = None
    features_in: Size | None = None
    features_out: Size | None = None
    direction: Literal["to_device", "to_host"] | None = None
    pinned: bool | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needs: tuple[str, ...] = ()
        if self.key.startswith("matmul_"):
            needs = ("flops", "tokens", "features_in", "features_out")
        elif self.key.startswith("host/"):
            needs = ("bytes", "direction", "pinned")
        elif self.key in ("copy", "read"):
            needs = ("bytes",)
        missing = [name for name in needs if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a row {self.key!r} needs {', '.join(missing)}")
        return self


class _Check(_Part):
    key: Key
    ok: bool
    message: str | None = None


class _Failure(_Part):
    key: Key
    message: str = ""


class _Environment(_Part):
    device: Annotated[str, Field(min_length=1, max_length=200)]
    kernels: Annotated[str, Field(min_length=1, max_length=200)]
    dry_run: bool
    l2_bytes: Amount = 0
    multiprocessors: Size | None = None


class KernelMeasurements(_Part):
    """A whole, checked file."""

    schema_: Literal["kvplan.kernel-measurements/1"] = Field(alias="schema")
    environment: _Environment
    complete: bool
    correctness: Annotated[tuple[_Check, ...], Field(max_length=MAX_ROWS, strict=False)]
    ceilings: Annotated[tuple[Ceiling, ...], Field(max_length=MAX_ROWS, strict=False)]
    points: Annotated[tuple[Point, ...], Field(max_length=MAX_ROWS, strict=False)]
    failures: Annotated[tuple[_Failure, ...], Field(max_length=MAX_ROWS, strict=False)]
    facts: dict[str, str] = {}

    def ceiling(self, key: str) -> Ceiling | None:
        """The ceiling with this key."""
        return next((row for row in self.ceilings if row.key == key), None)


def is_kernel_measurements(path: Path) -> bool:
    """Whether a file is JSON, which no table of measurements is."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def read_kernel_measurements(path: Path) -> KernelMeasurements:
    """Read and check a measurement file.

    Raises:
        OSError: it cannot be read. DataError: it cannot be used; ``where`` names the file and the row.
    """
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"a measurement file has at most {MAX_BYTES >> 20} MiB", where=str(path))
    body = read_json(path, MAX_BYTES)
    schema = body.get("schema")
    if schema != SCHEMA:
        raise DataError(
            f"not kernel measurements that kvplan reads (schema {str(schema)[:60]!r}, not {SCHEMA!r})",
            where=str(path),
            hint="measure with python -m kvplan.kernels.benchmark of the same kvplan",
        )
    environment = body.get("environment")
    if isinstance(environment, dict) and environment.get("dry_run") is True:
        raise DataError(
            "this is a dry run: its durations are made up", where=f"{path}: environment.dry_run",
            hint="measure on a GPU: make gpu",
        )  # fmt: skip
    try:
        read = KernelMeasurements.model_validate(
            {**body, "facts": _facts(environment)}, context={"path": str(path)}
        )
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        raise DataError(
            f"unusable measurement: {first['msg']} ({exc.error_count()} such places)",
            where=f"{path}: {_place(first['loc'], body)}",
            hint="measure again: delete the rows, and the script measures them anew",
        ) from exc
    _check_keys(read, path)
    wrong = [row for row in read.correctness if not row.ok]
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(read.correctness)} correctness checks failed on this GPU, "
            f"the first is {wrong[0].key!r}: times of wrong kernels are worth nothing",
            where=f"{path}: correctness",
        )
    return read


def _check_keys(read: KernelMeasurements, path: Path) -> None:
    for section in ("ceilings", "points"):
        seen: set[str] = set()
        for index, row in enumerate(getattr(read, section)):
            if row.key in seen:
                raise DataError(f"the key {row.key!r} comes twice", where=f"{path}: {section}[{index}]")
            seen.add(row.key)


def _place(where: tuple[int | str, ...], body: Any) -> str:
    """``points[12].median_s (decode of bf16...)``: the place, and the row's own name."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    if len(where) >= 2 and isinstance(where[1], int):
        row = body[where[0]][where[1]]
        if isinstance(row, dict) and isinstance(row.get("key"), str):
            text += f" ({row['key'][:120]})"
    return text


def _facts(environment: Any) -> dict[str, str]:
    """The environment as short text, one level deep; bounded, for the profile's provenance."""
    if not isinstance(environment, dict):
        return {}
    flat: dict[str, str] = {}
    for name, value in environment.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for part, item in inner:
            if isinstance(item, (str, int, float)) and not isinstance(item, bool):
                flat[f"{name}.{part}".rstrip(".")[:60]] = str(item)[:120]
    return dict(list(flat.items())[:60])
