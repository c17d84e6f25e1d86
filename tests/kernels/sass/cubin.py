"""Machine code as ``cuobjdump -sass`` prints it, with the control bits of each instruction.

Since Volta an instruction has 128 bits, of which bits 105 to 121 tell the scheduler what to do: cycles to stall after
it, the counter that a result sets when it is there, the counter that sources set when they were read, and the counters
that must be clear before it goes (Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking",
section 2.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kvplan.kernels.aot import loop_span

NONE = 7
"""The number of no counter."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        address: in bytes. text: without its guard. stall: cycles before the warp's next one, 1 at least.
        sets, reads: counters (0 to 5, or ``NONE``) that its result and its sources set. waits: counters to be clear.
    """

    address: int
    text: str
    stall: int
    sets: int
    reads: int
    waits: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its operation, as ``LDGSTS.E.BYPASS.128``."""
        return self.text.split()[0]


def instructions(sass: str) -> list[Instruction]:
    """Every instruction of a kernel, in order."""
    found = re.findall(
        r"/\*([0-9a-f]{4,6})\*/\s+(.*?);\s*/\* 0x[0-9a-f]{16} \*/\s*/\* 0x([0-9a-f]{16}) \*/", sass
    )
    return [_decoded(int(address, 16), text.strip(), int(high, 16)) for address, text, high in found]


def _decoded(address: int, text: str, high: int) -> Instruction:
    mask = high >> 52 & 63
    return Instruction(
        address, re.sub(r"^@!?U?P\w+\s+", "", text), max(1, high >> 41 & 15), high >> 46 & 7, high >> 49 & 7,
        tuple(i for i in range(6) if mask >> i & 1),
    )  # fmt: skip


def loop(code: list[Instruction]) -> list[Instruction]:
    """The loop over tiles; [] without loops."""
    first, last = loop_span([(item.address, item.text) for item in code])
    return [item for item in code if first <= item.address <= last]
