"""What a layer of experts pays to bring tokens to its ranks and results back.

From the links, or as it was timed where a profile has the collectives of one node::

    gathered      gather(bytes of all tokens) + scatter(bytes of all tokens)
    dispatched    dispatch(rows of the heaviest rank) + combine(the same rows)

``DEEPEP`` has what DeepEP's kernels take on eight H100 (NVIDIA aiconfigurator's tables, vLLM 0.24): their
shortest calls, and shares of NVLink at large ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.latency.link import PER_BYTE, Dispatching, Exchange
from kvplan.latency.routing import GATHERED, HIGH_THROUGHPUT, LOW_LATENCY
from kvplan.latency.table_formats import canonical
from kvplan.latency.work import StepWork

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from kvplan.latency.fit.kernel import FittedKernel
    from kvplan.latency.kernel_set import KernelSet

    Array = npt.NDArray[np.float64]

DEEPEP = {
    HIGH_THROUGHPUT: (Dispatching(2.7e-4, 0.6), Dispatching(9.4e-5, 0.44)),
    LOW_LATENCY: (Dispatching(5.9e-5, 0.4), Dispatching(3.8e-5, 0.45)),
}
"""(to the experts, back)."""
_BACKENDS = {HIGH_THROUGHPUT: "deepep_ht", LOW_LATENCY: "deepep_ll"}
"""What tables call them."""


def linked(work: StepWork, exchange: Exchange) -> PER_BYTE:
    """(seconds of a layer, seconds per byte of ``Routing.copies``) from the links."""
    if work.expert_exchange == GATHERED:
        fixed, per_byte = exchange.gather(work.expert_ranks)
        return 2.0 * fixed, 2.0 * per_byte
    ways = [exchange.dispatch(work.expert_ranks, kernel) for kernel in DEEPEP[work.expert_exchange]]
    return sum(fixed for fixed, _ in ways), sum(per_byte for _, per_byte in ways)


def exchange_seconds(work: StepWork, exchange: Exchange, kernels: KernelSet, tokens: Array) -> Array:
    """Seconds of a layer at each number of tokens of all ranks: as timed, else from the links."""
    import numpy as np

    routing, row = work.experts[0].routing, float(work.hidden_size * work.activation_bytes)
    copies = np.asarray(routing.copies(work.expert_exchange, tokens))
    fixed, per_byte = linked(work, exchange)
    _, nodes = exchange.nodes(work.expert_ranks)
    found = measured(kernels, work.expert_exchange) if nodes == 1 else ()
    if not found:
        return np.asarray(fixed + per_byte * row * copies)
    ranks = np.full(tokens.size, float(work.expert_ranks))
    if work.expert_exchange == GATHERED:
        shapes = {"ranks": ranks, "bytes": copies * row}
    else:
        each = routing.routed if work.expert_exchange == LOW_LATENCY else routing.ranks_per_token()
        # Tables have ranks of equal shares: the rows of the heaviest are those of more tokens.
        shapes = {
            "ranks": ranks, "tokens": copies / each, "copies": each * (1.0 - 1.0 / ranks),
            "row_bytes": np.full(tokens.size, row),
        }  # fmt: skip
    return np.asarray(sum(kernel.seconds(shapes) for kernel in found))


def measured(kernels: KernelSet, way: str) -> tuple[FittedKernel, ...]:
    """What brings tokens to their experts and results back on one node; none where one was not timed."""
    found: list[FittedKernel | None]
    if way == GATHERED:
        found = [
            next((
                kernel for labels, kernel in kernels.timed(op)
                if canonical(labels.get("nccl_dtype", "half")) == "bfloat16"
            ), None)
            for op in ("all_gather", "reduce_scatter")
        ]  # fmt: skip
    else:
        found = [
            next((
                kernel for labels, kernel in kernels.timed("moe_a2a")
                if (labels["comm_backend"], labels["phase"]) == (_BACKENDS[way], phase)
                and labels.get("node_num", "1") == "1"
            ), None)
            for phase in ("dispatch", "combine")
        ]  # fmt: skip
    both = tuple(kernel for kernel in found if kernel is not None)
    return both if len(both) == len(found) else ()
