"""Which GPU a log is of: what it names, and the memory that it says, which a name has to agree with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kvplan.errors import UnknownName
from kvplan.sizing.logs.account import Account
from kvplan.specs.catalog import entries, load_entry, load_gpu
from kvplan.specs.hardware import GpuSpec
from kvplan.units import format_bytes

GPUS = (None, "cuda", "rocm")
"""Devices whose memory is a GPU's that kvplan knows; vLLM calls AMD's ``cuda``, too."""

SAME_NAME = 0.10
"""How far the memory of a GPU of one name may be from its datasheet's: ECC takes a sixteenth."""

SAME_MEMORY = 0.005
"""Within which a log cannot tell GPUs by their memory: drivers differ by as much."""


@dataclass(frozen=True, slots=True)
class LoggedGpu:
    """A GPU and how it is known.

    Attributes:
        known_by: the option, the name in the log, the memory that it says there is, or how much of it was
            free before anything was loaded (there is no less).
        alike: others of the same memory, where that is all that is known.
        doubt: what the log says against its name, in words; ``None`` without any.
    """

    spec: GpuSpec
    known_by: Literal["option", "name", "memory", "free memory"]
    alike: tuple[str, ...] = ()
    doubt: str | None = None


def logged_gpu(log: Account, option: str | None = None) -> LoggedGpu | None:
    """The GPU meant, or named in the log, or the one whose memory is nearest to what the log says.

    A name that the memory contradicts is not believed: batch defaults follow the memory, and what is named
    may be the device of other lines, or one of which this is a part. Of several with the same memory the
    fastest is taken: slower ones are made of it for some markets.

    Returns:
        ``None`` where the log says neither, or runs on another device (a CPU, a TPU, ...).

    Raises:
        UnknownName: ``option`` is no GPU's name.
    """
    if option is not None:
        return LoggedGpu(load_gpu(option), "option")
    if log.device not in GPUS:
        return None
    named = _named(log.device_name)
    by_memory = _by_memory(log)
    if named is None or by_memory is None:
        return by_memory if named is None else LoggedGpu(named, "name")
    doubt = _doubt(log, named)
    if doubt is None:
        return LoggedGpu(named, "name")
    return LoggedGpu(by_memory.spec, by_memory.known_by, by_memory.alike, doubt)


def _named(name: str | None) -> GpuSpec | None:
    try:
        return None if name is None else load_gpu(name)
    except UnknownName:
        return None


def _by_memory(log: Account) -> LoggedGpu | None:
    specs = [load_entry(entry, GpuSpec) for entry in entries("gpu")]
    if log.total_bytes is not None:
        total = log.total_bytes
        known: Literal["memory", "free memory"] = "memory"
    elif log.free_bytes is not None:
        total, known = log.free_bytes, "free memory"
        specs = [spec for spec in specs if spec.usable_memory_bytes >= total] or specs
    else:
        return None
    if total <= 0:  # no engine's: a line that was damaged
        return None
    nearest = min(abs(spec.usable_memory_bytes - total) for spec in specs)
    width = SAME_MEMORY * total
    alike = [spec for spec in specs if abs(spec.usable_memory_bytes - total) <= nearest + width]
    found = min(alike, key=lambda spec: (_distance(spec, total, known), -_speed(spec), spec.name))
    return LoggedGpu(found, known, tuple(sorted(spec.name for spec in alike if spec is not found)))


def _distance(spec: GpuSpec, total: int, known: str) -> int:
    """How far the memory is from the total; of what was free it cannot be told."""
    return abs(spec.usable_memory_bytes - total) if known == "memory" else 0


def _speed(spec: GpuSpec) -> float:
    return max(spec.peak_flops.values())


def _doubt(log: Account, named: GpuSpec) -> str | None:
    """What memory a log says that a GPU of this name cannot have; ``None`` if it agrees."""
    has = named.usable_memory_bytes
    if log.total_bytes is not None:
        if abs(log.total_bytes - has) <= SAME_NAME * has:
            return None
        said = f"this one has {format_bytes(log.total_bytes)}"
        less = log.total_bytes < has
    elif log.free_bytes is not None and log.free_bytes > (1 + SAME_NAME) * has:
        said, less = f"{format_bytes(log.free_bytes)} were free on this one", False
    else:
        return None
    why = (
        "a part of one (MIG, a partition, a vGPU), or the lines of another server"
        if less
        else "its name is from the lines of another server"
    )
    return (
        f"files of tuned kernels name {log.device_name}, which has {format_bytes(has)}, but {said}: {why}; "
        "the memory is believed"
    )
