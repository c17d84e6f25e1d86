"""Ahead-of-time compilation without a GPU: registers, spills, load widths, instructions per cached element.

Triton compiles for any CUDA target and its wheel carries ``cuobjdump``, so the code that a GPU would run can be
judged on any machine. What this measures is an issue budget (how many instructions one cached element costs in
the hot loop), not a speed.

``python -m kvplan.kernels.aot --arch 90 [--json FILE]`` prints it for every shipped variant.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvplan.errors import EnvironmentLacks
from kvplan.kernels.variants import Variant

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

INTEGERS = {"window", "table_stride", "splits", "HQ", "HKV", "GQ", "tokens", "groups", "slots"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of one variant.

    Attributes:
        registers: per thread. stack_bytes: per thread; anything but 0 is a spill.
        shared_bytes: per program. loop: instructions of the hot loop; 0 when there is none.
        instructions_per_element: hot-loop thread instructions per cached K or V element; 0 without a loop.
        wide_loads: 128-bit global loads; narrow_loads: global loads of 8 or 16 bits, in the hot loop.
        tensor_cores: matrix instructions in the hot loop.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    loop: int
    instructions_per_element: float
    wide_loads: int
    narrow_loads: int
    tensor_cores: int


def compile_variant(function: Any, variant: Variant, pointers: dict[str, str], capability: int) -> Any:
    """Compile one variant for ``sm_<capability>``; returns Triton's compiled kernel.

    Args:
        pointers: Triton type of each pointer argument, such as ``*u8``.
    """
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {k: getattr(tl, v) if k == "CT" else v for k, v in variant.constants.items()}
    names = function.arg_names
    signature = {}
    for name in names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = pointers[name]
        else:
            signature[name] = "i32" if name in INTEGERS else "fp32"
    attributes: dict[tuple[int, ...], list[list[object]]] = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in pointers
    }
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=attributes,
    )
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    if variant.kernel.startswith("write"):
        options["enable_fp_fusion"] = False
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def analyse(kernel: Any, elements_per_tile: int, warps: int) -> Compiled:
    """Read registers, stack and the hot loop out of a compiled kernel.

    Args:
        elements_per_tile: K and V elements that one loop iteration consumes.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(file))
        code = _tool("cuobjdump", "-sass", str(file))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if not found:
        raise EnvironmentLacks(f"cuobjdump printed no resource usage: {usage[:200]!r}")
    body = hot_loop(code)
    ops = [re.sub(r"^@!?U?P\w+\s+", "", line) for line in body]
    return Compiled(
        registers=int(found[1]),
        stack_bytes=int(found[2]),
        shared_bytes=int(kernel.metadata.shared),
        loop=len(body),
        instructions_per_element=round(len(body) * 32 * warps / elements_per_tile, 3) if body else 0.0,
        wide_loads=sum(bool(re.match(r"(LDG|LDGSTS)\b.*\.128", op)) for op in ops),
        narrow_loads=sum(bool(re.match(r"LDG\b.*\.(U8|S8|U16|S16)", op)) for op in ops),
        tensor_cores=sum("MMA" in op.split()[0] for op in ops if op),
    )


def hot_loop(sass: str) -> list[str]:
    """Instructions of the loop with the most matrix instructions (the shortest such loop); [] without loops."""
    lines = [
        (int(address, 16), text.strip())
        for address, text in re.findall(r"^\s+/\*([0-9a-f]{4,6})\*/\s+(.*?);", sass, re.M)
    ]
    loops = []
    for address, text in lines:
        jump = re.search(r"BRA(?:\.\w+)*\s+(?:!?U?P\w+,\s*)?(?:`\(\S+\)\s*)?0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            loops.append([t for a, t in lines if int(jump[1], 16) <= a <= address])
    if not loops:
        return []
    return max(loops, key=lambda body: (sum("MMA" in t for t in body), -len(body)))


def _tool(name: str, *arguments: str) -> str:
    import triton

    place = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not place.exists():
        raise EnvironmentLacks(f"this triton carries no {name}", where=str(place))
    done = subprocess.run([str(place), *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
