"""Which of several measured kernels a step runs: its engine's own, the newest, the fastest source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kvplan.latency.attention_shapes import decode_shapes, prefill_shapes
from kvplan.latency.attention_work import Attention
from kvplan.latency.table_formats import canonical

if TYPE_CHECKING:
    from kvplan.latency.fit.kernel import FittedKernel
    from kvplan.latency.fit.profile_file import KernelPart

_MESSAGES = (16e3, 256e3, 16e6)
"""Bytes that ranks sum: of few tokens, of many, of a long chunk."""
_BATCHES, _CONTEXTS, _CHUNKS = (1.0, 16.0, 128.0), (1024.0, 8192.0), (512.0, 2048.0, 8192.0)
"""What an engine does most: sequences and tokens at which kernels are compared."""


def version_key(version: str) -> list[tuple[int, str]]:
    """What versions sort by: 0.9 before 0.10, a release candidate before its release."""
    parts = re.findall(r"\d+|[a-z]+", version.lower())
    return [(int(part), "") if part.isdigit() else (-2, part) for part in parts] + [(-1, "")]


def newest(parts: Sequence[KernelPart]) -> list[int]:
    """Indices of the kernels to use: of those that differ in the engine's version alone, the newest."""
    best: dict[tuple[object, ...], int] = {}
    for index, part in enumerate(parts):
        engine, _, version = part.measured_with.rpartition(" ")
        key = (part.op, engine, *sorted(part.labels.items()))
        if key not in best or version_key(version) > _version(parts[best[key]]):
            best[key] = index
    return sorted(best.values())


def of_engine(parts: Sequence[KernelPart], indices: Sequence[int], engine: str | None) -> list[int]:
    """The indices without what another engine measured, where ``engine`` has a kernel for the same.

    The same is an op in the same formats with heads of one size, whatever the kernel is called. None: all.
    """
    own = {
        _purpose(parts[index]) for index in indices
        if engine is not None and _engine(parts[index]) == engine.lower()
    }  # fmt: skip
    return [
        index for index in indices
        if _purpose(parts[index]) not in own or engine is None or _engine(parts[index]) == engine.lower()
    ]  # fmt: skip


def _engine(part: KernelPart) -> str:
    return part.measured_with.rpartition(" ")[0].lower()


def _purpose(part: KernelPart) -> tuple[object, ...]:
    named = ((label, canonical(text)) for label, text in part.labels.items() if label != "kernel_source")
    return (part.op, *sorted(named))


def _version(part: KernelPart) -> list[tuple[int, str]]:
    return version_key(part.measured_with.rpartition(" ")[2])


def fastest(kernels: Mapping[str, FittedKernel], op: str, item: Attention) -> str:
    """The name of the kernel whose geometric mean time at typical sizes of this attention is least."""
    import numpy as np

    if op in ("context_attention", "mla_context", "mla_context_module"):
        new = np.array(_CHUNKS)
        shapes = prefill_shapes(item, new, np.zeros(new.size))
    else:
        shapes = decode_shapes(item, *np.meshgrid(_BATCHES, _CONTEXTS, indexing="ij"))
    means = {name: float(np.mean(np.log(kernel.seconds(shapes)))) for name, kernel in kernels.items()}
    return min(sorted(means), key=lambda name: means[name])


def fastest_sum(kernels: Sequence[FittedKernel]) -> FittedKernel | None:
    """The all-reduce whose geometric mean time over messages of a step is least."""
    import numpy as np

    size = np.array(_MESSAGES)
    shapes = {"ranks": np.full(size.size, 4.0), "bytes": size}
    return min(kernels, key=lambda kernel: float(np.mean(np.log(kernel.seconds(shapes)))), default=None)
