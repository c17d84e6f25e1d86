"""``python -m tests.kernels.sass.bounds``: what compiled decodes can reach on an H100, as shares of its copy bandwidth.

Computed from machine code, not measured. Columns, each a bound by one thing alone: ``issue`` slots of the schedulers,
``units`` (the busiest of a scheduler's), ``shared`` memory (without operands of the matrix unit that it reads itself),
``waits`` (the loop run on a model of a multiprocessor with as many programs as it holds, memory answering after 800
cycles, with any bandwidth), and ``model``, the same with the copy bandwidth. ``flight``: KiB that programs of one
multiprocessor ask for ahead. ``tile``: microseconds of a tile of one program alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from kvplan.kernels.formats import get_format
from kvplan.kernels.shipped import Shipped, shipped
from tests.kernels.sass.cubin import Instruction, instructions, loop
from tests.kernels.sass.timeline import SCHEDULERS, Multiprocessor

COPY, CLOCK, MULTIPROCESSORS = 3.0e12, 1.755e9, 132
"""Bytes read and written in a second, cycles in a second under load, both of an H100 SXM."""
TURNS = 16
REGISTERS, SHARED, RESERVED = 65536, 228 << 10, 1 << 10
"""Of a multiprocessor; and shared memory that each program takes besides its own."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Shares of the copy bandwidth, 1 for all of it; see the module."""

    programs: int
    flight: float
    tile_s: float
    issue: float
    units: float
    shared: float
    waits: float
    model: float

    def row(self, name: str) -> str:
        """A line of the table."""
        shares = (self.issue, self.units, self.shared, self.waits, self.model)
        cells = "".join(f"{share:8.0%}" for share in shares)
        return f"{name:34s}{self.programs:5d}{self.flight:8.0f}{self.tile_s * 1e6:7.2f}{cells}"


def of(item: Shipped) -> Bounds:
    """Compile a decode for sm_90 and bound it."""
    from kvplan.kernels import aot

    kernel = aot.compile_variant(item.function(), item.variant, item.pointers, 90)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        code = instructions(aot._cuobjdump("-sass", str(file)))
    constants = item.variant.constants
    fmt = get_format(item.name.split("/")[1])
    read = fmt.bytes_per_token(1, constants.get("D", 576)) * constants["BN"]
    found = aot.analyse(kernel, item.elements, item.variant.warps)
    held = programs_held(found.registers, found.shared_bytes, item.variant.warps)
    return bound(loop(code), item.variant.warps, held, read)


def programs_held(registers: int, shared: int, warps: int) -> int:
    """Programs that fit on a multiprocessor."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    return min(by_registers, SHARED // (shared + RESERVED), 64 // warps)


def bound(body: list[Instruction], warps: int, programs: int, read: float) -> Bounds:
    """Bounds of a loop whose iterations read ``read`` bytes of memory each."""
    share = COPY / CLOCK / MULTIPROCESSORS
    due = read / share
    whole = Multiprocessor(body, warps, programs)
    busy: dict[str, float] = {}
    for needs in whole.uses:
        busy[needs.unit] = busy.get(needs.unit, 0.0) + needs.cycles * warps
    shared = busy.pop("shared", 0.0)
    busy.pop("none", None)
    ahead = sum(needs.bytes for needs in whole.uses) * warps
    alone = Multiprocessor(body, warps, 1).cycles(TURNS)
    capped = Multiprocessor(body, warps, programs, bandwidth=share, read=read)
    return Bounds(
        programs=programs,
        flight=programs * min(read, ahead or read) / 1024,
        tile_s=alone / CLOCK,
        issue=due * SCHEDULERS / (len(body) * warps),
        units=due * SCHEDULERS / max(busy.values(), default=1.0),
        shared=due / shared if shared else float("inf"),
        waits=due * programs / whole.cycles(TURNS),
        model=min(1.0, due * programs / capped.cycles(TURNS)),
    )


def main() -> int:
    """Print the table."""
    import triton

    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels.sass.bounds", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", nargs="*", default=["decode/*", "mla/*"], help="patterns of variants")
    options = parser.parse_args()
    print(f"sm_90, Triton {triton.__version__}: computed, not measured; shares of {COPY / 1e12:.1f} TB/s")
    print(f"{'':34s}{'each':>5s}{'flight':>8s}{'tile':>7s}" + "".join(
        f"{name:>8s}" for name in ("issue", "units", "shared", "waits", "model")))  # fmt: skip
    for item in shipped(90, triton.__version__):
        if any(fnmatch(item.name, pattern) for pattern in options.only):
            print(of(item).row(item.name), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
