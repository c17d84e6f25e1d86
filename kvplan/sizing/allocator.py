"""How PyTorch's CUDA caching allocator rounds tensors up: the difference between parameters and "took".

A tensor of at least 10 MiB gets a segment of its own, rounded up to 2 MiB. The rest of that segment goes
back to the pool only when it is larger than 1 MiB; otherwise the tensor keeps it. Smaller tensors are cut
from shared segments and round up to 512 B. (PyTorch, ``c10/cuda/CUDACachingAllocator``: ``kMinLargeAlloc``,
``kRoundLarge``, ``kSmallSize``, ``kMinBlockSize``.)

Engines report weights as memory *allocated*, so a model whose matrices end at odd half MiB (Qwen2.5-7B:
259.0, 129.5 and 31.5 MiB) takes 0.4 % more than its parameters; Llama's powers of two take none.
"""

from __future__ import annotations

from kvplan.units import MIB

_MIN_LARGE = 10 * MIB
_ROUND_LARGE = 2 * MIB
_KEEP_REST = MIB
_MIN_BLOCK = 512


def allocated_bytes(size: int) -> int:
    """Bytes the allocator counts as allocated for one tensor of ``size`` bytes."""
    if size <= 0:
        return 0
    if size < _MIN_LARGE:
        return -(-size // _MIN_BLOCK) * _MIN_BLOCK
    segment = -(-size // _ROUND_LARGE) * _ROUND_LARGE
    if segment - size <= _KEEP_REST:
        return segment
    return -(-size // _MIN_BLOCK) * _MIN_BLOCK
