"""What the machine itself can do: copy, read, matrix products, host-device copies, launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from kvplan.kernels.bench.timer import EventTimer, Timer

MATMUL_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MATMUL_SHAPES = ((4096, 4096), (8192, 8192), (4096, 14336))
"""(input, output) features."""
LM_HEAD = (4096, 128256)
"""The widest product of a step: read whole for every step's few sampled tokens, so timed for those alone."""
LM_HEAD_TOKENS = MATMUL_TOKENS[:11]
RATES = ("copy", "read", "launch/graph")
"""What everything else is compared with."""


@dataclass(slots=True)
class Ceiling:
    """One measurement to make: what it moves or computes, how to run it, and whether a graph can hold it."""

    key: str
    fields: dict[str, Any]
    calls: Callable[[], list[Callable[[], object]]]
    eager: bool = False


def ceilings(device: str, tiny: bool) -> Iterator[Ceiling]:
    """Every ceiling; ``tiny`` shrinks sizes and leaves out what needs a GPU."""
    size = 1 << 12 if tiny else 4 << 30
    yield Ceiling("copy", {"bytes": 2 * size}, lambda: [_copy(size, device)])
    yield Ceiling("read", {"bytes": size}, lambda: [_read(size, device)])
    for features_in, features_out in ((64, 64),) if tiny else (*MATMUL_SHAPES, LM_HEAD):
        usual = LM_HEAD_TOKENS if (features_in, features_out) == LM_HEAD else MATMUL_TOKENS
        for tokens in MATMUL_TOKENS[:2] if tiny else usual:
            fields = {"tokens": tokens, "features_in": features_in, "features_out": features_out,
                      "flops": 2 * tokens * features_in * features_out}  # fmt: skip
            key = f"{tokens}x{features_in}x{features_out}"
            shape = (tokens, features_in, features_out)
            yield Ceiling(f"matmul_bf16/{key}", fields, lambda s=shape: _matmul(s, device))
            if not tiny and tokens % 16 == 0:
                yield Ceiling(f"matmul_fp8/{key}", fields, lambda s=shape: _matmul_fp8(s, device))
    yield Ceiling("launch/graph", {}, lambda: [_nothing(device)] * 32)
    if not tiny:
        yield Ceiling("launch/eager", {}, lambda: [_nothing(device)] * 32, eager=True)
        for size_mib in (1, 16, 256):
            for pinned in (True, False):
                for direction in ("to_device", "to_host"):
                    yield Ceiling(
                        f"host/{direction}/{'pinned' if pinned else 'pageable'}/{size_mib}MiB",
                        {"bytes": size_mib << 20, "direction": direction, "pinned": pinned},
                        lambda a=(size_mib << 20, pinned, direction): [_host_copy(*a, device)],
                        eager=True,
                    )


def timer_for(ceiling: Ceiling, timer: Timer) -> Timer:
    """Graphs where possible."""
    return EventTimer() if ceiling.eager else timer


def _copy(size: int, device: str) -> Callable[[], object]:
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _read(size: int, device: str) -> Callable[[], object]:
    from kvplan.kernels.gpu.stream import read

    x = torch.randint(-99, 99, (size // 4,), dtype=torch.int32, device=device)
    block, unroll = 1024, 8
    programs = -(-x.numel() // (block * unroll))
    out = torch.empty(programs, dtype=torch.int32, device=device)
    return lambda: read[(programs,)](x, out, x.numel(), BLOCK=block, UNROLL=unroll, num_warps=4)


def _matmul(shape: tuple[int, int, int], device: str) -> list[Callable[[], object]]:
    tokens, features_in, features_out = shape
    x = torch.randn(tokens, features_in, dtype=torch.bfloat16, device=device)
    weight = torch.randn(features_in * features_out, dtype=torch.bfloat16, device=device)
    # Weights larger than the L2 in turn: a decode step reads each layer's weights from memory.
    count = 4 if tokens <= 512 and weight.nbytes < 1 << 28 else 1
    copies = [weight.clone().reshape(features_out, features_in) for _ in range(count)]
    return [lambda w=w: torch.nn.functional.linear(x, w) for w in copies]


def _matmul_fp8(shape: tuple[int, int, int], device: str) -> list[Callable[[], object]]:
    tokens, features_in, features_out = shape
    one = torch.ones((), device=device)
    x = torch.randn(tokens, features_in, device=device).to(torch.float8_e4m3fn)
    weight = torch.randn(features_out, features_in, dtype=torch.bfloat16, device=device).to(
        torch.float8_e4m3fn
    )
    weights = [weight.clone() for _ in range(6 if tokens <= 512 and weight.nbytes < 1 << 28 else 1)]
    # Engines' kernels add up in the matrix unit's own accumulators too.
    options = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
    return [lambda w=w: torch._scaled_mm(x, w.t(), **options) for w in weights]  # noqa: SLF001 - its name


def _nothing(device: str) -> Callable[[], object]:
    from kvplan.kernels.gpu.stream import nothing

    x = torch.zeros(1, device=device)
    return lambda: nothing[(1,)](x, num_warps=1)


def _host_copy(size: int, pinned: bool, direction: str, device: str) -> Callable[[], object]:
    host = torch.randint(0, 255, (size,), dtype=torch.uint8)
    host = host.pin_memory() if pinned else host
    there = torch.empty(size, dtype=torch.uint8, device=device)
    if direction == "to_device":
        return lambda: there.copy_(host, non_blocking=pinned)
    return lambda: host.copy_(there, non_blocking=pinned)
