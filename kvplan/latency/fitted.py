"""The clock of a fitted engine: constants that ``kvplan calibrate --engine-log`` found on one deployment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvplan.errors import SpecError, UnknownName
from kvplan.specs.json_document import read_json

if TYPE_CHECKING:
    from kvplan.latency.clock import Target

SCHEMA = "kvplan.engine-fit/1"
MAX_BYTES = 1 << 20
CLOCKS = ("roofline", "profile")
MOST_CONSTANTS = 16
SEEN_SHARE = 0.8
"""What a run of the same deployment leaves, at loads like its own, of the bands of a clock that was never
held against it (assumed: on invented servers whose steps and front ends are of another form, bands so narrow
held nine in ten)."""
AROUND = 2.0
"""A run speaks of loads up to this many times below or above those it held (assumed)."""
WIDENING, WIDEST = 0.6, 1.5
"""How much bands widen with each further doubling of the load, and at most: on invented servers whose steps
grow otherwise with their requests, nine in ten lay within."""
LARGEST_LOG = 3.0
"""A member of an ensemble has no constant that is farther off than this, in e-folds."""


EXCHANGED = {"tp": "GPUs exchange", "pp": "stages hand over", "cp": "ranks exchange"}
"""What each kind of parallelism adds to a step that a run without it does not show."""


def read_fit(name: object) -> dict[str, Any]:
    """The fit file ``name``.

    Raises:
        SpecError: it is no such file.
        OSError: it cannot be read.
    """
    if not isinstance(name, str):
        raise SpecError(
            "the fitted clock needs the file that kvplan calibrate --engine-log wrote",
            where="latency.name", hint="latency: {model: fitted, name: fitted.json}",
        )  # fmt: skip
    path = Path(name)
    if path.stat().st_size > MAX_BYTES:
        raise SpecError(f"a fit of more than {MAX_BYTES >> 20} MiB is no fit", where=name)
    document = read_json(path, MAX_BYTES)
    schema = document.get("schema")
    if schema != SCHEMA:
        raise SpecError(
            f"this is no fit of a version kvplan reads (schema {schema!r}, not {SCHEMA!r})",
            where=name, hint="write one with kvplan calibrate --engine-log requests.csv --scenario s.yaml",
        )  # fmt: skip
    latency = document.get("latency")
    if not isinstance(latency, dict) or latency.get("model") not in CLOCKS:
        raise SpecError("the fit says no roofline or profile clock", where=f"{name}: latency.model")
    return document


def elsewhere(document: Mapping[str, Any], target: Target, where: str) -> list[str]:
    """What the run was of that this deployment is not, as warnings.

    Raises:
        SpecError: the file does not say its engine, or its degrees of parallelism.
    """
    found = []
    engine = document.get("engine")
    if engine not in ("vllm", "sglang"):
        raise SpecError("the fit does not say which engine served", where=f"{where}: engine")
    if target.serving is not None and engine != target.serving.kind:
        found.append(
            f"the constants were fitted to {engine}, not to {target.serving.kind}: what an engine takes a "
            "step and a request is its own; fit a run of this one"
        )
    if document.get("model") != target.model.name:
        found.append(
            f"the engine was fitted serving {document.get('model')}, not {target.model.name}: its overheads "
            "may differ"
        )
    parallel = document.get("parallel")
    for name, exchanged in EXCHANGED.items():
        degree = parallel.get(name) if isinstance(parallel, dict) else None
        if type(degree) is not int or degree < 1:
            raise SpecError(f"the fit says no {name} of 1 or more", where=f"{where}: parallel.{name}")
        if degree != (here := getattr(target.parallel, name)):
            found.append(
                f"the engine was fitted with {name} {degree}, not {here}: what its {exchanged} was not "
                "seen, or is part of other constants; fit a run of this deployment where it counts"
            )
    return found


def check_gpu(document: Mapping[str, Any], target: Target, where: str) -> None:
    """Refuse a fit of another GPU.

    Raises:
        SpecError: it is of another one; UnknownName: of one that is not known.
    """
    from kvplan.specs.catalog import load_gpu

    given = document.get("gpu")
    try:
        known = load_gpu(given).name if isinstance(given, str) else None
    except UnknownName:
        known = str(given)
    if known != target.gpu.name:
        raise SpecError(
            f"the engine was fitted on {known}, not on {target.gpu.name}",
            where=f"{where}: gpu", hint="fit a run on this GPU, or use {model: roofline}",
        )  # fmt: skip


def held_out_errors(document: Mapping[str, Any], where: str) -> dict[str, float]:
    """Largest held-out error of each metric, over all requests and in parts of the run, as a share.

    Raises:
        SpecError: the file does not say them as numbers.
    """
    held = document.get("held_out")
    after, parts = (held.get(name) if isinstance(held, dict) else None for name in ("after", "parts"))
    found: dict[str, float] = {}
    for metric in ("ttft", "tpot", "e2e"):
        errors = after.get(metric, {}) if isinstance(after, dict) else None
        part = parts.get(metric, 0.0) if isinstance(parts, dict) else 0.0
        values: list[Any] = list(errors.values()) if isinstance(errors, dict) else [None]
        if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in (*values, part)):
            raise SpecError("the held-out errors are no numbers", where=f"{where}: held_out.after.{metric}")
        found[metric] = max((abs(float(v)) for v in (*values, part)), default=0.0)
    # Where waiting takes over, errors of waiting and of decoding may cancel: elsewhere they will not.
    found["e2e"] = max(found["e2e"], found["tpot"])
    return found


def tail_s(document: Mapping[str, Any], where: str) -> float:
    """Seconds by which the run's 99th percentile of TTFT was longer than simulated; 0 where nobody says.

    Raises:
        SpecError: the file says no seconds.
    """
    found = document["held_out"].get("tail_s", 0.0)
    if type(found) not in (int, float) or not 0 <= found < math.inf:
        raise SpecError("no seconds", where=f"{where}: held_out.tail_s")
    return float(found)


@dataclass(frozen=True, slots=True)
class Seen:
    """What of its bands a clock fitted to a run leaves, and where.

    Args:
        low, high: requests in flight of the run, nine times in ten.
        share: of the bands that is left there.
        bands: whole; also those of the 99th percentile of TTFT there, of which a run has few requests.
    """

    low: float
    high: float
    share: float
    bands: Mapping[str, tuple[float, float]]

    def holds(self, in_flight: float) -> bool:
        """Whether the run speaks of such a load."""
        return self._apart(in_flight) <= AROUND

    def wider(self, in_flight: float) -> float:
        """How many times as wide as the whole bands those are of a load the run does not speak of."""
        return min(1.0 + WIDENING * math.log2(max(self._apart(in_flight) / AROUND, 1.0)), WIDEST)

    def _apart(self, in_flight: float) -> float:
        if not in_flight:
            return 1.0
        return max(in_flight / max(self.high, 1.0), self.low / in_flight, 1.0)


def seen_load(document: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """Requests in flight of the run, nine times in ten; None where the file does not say.

    Raises:
        SpecError: it is no range.
    """
    found = document.get("in_flight")
    return None if found is None else _range(found, "no range of requests", f"{where}: in_flight")


def _range(found: object, otherwise: str, where: str) -> tuple[float, float]:
    values: list[Any] = found if isinstance(found, list) else []
    if len(values) != 2 or not all(type(v) in (int, float) and 0 <= v < math.inf for v in values):
        raise SpecError(otherwise, where=where)
    low, high = values
    if low > high:
        raise SpecError(otherwise, where=where)
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Spread:
    """Clocks that agree with a run as well as the fitted one: log-normal around it.

    Args:
        names: of the constants that were fitted.
        factor: ``L`` with ``L L^T`` the covariance of their logarithms, a row a constant.
    """

    names: tuple[str, ...]
    factor: tuple[tuple[float, ...], ...]

    def drawn(self, values: Mapping[str, float], numbers: Sequence[float]) -> dict[str, float]:
        """The constants of one such clock, for as many standard normal ``numbers`` as there are names.

        Of ``values`` only; shares stay shares.
        """
        found = {}
        for name, row in zip(self.names, self.factor, strict=True):
            if name in values:
                log = math.fsum(a * b for a, b in zip(row, numbers, strict=True))
                drawn = values[name] * math.exp(max(min(log, LARGEST_LOG), -LARGEST_LOG))
                found[name] = min(drawn, 1.0) if name.endswith("_efficiency") else drawn
        return found


def spread_of(document: Mapping[str, Any], where: str) -> Spread:
    """How sure the fit is of its constants together; of none where the file does not say.

    Raises:
        SpecError: the file says something else.
    """
    found = document.get("spread", {"names": [], "factor": []})
    names: Any = found.get("names") if isinstance(found, dict) else None
    factor: Any = found.get("factor") if isinstance(found, dict) else None
    good = isinstance(names, list) and isinstance(factor, list)
    if not good or not len(names) == len(factor) <= MOST_CONSTANTS or not all(
        isinstance(name, str) and isinstance(row, list) and len(row) == len(names)
        and all(type(v) in (int, float) and math.isfinite(v) for v in row)
        for name, row in zip(names, factor, strict=True)
    ):  # fmt: skip
        raise SpecError("no square matrix with a name for each row", where=f"{where}: spread")
    return Spread(tuple(names), tuple(tuple(map(float, row)) for row in factor))


def client_range(document: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """Seconds between which the client's overhead was found; None where the file does not say.

    Raises:
        SpecError: it is no pair of seconds.
    """
    found = document.get("client_overhead_range_s")
    if found is None:
        return None
    return _range(found, "no range of seconds", f"{where}: client_overhead_range_s")
