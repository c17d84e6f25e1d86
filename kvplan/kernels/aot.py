"""Ahead-of-time compilation without a GPU: registers, spills, load widths, instructions per cached element.

Triton compiles for any CUDA target and its wheel carries ``cuobjdump``, so the code that a GPU would run can
be judged on any machine. What this measures is an issue budget (how many instructions one cached element
costs in the hot loop), not a speed.

``python -m kvplan.kernels.aot --lock FILE`` compares every shipped variant with its frozen budget.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from kvplan.errors import EnvironmentLacks
from kvplan.kernels.variants import Variant

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

T = TypeVar("T")
R = TypeVar("R")

INTEGERS = {"window", "table_stride", "splits", "blocks", "HQ", "HKV", "GQ", "tokens", "groups", "slots"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of one variant.

    Attributes:
        registers: per thread. stack_bytes: per thread; anything but 0 is a spill.
        shared_bytes: per program. loop: instructions of the hot loop; 0 when there is none.
        instructions_per_element: hot-loop thread instructions per cached K or V element (and eight query
            columns); 0 without a loop.
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
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=variant.options())


def analyse(kernel: Any, elements_per_tile: int, warps: int) -> Compiled:
    """Read registers, stack and the hot loop out of a compiled kernel.

    Args:
        elements_per_tile: K and V elements that one loop iteration consumes.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        usage = _cuobjdump("-res-usage", str(file))
        code = _cuobjdump("-sass", str(file))
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
    """Instructions of the loop over tiles (``loop_span``); [] without loops."""
    lines = [
        (int(address, 16), text.strip())
        for address, text in re.findall(r"^\s+/\*([0-9a-f]{4,6})\*/\s+(.*?);", sass, re.M)
    ]
    first, last = loop_span(lines)
    return [text for address, text in lines if first <= address <= last]


def loop_span(lines: list[tuple[int, str]]) -> tuple[int, int]:
    """Addresses of the first and last instruction of the loop with the most matrix instructions, of all
    instructions by address; (1, 0) without loops.

    Of several, the one that copies ahead into shared memory: those beside it, for masked tiles, do not. Then
    the shortest.
    """
    spans = []
    for address, text in lines:
        jump = re.search(r"BRA(?:\.\w+)*\s+(?:!?U?P\w+,\s*)?(?:`\(\S+\)\s*)?0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            spans.append((int(jump[1], 16), address))

    def rank(span: tuple[int, int]) -> tuple[int, bool, int]:
        body = [text for address, text in lines if span[0] <= address <= span[1]]
        return sum("MMA" in t for t in body), any("LDGSTS" in t for t in body), -len(body)

    return max(spans, key=rank, default=(1, 0))


def _cuobjdump(*arguments: str) -> str:
    import triton

    place = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not place.exists():
        raise EnvironmentLacks("this triton carries no cuobjdump", where=str(place))
    done = subprocess.run([str(place), *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def measure(capability: int, name: str) -> Compiled:
    """Compile and analyse one shipped variant by name."""
    import triton

    from kvplan.kernels.shipped import shipped

    item = next(s for s in shipped(capability, triton.__version__) if s.name == name)
    kernel = compile_variant(item.function(), item.variant, item.pointers, capability)
    found = analyse(kernel, item.elements or 1, item.variant.warps)
    return found if item.elements else replace(found, loop=0, instructions_per_element=0.0)


LAUNCHING = ("splits.py", "launch.py", "launch_mla.py")
"""Sources that decide nothing of what is compiled, but how long it takes."""


def fingerprint(also: tuple[str, ...] = ()) -> str:
    """Digest of everything that decides what is compiled: kernel sources and the choice of variants.

    Args:
        also: more files of this package; of ``LAUNCHING`` for what a measurement depends on.

    Taken over the syntax trees without docstrings, so that comments and layout do not count, and the same in
    every version of Python: it tells which kernels a GPU elsewhere was measured with.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256()
    chosen = [here / name for name in ("variants.py", "variants_mla.py", "shipped.py", *also)]
    for file in [*sorted((here / "gpu").glob("*.py")), *chosen]:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                node.body = node.body[1:]
        digest.update(file.name.encode() + b"\0" + syntax(tree).encode())
    return digest.hexdigest()


def syntax(node: Any) -> str:
    """A syntax tree as text, without fields that hold nothing: each version of Python adds such, and
    ``ast.dump`` prints them or not."""
    if isinstance(node, list):
        return f"[{', '.join(map(syntax, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    held = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return f"{type(node).__name__}({', '.join(f'{name}={syntax(value)}' for name, value in held)})"


def compare(name: str, found: Compiled, budget: dict[str, Any]) -> list[str]:
    """What is worse than the frozen budget allows: spills, +10 % registers or instructions, narrower
    loads."""
    worse = []
    if found.stack_bytes:
        worse.append(f"{name}: spills {found.stack_bytes} bytes a thread")
    for key in ("registers", "instructions_per_element"):
        value, frozen = getattr(found, key), budget[key]
        if value > frozen * 1.1:
            worse.append(f"{name}: {key} {value}, frozen at {frozen}")
    if found.loop and budget["wide_loads"] and not found.wide_loads:
        worse.append(f"{name}: the hot loop lost its 128-bit loads")
    return worse


def _one(job: tuple[int, str]) -> tuple[int, str, Compiled | str]:
    """The job and what it compiled to, or why this Triton cannot compile it."""
    try:
        return (*job, measure(*job))
    except RuntimeError as error:  # a pass of the compiler failed; its own words went to stderr
        return (*job, f"{type(error).__name__}: {error}")


def in_processes(jobs: int, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``function`` of each item, in their order, by so many processes; by this one if it is one."""
    if jobs == 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, items)


def main(arguments: list[str] | None = None) -> int:
    """``python -m kvplan.kernels.aot [--lock FILE] [--update] [--arch 90 ...] [--only TEXT ...] [--jobs
    N]``."""
    import triton

    from kvplan.kernels.shipped import shipped
    from kvplan.kernels.support import TESTED
    from kvplan.kernels.variants import release

    parser = argparse.ArgumentParser(prog="python -m kvplan.kernels.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--lock", type=Path, help="budget file to compare with")
    parser.add_argument(
        "--update", action="store_true", help="write the budget file instead; spills still fail"
    )
    parser.add_argument("--arch", type=int, nargs="*", default=list(TESTED))
    parser.add_argument(
        "--only", nargs="*", help="variant names, or patterns such as decode/* and sm_90/decode/int4"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)

    def wanted(arch: int, name: str) -> bool:
        names = name, f"sm_{arch}/{name}"
        return not options.only or any(fnmatch(text, pattern) for text in names for pattern in options.only)

    compiler = triton.__version__
    jobs = [(a, item.name) for a in options.arch for item in shipped(a, compiler) if wanted(a, item.name)]
    held = json.loads(options.lock.read_text()) if options.lock and options.lock.exists() else {}
    if held and not options.update and release(held["triton"]) != release(compiler):
        parser.error(f"{options.lock} was frozen with Triton {held['triton']}, this is {compiler}")
    budgets = held.get("variants", {})
    worse = []
    for arch, name, found in in_processes(options.jobs, _one, jobs):
        key = f"sm_{arch}/{name}"
        if isinstance(found, str):
            print(f"{key:42s} does not compile", flush=True)
            worse.append(f"{key}: Triton {compiler} does not compile it: {found}")
            continue
        numbers = f"regs {found.registers:3d} stack {found.stack_bytes:3d} loop {found.loop:4d}"
        per_element = f"instr/elem {found.instructions_per_element:6.3f} 128-bit {found.wide_loads}"
        print(f"{key:42s} {numbers} {per_element}", flush=True)
        if options.update:
            worse += [f"{key}: spills {found.stack_bytes} bytes"] if found.stack_bytes else []
            budgets[key] = asdict(found)
        elif options.lock and key in budgets:
            worse += compare(key, found, budgets[key])
        elif options.lock:
            worse.append(f"{key}: has no frozen budget; run with --update")
    if options.update and options.lock:
        names = {f"sm_{arch}/{item.name}" for arch in TESTED for item in shipped(arch, compiler)}
        body = {
            "triton": compiler,
            "fingerprint": fingerprint(),
            "variants": {name: budgets[name] for name in sorted(budgets) if name in names},
        }
        options.lock.write_text(json.dumps(body, indent=1) + "\n")
    for line in worse:
        print(f"error: {line}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
