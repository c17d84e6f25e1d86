"""What a plan chooses from: axes out of ``--gpu``, ``--tp``, ``--vary``, ``--set`` and the scenario file.

What one of them would silently win over another is refused: the table would be of something else than asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvplan.scenario.axes import Axis
    from kvplan.specs.document import YamlDocument

DEFAULT_TP = "1,2,4,8"
"""Tensor parallelism within a server."""

GPU, TP, REPLICAS = "gpu", "parallel.tp", "parallel.replicas"


def choices(
    document: YamlDocument,
    *,
    gpu: str | None,
    tp: str | None,
    assignments: Sequence[str],
    varied: Sequence[str],
) -> list[Axis]:
    """The axes of GPUs and tensor parallelism, then what is varied besides.

    A tensor parallelism that the scenario says stays as it is, where no option lists others.

    Raises:
        UsageError: nothing says which GPUs; two options set the same field; a number of replicas is set.
    """
    from kvplan.errors import UsageError
    from kvplan.scenario.axes import parse_axis

    others = [parse_axis(text) for text in varied]
    keys = [axis.key for axis in others]
    said = {field: _set(assignments, field) for field in (GPU, TP, REPLICAS)}
    if said[REPLICAS] is not None:
        raise UsageError(
            "a plan seeks the number of replicas itself", where=f"--set {said[REPLICAS]}",
            hint="leave it out; --most-gpus bounds it",
        )  # fmt: skip
    for option, text, field in (("--gpu", gpu, GPU), ("--tp", tp, TP)):
        rivals = [
            (f"--set {said[field]}", said[field]),
            (f"--vary {field}", field if field in keys else None),
        ]
        for rival, known in rivals:
            if text is not None and known is not None:
                raise UsageError(f"{option} and {rival} set the same field", hint="give one")
        if text is not None and text.strip() and not all(part.strip() for part in text.split(",")):
            raise UsageError(f"{option} {text!r} has an empty value", hint="write it like a,b")
    axes = []
    if GPU not in keys:
        given = gpu if gpu is not None else _of(assignments, GPU) or document.data.get(GPU)
        if not isinstance(given, str) or not given.strip():
            raise UsageError(
                "nothing says which GPUs to choose from", hint="say for example --gpu h100-sxm,l40s"
            )
        axes.append(parse_axis(f"{GPU}={given}"))
    fixed = said[TP] is not None or _has(document.data.get("parallel"), "tp")
    if tp is not None or not (fixed or TP in keys):
        axes.append(parse_axis(f"{TP}={DEFAULT_TP if tp is None else tp}"))
    return [*axes, *others]


def _set(assignments: Sequence[str], field: str) -> str | None:
    """The key of a ``--set`` that says the field, itself or within its part."""
    from kvplan.scenario.load import parse_assignment

    part, _, name = field.rpartition(".")
    said = dict(map(parse_assignment, assignments))
    if field in said:
        return field
    return part if _has(said.get(part), name) else None


def _of(assignments: Sequence[str], field: str) -> Any:
    from kvplan.scenario.load import parse_assignment

    return dict(map(parse_assignment, assignments)).get(field)


def _has(part: object, name: str) -> bool:
    return isinstance(part, Mapping) and part.get(name) is not None
