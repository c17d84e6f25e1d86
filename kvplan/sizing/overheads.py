"""What an engine holds beside weights, activations and cache: runtime buffers, communication, CUDA graphs.

These are measured, not derived: constants with a physical meaning, fitted on start-ups of vLLM 0.19 on
H100 (8 configurations of two models) and checked against published logs of other versions and GPUs.

* **runtime**: what the process takes outside PyTorch once kernels are loaded (context growth, cuBLAS
  workspaces): 0.29 GiB, 0.20 before vLLM 0.12, where logs show 0.02 to 0.35.
* **collectives**: NCCL channels, the custom all-reduce and fused all-reduce workspaces appear with the first
  tensor-parallel step. On Hopper and later, whose switches reduce in flight, 1.76 GiB + 0.065 per doubling
  of ranks (two models, TP 2 and 4); 0.8 over other fabrics (A100, TP 8: 0.93 to 1.07 with the runtime);
  0.15 over PCIe or a bridge of two cards (RTX 3090, TP 16: 0.20 with the runtime). Pipeline stages exchange
  point to point and add nothing measurable.
* **CUDA graphs**: every captured graph keeps about 4 MiB and 0.105 MiB a layer. How many are captured is
  arithmetic (``captures``): piecewise graphs of all sizes, full graphs of those that ``max_num_seqs`` decodes
  fill, since 0.11. Measured on H100: 0.49 to 0.84 GiB for 102 graphs. They lie outside vLLM's budget
  before 0.20 and inside it since.
"""

from __future__ import annotations

import math

from kvplan.sizing.captures import WHOLE_STEPS, captured_tokens
from kvplan.sizing.serving import PLANS_GRAPHS, Serving
from kvplan.sizing.sglang.decode_graphs import decode_graphs
from kvplan.specs.schema import GpuSpec
from kvplan.units import GIB, MIB

RUNTIME_BYTES = round(0.293 * GIB)
RUNTIME_BYTES_BEFORE_0_12 = round(0.20 * GIB)
COLLECTIVES_BYTES = round(1.76 * GIB)
COLLECTIVES_BYTES_PER_DOUBLING = round(0.065 * GIB)
COLLECTIVES_BYTES_OLDER_FABRIC = round(0.8 * GIB)
COLLECTIVES_BYTES_NO_FABRIC = round(0.15 * GIB)
FABRIC_BYTES_PER_S = 100e9
IN_FLIGHT_REDUCTION = ("hopper", "blackwell")
GRAPH_BYTES = 4 * MIB
GRAPH_BYTES_PER_LAYER = round(0.105 * MIB)


def runtime_bytes(serving: Serving, gpu: GpuSpec, tp: int) -> int:
    """Memory outside PyTorch and outside the model: runtime plus collectives of ``tp`` ranks."""
    old = serving.kind == "vllm" and serving.version < (0, 12, 0)
    base = RUNTIME_BYTES_BEFORE_0_12 if old else RUNTIME_BYTES
    if tp == 1:
        return base
    if (gpu.interconnect.nvlink_bytes_per_s or 0) < FABRIC_BYTES_PER_S:
        return base + COLLECTIVES_BYTES_NO_FABRIC
    if gpu.architecture not in IN_FLIGHT_REDUCTION:
        return base + COLLECTIVES_BYTES_OLDER_FABRIC
    return base + COLLECTIVES_BYTES + round(COLLECTIVES_BYTES_PER_DOUBLING * math.log2(tp))


def capture_sizes(serving: Serving) -> tuple[int, int]:
    """(piecewise, full) graphs vLLM captures under these limits."""
    piecewise, full = captured_sizes(serving)
    return len(piecewise), len(full)


def captured_sizes(serving: Serving) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of the (piecewise, full) graphs an engine captures, rising.

    Of SGLang's those of whole decodes, which a sequence and its drafts have a token each in.
    """
    if not serving.cuda_graphs:
        return (), ()
    if serving.kind == "sglang":
        sequences = decode_graphs(
            serving.version, serving.graph_max_batch, serving.rank_seqs, drafts=serving.decode_tokens > 1
        )
        return (), tuple(size * serving.decode_tokens for size in sequences)
    piecewise = captured_tokens(
        serving.version, serving.graph_max_batch, serving.max_num_batched_tokens, serving.max_num_seqs,
        serving.decode_tokens,
    )  # fmt: skip
    if serving.version < WHOLE_STEPS:
        return piecewise, ()
    decodes = serving.max_num_seqs * serving.decode_tokens
    return piecewise, tuple(size for size in piecewise if size <= decodes)


def graph_bytes(serving: Serving, layers: int) -> int:
    """Memory of all captured CUDA graphs of a rank with ``layers`` layers."""
    return sum(capture_sizes(serving)) * (GRAPH_BYTES + GRAPH_BYTES_PER_LAYER * layers)


def graphs_in_budget(serving: Serving) -> bool:
    """Whether the engine takes the graphs out of the memory it plans with (vLLM since 0.20)."""
    return serving.kind == "vllm" and serving.version >= PLANS_GRAPHS
