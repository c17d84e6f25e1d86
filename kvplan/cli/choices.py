"""What a plan or a sweep chooses from: axes out of ``--gpu``, ``--tp``, ``--vary``, ``--set``, the scenario.

What one of them would silently win over another is refused: the table would be of something else than asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.scenario.axes import Axis
    from kvplan.specs.document import YamlDocument

DEFAULT_TP = "1,2,4,8"
"""Tensor parallelism within a server."""

GPU, TP = "gpu", "parallel.tp"


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
    from kvplan.scenario.load import parse_assignment
    from kvplan.scenario.plannable import check_size, says

    others = [parse_axis(text) for text in varied]
    keys = [axis.key for axis in others]
    assigned = [parse_assignment(text) for text in assignments]
    for key, value in assigned:
        check_size(key, value, "--set")
    said = {
        field: next((key for key, value in assigned if says(key, value, field)), None) for field in (GPU, TP)
    }
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
        given = gpu if gpu is not None else dict(assigned).get(GPU) or document.data.get(GPU)
        if not isinstance(given, str) or not given.strip():
            raise UsageError(
                "nothing says which GPUs to choose from", hint="say for example --gpu h100-sxm,l40s"
            )
        axes.append(parse_axis(f"{GPU}={given}"))
    fixed = said[TP] is not None or _has(document.data.get("parallel"), "tp")
    if tp is not None or not (fixed or TP in keys):
        axes.append(parse_axis(f"{TP}={DEFAULT_TP if tp is None else tp}"))
    return [*axes, *others]


def check_rivals(
    varied: Sequence[tuple[str, str, Sequence[object]]],
    flags: Mapping[str, object],
    assignments: Sequence[str],
) -> None:
    """Refuse what is varied and set besides: one of the two would silently win.

    Args:
        varied: option as it is written, its field, and the values it takes.
        flags: field to what an option says of it, None where it is not given.

    Raises:
        UsageError: naming both.
    """
    from kvplan.errors import UsageError
    from kvplan.scenario.load import parse_assignment
    from kvplan.scenario.plannable import says

    given = [(f"--set {key}", key, value) for key, value in map(parse_assignment, assignments)]
    given += [(f"the option for {key}", key, value) for key, value in flags.items() if value is not None]
    for option, field, values in varied:
        for rival, key, value in given:
            if says(key, value, field) or any(says(field, item, key) for item in values):
                raise UsageError(f"{option} and {rival} set the same field", hint="give one")


def _has(part: object, name: str) -> bool:
    return isinstance(part, Mapping) and part.get(name) is not None
