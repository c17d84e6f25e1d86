"""A matrix of a layer in a profile: the fastest of the kernels timed for its format, or what stands in.

Tables time a kernel over a range of rows, and engines pick one by the number of tokens: only a kernel that
was timed with so many counts. Fewer tokens than any was timed with are padded to its fewest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.latency.kernel_notes import KernelNotes
from kvplan.latency.kernel_set import KernelSet
from kvplan.latency.measured_set import MATMUL_SPREAD
from kvplan.latency.work import Linear

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


def linear_seconds(kernels: KernelSet, item: Linear, tokens: Array, notes: KernelNotes) -> Array:
    """Seconds of one such matrix at each number of tokens; notes what is known of the kernels' errors.

    Raises:
        SpecError: nothing was measured that could stand in for its format.
    """
    import numpy as np

    shapes = {
        "m": tokens,
        "n": np.full(tokens.size, float(item.outputs)),
        "k": np.full(tokens.size, float(item.inputs)),
    }
    best = None
    found = kernels.gemms(item.format)
    if not found:
        rates = kernels.stand_in(item.format)
        notes.spreads("linear", MATMUL_SPREAD)
        notes.outside.append(f"multiplication with {item.format.name} weights")
        compute = 2.0 * tokens * item.outputs * item.inputs / rates.flops
        memory = item.weight_bytes / rates.bandwidth_bytes_per_s
        return np.asarray(rates.launch_s + np.maximum(compute, memory))
    for kernel in found:
        guess = kernel.predict(shapes)
        # Where a kernel was not timed another one takes over: engines pick by the number of tokens.
        usable = (tokens >= kernel.low["m"]) & (tokens <= kernel.high["m"])
        graphed = kernels.gemm_seconds(kernel, shapes, guess.seconds)
        seconds = np.where(usable, np.maximum(graphed, 1e-6), np.inf)
        width = np.log(guess.high / guess.seconds)
        typical = float(np.median(width))
        notes.used("linear", typical, kernels.error(kernel, typical))
        if kernel.octaves_outside({**shapes, "m": np.full(tokens.size, kernel.low["m"])}).max() > 1.0:
            notes.outside.append(f"a {item.outputs} x {item.inputs} matrix multiplication ({item.name})")
        best = seconds if best is None else np.minimum(best, seconds)
    assert best is not None
    if not np.all(np.isfinite(best)):
        # Fewer tokens than any kernel was timed with are padded to its fewest.
        first = int(np.flatnonzero(np.isfinite(best))[0])
        best[:first] = best[first]
    if not np.all(np.isfinite(best)):
        last = int(np.flatnonzero(np.isfinite(best))[-1])
        best[last + 1 :] = best[last] * tokens[last + 1 :] / tokens[last]
    return np.asarray(best)
