"""How the options of reading a trace are said to users of ``kvplan trace`` and of ``kvplan simulate``."""

from __future__ import annotations

_OPTIONS = {"format": "--trace-format"}
"""Where ``kvplan trace`` calls an option otherwise than the scenario's ``workload`` does."""


def setting(field: str, value: object) -> str:
    """An option of ``kvplan trace`` and the scenario's field, with a value for both.

    To ``kvplan simulate`` ``--block-size`` means the cache's blocks, and most of the options it lacks.
    """
    option = _OPTIONS.get(field, f"--{field.replace('_', '-')}")
    if value is True:
        return f"trace: {option}; simulate: --set workload.{field}=true"
    # To the ladder, too, --block-size means the cache's blocks.
    ladder = f"; trace ladder: --trace-block {value}" if field == "block_size" else ""
    return f"trace: {option} {value}{ladder}; simulate: --set workload.{field}={value}"
