"""Reading memory and doing nothing else: the ceiling of every kernel that mostly reads."""

# Triton compiles a subset of Python without star expressions; m, l and acc are the names of the literature.
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def read(X, OUT, n, BLOCK: tl.constexpr, UNROLL: tl.constexpr):
    """Each program sums UNROLL blocks of int32, strided by the grid; one store per program."""
    total = tl.zeros([BLOCK], tl.int32)
    base = tl.program_id(0).to(tl.int64) * BLOCK * UNROLL
    for i in tl.static_range(UNROLL):
        offset = base + i * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(X + offset, mask=offset < n, other=0)
    tl.store(OUT + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def nothing(X):
    """An empty launch."""
    tl.store(X + tl.program_id(0), tl.program_id(0).to(tl.float32), mask=tl.program_id(0) > 1000)
