"""A device of this machine in the place of Triton's driver: launches compile for a GPU and run here.

Launches take the way they take on a GPU (which arguments become constants, what is known of their alignment, the
order of parameters), with tensors of the CPU.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.kernels.ptx.machine import Machine
from tests.kernels.ptx.memory import GlobalMemory
from tests.kernels.ptx.source import Kernel, read
from tests.kernels.ptx.traffic import Traffic

SHARED = {80: 163 << 10, 90: 227 << 10}
"""Shared memory that one block may have."""


class _Utilities:
    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED[self.capability], "multiprocessor_count": 4, "warpSize": 32}

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: int
    ) -> tuple[None, None, int, int, int]:
        return None, None, 0, 0, 1024


class Driver:
    """What Triton asks a driver for; one device.

    Attributes:
        launched: name and executed instructions of every launch.
        traffic: accesses to shared memory of all of them, where they are counted.
    """

    def __init__(self, capability: int, counting: bool = False) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)
        self.utils = _Utilities(capability)
        self.launched: list[tuple[str, int]] = []
        self.read: dict[str, Kernel] = {}
        self.order = random.Random(capability)
        self.traffic = Traffic() if counting else None

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        # Triton keeps what it compiled by device.
        return int(self.target.arch)

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def launcher_cls(self, source: Any, metadata: Any) -> None:
        """Launches go by ``launch``."""

    def launch(self, compiled: Any, grid: tuple[int, int, int], values: tuple[Any, ...]) -> None:
        """Run a compiled kernel block by block."""
        signature = compiled.src.signature
        names = [name for name in compiled.src.fn.arg_names if signature[name] != "constexpr"]
        given = dict(zip(compiled.src.fn.arg_names, values, strict=True))
        arguments = [_bits(given[name], signature[name]) for name in names]
        if compiled.hash not in self.read:
            self.read[compiled.hash] = read(compiled.asm["ptx"])
        kernel = self.read[compiled.hash]
        # Memory of its own that a kernel may ask for stands last; none here does.
        arguments += [0] * (len(kernel.parameters) - len(arguments))
        tensors = [v for name, v in given.items() if isinstance(v, torch.Tensor) and name in names]
        machine = Machine(kernel, GlobalMemory(tensors), arguments, compiled.metadata.shared, self.traffic)
        blocks = list(itertools.product(*map(range, grid)))
        # Blocks may run in any order, and whoever is last may have to combine what the others left.
        self.order.shuffle(blocks)
        for block in blocks:
            machine.run(block, grid)
        self.launched.append((compiled.name, machine.executed))


def _bits(value: Any, kind: str) -> int:
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    if kind == "fp32":
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(value) & (1 << int(kind[1:])) - 1


@contextmanager
def machine(capability: int, counting: bool = False) -> Iterator[Driver]:
    """Launches within run on this machine as on compute capability ``capability``.

    Args:
        counting: whether to count accesses to shared memory.
    """
    from triton.compiler.compiler import CompiledKernel
    from triton.runtime.driver import driver

    ours = Driver(capability, counting)
    run = CompiledKernel.run

    def launcher(compiled: Any) -> Any:
        def launch(x: int, y: int, z: int, stream: int, function: object, packed: object, metadata: object,
                   enter: object, leave: object, *values: Any) -> None:  # fmt: skip
            ours.launch(compiled, (x, y, z), values)

        return launch

    driver.set_active(ours)
    CompiledKernel.run = property(launcher)  # type: ignore[misc, assignment]
    try:
        yield ours
    finally:
        CompiledKernel.run = run  # type: ignore[method-assign]
        driver.set_active(None)
