"""Layers of routed experts in a profile: as they were timed, or estimated from plain multiplications.

Timed::

    t = choosing + least of the kernels whose range is nearest (cold)

at the assignments and touched experts of the rank that has the most (``kvplan.latency.routing``), whatever
distribution the table was timed with. Tables call a kernel again and again, so small experts lie in L2; an
engine's weights come from memory, which the formula tells apart (``cold``). Estimated: the formula of
``kvplan.latency.grouped`` with the rates that plain multiplications of the same format reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.latency.grouped import CHOOSING_S, MOE_EFFICIENCY, SORTING_S, tiled_rows
from kvplan.latency.kernel_notes import KernelNotes
from kvplan.latency.kernel_set import KernelSet
from kvplan.latency.work import Experts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

OUTSIDE_OCTAVES = 1.0
"""Octaves beyond what was timed from which an expert counts as not measured."""


def expert_seconds(
    kernels: KernelSet,
    experts: Experts,
    tokens: Array,
    notes: KernelNotes,
) -> Array:
    """Seconds of all such layers at each number of tokens; notes what is known of the kernels' errors."""
    found = kernels.experts(experts.format)
    one = _timed(kernels, experts, tokens, notes) if found else None
    return experts.layers * (_estimated(kernels, experts, tokens) if one is None else one)


def _timed(
    kernels: KernelSet,
    experts: Experts,
    tokens: Array,
    notes: KernelNotes,
) -> Array:
    import numpy as np

    shapes = expert_shapes(experts, tokens)
    beyond, seconds = [], []
    for kernel in kernels.experts(experts.format):
        guess = kernel.predict(shapes)
        seconds.append(guess.seconds * kernels.cold_factor(kernel, shapes))
        beyond.append(guess.outside)
        typical = float(np.median(np.log(guess.high / guess.seconds)))
        notes.used("linear", typical, kernels.error(kernel, typical))
    least = np.min(beyond, axis=0)
    if float(np.median(least)) > OUTSIDE_OCTAVES:
        notes.outside.append(f"experts of {experts.width} x {experts.inner}")
    near = np.array(beyond) <= least + 1e-9
    return np.asarray(CHOOSING_S + np.min(np.where(near, seconds, np.inf), axis=0))


def expert_shapes(experts: Experts, tokens: Array) -> dict[str, Array]:
    """One rank's experts as the columns of fitted kernels.

    Those are gated; an expert that is not counts as a narrower one with as many weights.
    """
    import numpy as np

    touched = np.maximum(experts.routing.most_touched(tokens), 1.0)
    width = experts.width if experts.gated else experts.width * 2.0 / 3.0
    return {
        "assignments": np.maximum(experts.routing.heaviest(tokens), touched),
        "touched": touched,
        "held": np.full(tokens.size, float(experts.routing.held)),
        "hidden": np.full(tokens.size, float(experts.inner)),
        "inter": np.full(tokens.size, float(width)),
    }


def _estimated(kernels: KernelSet, experts: Experts, tokens: Array) -> Array:
    """Bound by the weights touched or by the tensor cores, at the rates of plain multiplications."""
    import numpy as np

    best = np.full(tokens.size, np.inf)
    touched, assignments = experts.routing.most_touched(tokens), experts.routing.heaviest(tokens)
    rows = np.array([tiled_rows(*pair) for pair in zip(assignments.tolist(), touched.tolist(), strict=True)])
    work = rows * experts.flops_per_assignment
    around = SORTING_S + assignments * experts.assignment_bytes / kernels.bandwidth_bytes_per_s()
    for rates in kernels.expert_rates(experts.format):
        memory = touched * experts.expert_bytes / rates.bandwidth_bytes_per_s
        compute = work / (rates.flops * MOE_EFFICIENCY)
        best = np.minimum(best, 2.0 * rates.launch_s + np.maximum(memory, compute))
    return np.asarray(around + best)
