"""What a plan can be made of: checked before anything is simulated, as a simulation takes its time."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvplan.errors import UnknownName, UsageError
from kvplan.scenario.axes import Axis
from kvplan.scenario.rent import rent_of
from kvplan.scenario.schema import Scenario
from kvplan.scenario.sizes import SIZES
from kvplan.specs.catalog import load_gpu
from kvplan.specs.resolve import resolve_model

COMPARED_UNDER = ("workload", "slo", "price", "latency", "accuracy", "seed")
"""Parts of the scenario that ask something of a deployment, or measure it, and are none of its choices."""


def says(key: str, value: Any, field: str) -> bool:
    """Whether setting ``key`` to a value sets the field: itself, or within its part."""
    if key == field:
        return True
    if not field.startswith(f"{key}."):
        return False
    for name in field[len(key) + 1 :].split("."):
        if not isinstance(value, Mapping):
            return False
        value = value.get(name)
    return value is not None


def check_size(key: str, value: Any, option: str) -> None:
    """Refuse a size of a pool.

    Raises:
        UsageError: it is what a plan seeks.
    """
    for field in SIZES:
        if says(key, value, field):
            pool = field.split(".")[-2]
            what = "replicas" if pool == "parallel" else f"{pool} instances"
            raise UsageError(
                f"a plan seeks the number of {what} itself", where=f"{option} {key}",
                hint=f"leave {field} out; --most-gpus bounds it",
            )  # fmt: skip


def without_sizes(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A scenario file's fields without the sizes that a plan seeks, and the names of those it had.

    They are the file's own for a simulation, so they are no error; beside pools of prefill and decode
    instances a number of replicas would be one.
    """
    kept, had = copy.deepcopy(dict(data)), []
    for field in SIZES:
        *parts, last = field.split(".")
        part: Any = kept
        for name in parts:
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict) and part.pop(last, None) is not None:
            had.append(field)
    return kept, had


def check_fields(varied: Sequence[Axis]) -> None:
    """Fields that candidates may differ in.

    Raises:
        UsageError: the size of a pool, which is sought; what candidates are compared under: the cheapest
            would be the one of which the least is asked.
    """
    for axis in varied:
        key = axis.key
        for value in axis.values:
            check_size(key, value, "--vary")
        if key.partition(".")[0] in COMPARED_UNDER:
            raise UsageError(
                "a plan compares deployments under the same workload, objectives, prices and clock",
                where=f"--vary {key}",
                hint="make one plan for each, with --set",
            )


def check_scenarios(known: Sequence[Scenario]) -> None:
    """Candidates that can be compared, of which all names are known.

    Raises:
        UsageError: no objective; a queue that turns requests away; a GPU twice, or without a price where
            others have one.
        UnknownName: no such GPU or model.
    """
    if not known[0].slo.limits:
        raise UsageError(
            "nothing says what is good enough: the cheapest deployment is one that meets every objective",
            where="slo", hint="say for example --set slo.ttft_p99_s=1 --set slo.tpot_p99_s=0.05",
        )  # fmt: skip
    if any(getattr(item.engine, "max_queued_requests", None) for item in known):
        raise UsageError(
            "a plan is sized so that all requests are served, and a limited queue turns some away instead",
            where="engine.max_queued_requests", hint="leave it out; objectives say how long a wait may be",
        )  # fmt: skip
    _check_gpus(known[0], dict.fromkeys(item.gpu for item in known if item.gpu is not None))
    for model in dict.fromkeys(item.model for item in known if item.model is not None):
        if model == "-":
            raise UsageError(
                "a plan reads its model once a simulation, and standard input can be read once",
                where="model", hint="save the model to a file",
            )  # fmt: skip
        resolve_model(model)


def _check_gpus(first: Scenario, called: Iterable[str]) -> None:
    names: dict[str, str] = {}
    for text in called:
        name = _own_name(text)
        if name in names:
            raise UsageError(
                f"{names[name]} and {text} are the same GPU", where="gpu", hint="give every GPU once"
            )
        names[name] = text
        rent_of(first.price, {name: 1})


def _own_name(called: str) -> str:
    try:
        return load_gpu(called).name
    except UnknownName as exc:
        exc.where = "gpu"
        raise
