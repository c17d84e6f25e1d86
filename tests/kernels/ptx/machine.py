"""Registers and control: one block of threads at a time, all threads in step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.kernels.ptx import tensor
from tests.kernels.ptx.arithmetic import UNSIGNED, bits_of, operation, seen, width
from tests.kernels.ptx.conversions import conversion
from tests.kernels.ptx.memory import Fault, GlobalMemory
from tests.kernels.ptx.shared import BASE, SharedMemory
from tests.kernels.ptx.source import Instruction, Kernel
from tests.kernels.ptx.traffic import Traffic

POISON = 0xFFF7DEADFFF7DEAD
"""What a register holds before it is written: a NaN of every width, and no address."""
Step = Callable[[], int | None]
MOST_STEPS = 3_000_000
SILENT = {"wgmma.fence.sync.aligned", "bar.warp.sync", "fence.acq_rel.gpu", "membar.gl", "griddepcontrol.wait",
          "griddepcontrol.launch_dependents"}  # fmt: skip


class Machine:
    """A kernel bound to memory and arguments; ``run`` executes one block.

    Args:
        arguments: the bits of each parameter, in order.
        shared_bytes: dynamic shared memory of a block.
        traffic: where accesses to shared memory are counted; ``None`` for nowhere.
    """

    def __init__(self, kernel: Kernel, memory: GlobalMemory, arguments: list[int], shared_bytes: int,
                 traffic: Traffic | None = None) -> None:  # fmt: skip
        self.kernel, self.memory, self.shared_bytes, self.traffic = kernel, memory, shared_bytes, traffic
        self.threads = kernel.threads
        self.arguments = dict(zip(kernel.parameters, arguments, strict=True))
        self.thread = np.arange(self.threads, dtype=np.uint32)
        self.warps = (self.thread // 32).astype(np.int16)
        self.everyone = np.ones(self.threads, dtype=bool)
        self.steps = [self._compiled(i) for i in kernel.code]
        self.executed = 0

    def run(self, block: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
        """Execute one block of the grid from the first instruction to ``ret``."""
        self.shared = SharedMemory(self.shared_bytes, self.traffic)
        self.special = {
            "%tid.x": self.thread, "%laneid": self.thread % np.uint32(32), "%warpid": self.thread // np.uint32(32),
            **{f"%ctaid.{axis}": self._all(n) for axis, n in zip("xyz", block, strict=True)},
            **{f"%nctaid.{axis}": self._all(n) for axis, n in zip("xyz", grid, strict=True)},
        }  # fmt: skip
        self.registers = {
            name: np.full(self.threads, POISON & (1 << bits) - 1, dtype=UNSIGNED[bits])
            if (bits := width(kind)) > 1
            else np.zeros(self.threads, dtype=bool)
            for name, kind in self.kernel.registers.items()
        }
        at, count, steps = 0, 0, self.steps
        while at >= 0:
            try:
                to = steps[at]()
            except Exception as error:
                error.add_note(f"block {block}, instruction {at}: {self.kernel.code[at].text[:200]}")
                raise
            at = at + 1 if to is None else to
            count += 1
            assert count < MOST_STEPS, "this kernel does not end"
        self.executed += count

    def _all(self, value: int) -> np.ndarray:
        return np.full(self.threads, value, dtype=np.uint32)

    # -- operands --------------------------------------------------------------------------------------------

    def _reader(self, operand: str | tuple[str, ...], bits: int) -> Callable[[], np.ndarray]:
        assert isinstance(operand, str)
        if operand.startswith("-%"):
            raise NotImplementedError(operand)
        if operand in self.kernel.registers:
            if bits == 1 or width(self.kernel.registers[operand]) == bits:
                return lambda: self.registers[operand]
            kind = UNSIGNED[bits]
            return lambda: self.registers[operand].astype(kind)
        if operand.startswith("%"):
            return lambda: self.special[operand]
        value = np.full(
            self.threads, _number(operand) & (1 << bits) - 1, dtype=bool if bits == 1 else UNSIGNED[bits]
        )
        return lambda: value

    def _address(self, operand: str | tuple[str, ...], bits: int) -> Callable[[], np.ndarray]:
        assert isinstance(operand, str), operand
        assert operand[0] == "[", operand
        base, _, offset = operand[1:-1].partition("+")
        read = self._reader(base, bits)
        by = np.array(int(offset or 0)).astype(UNSIGNED[bits])
        return lambda: read() + by

    def _set(self, name: str, value: np.ndarray, guard: np.ndarray | None) -> None:
        if name == "_":
            return
        held = self.registers[name]
        value = value if value.dtype == held.dtype else value.astype(held.dtype)
        self.registers[name] = value if guard is None else np.where(guard, value, held)

    def _guard(self, i: Instruction) -> Callable[[], np.ndarray | None]:
        if not i.guard:
            return lambda: None
        if i.negated:
            return lambda: ~self.registers[i.guard]
        return lambda: self.registers[i.guard]

    # -- instructions ----------------------------------------------------------------------------------------

    def _compiled(self, i: Instruction) -> Step:
        base = i.name.split(".")[0]
        if base in ("bra", "ret"):
            return self._branch(i)
        guard = self._guard(i)
        for make in (self._moves, self._memory, self._exchange, self._matrix):
            step = make(i, base, guard)
            if step is not None:
                return step
        found = operation(i.name) or conversion(i.name)
        if found is None:
            raise NotImplementedError(f"this machine does not know {i.text!r}")
        function, widths = found
        to, *sources = i.operands
        assert isinstance(to, str), i.text
        assert len(sources) == len(widths), i.text
        reads = [self._reader(o, bits) for o, bits in zip(sources, widths, strict=True)]

        def step() -> None:
            self._set(to, function(*(read() for read in reads)), guard())

        return step

    def _branch(self, i: Instruction) -> Step:
        target = -1 if i.name.startswith("ret") else self.kernel.labels[str(i.operands[0])]
        guard = self._guard(i)

        def step() -> int | None:
            taken = guard()
            if taken is None or bool(taken.all()):
                return target
            if bool(taken.any()):
                raise Fault("threads of a block part at a branch")
            return None

        return step

    def _moves(self, i: Instruction, base: str, guard: Callable[[], np.ndarray | None]) -> Step | None:
        if i.name.startswith("ld.param"):
            value = self.arguments[str(i.operands[1])[1:-1]]
            constant = np.full(self.threads, value, dtype=UNSIGNED[width(i.name.rpartition(".")[2])])
            return lambda: self._set(str(i.operands[0]), constant, guard())
        if base == "cvta" or i.name.startswith("mov."):
            to, source = i.operands
            bits = width(i.name.rpartition(".")[2])
            if isinstance(source, tuple):
                part = bits // len(source)
                parts = [self._reader(o, part) for o in source]
                return lambda: self._set(str(to), _joined([p() for p in parts], bits), guard())
            read = self._reader(source, bits)
            if isinstance(to, tuple):
                part = bits // len(to)

                def split() -> None:
                    whole = read()
                    for at, name in enumerate(to):
                        piece = (whole >> np.array(at * part).astype(whole.dtype)).astype(UNSIGNED[part])
                        self._set(name, piece, guard())

                return split
            return lambda: self._set(str(to), read(), guard())
        return None

    def _memory(self, i: Instruction, base: str, guard: Callable[[], np.ndarray | None]) -> Step | None:
        if base in ("ld", "st"):
            return self._transfer(i, base == "ld", guard)
        if i.name.startswith(("cp.async.ca.", "cp.async.cg.")):
            (to, source, count, *size) = i.operands
            shared, far = self._address(to, 32), self._address(source, 64)
            most = int(str(count), 0)
            given = self._reader(size[0], 32) if size else None

            def copy() -> None:
                mask = self._mask(guard)
                values = np.zeros((int(mask.sum()), most), dtype=np.uint8)
                wanted = given()[mask] if given else np.full(len(values), most)
                assert bool(np.isin(wanted, (0, most)).all()), "a copy of part of what it is for"
                there = wanted > 0
                asked = far()[mask][there]
                values[there] = self.memory.read(asked, most, most)
                if self.traffic:
                    self.traffic.read(asked, most, self.warps[mask][there])
                self.shared.copy(shared()[mask], values, self.warps[mask])

            return copy
        if base == "atom":
            return self._atomic(i, guard)
        return None

    def _transfer(self, i: Instruction, load: bool, guard: Callable[[], np.ndarray | None]) -> Step:
        suffixes = i.name.split(".")
        bits = width(suffixes[-1])
        at = i.operands[1 if load else 0]
        held = i.operands[0 if load else 1]
        names = held if isinstance(held, tuple) else (held,)
        count = bits // 8 * len(names)
        assert f"v{len(names)}" in suffixes or len(names) == 1, i.text
        near = "shared" in i.name
        assert near or "global" in suffixes, i.text
        address = self._address(at, 32 if near else 64)

        def fetch() -> None:
            mask = self._mask(guard)
            where = address()[mask]
            if near:
                found = self.shared.read(where, count, self.warps[mask])
            else:
                found = self.memory.read(where, count, count)
                if self.traffic:
                    self.traffic.read(where, count, self.warps[mask])
            values = np.ascontiguousarray(found).view(UNSIGNED[bits])
            for n, name in enumerate(names):
                whole = np.zeros(self.threads, dtype=UNSIGNED[bits])
                whole[mask] = values[:, n]
                self._set(name, whole, mask)

        reads = [] if load else [self._reader(name, bits) for name in names]

        def store() -> None:
            mask = self._mask(guard)
            where = address()[mask]
            values = np.stack([read()[mask] for read in reads], axis=1).view(np.uint8).reshape(-1, count)
            if near:
                self.shared.write(where, values, self.warps[mask])
            else:
                self.memory.write(where, values, count)

        return fetch if load else store

    def _atomic(self, i: Instruction, guard: Callable[[], np.ndarray | None]) -> Step:
        assert i.name.endswith(".add.u32"), i.text
        to, place, amount = i.operands
        address, added = self._address(place, 64), self._reader(amount, 32)

        def step() -> None:
            mask = self._mask(guard)
            found = np.zeros(self.threads, dtype=np.uint32)
            for thread in np.flatnonzero(mask):
                where = address()[thread : thread + 1]
                old = self.memory.read(where, 4, 4).view(np.uint32)[0]
                found[thread] = old[0]
                self.memory.write(where, (old + added()[thread]).view(np.uint8).reshape(1, 4), 4)
            self._set(str(to), found, mask)

        return step

    def _exchange(self, i: Instruction, base: str, guard: Callable[[], np.ndarray | None]) -> Step | None:
        if i.name.startswith(("bar.sync", "barrier.sync")):
            assert (i.operands, i.guard) == (("0",), ""), i.text
            return lambda: self.shared.barrier()
        if i.name in SILENT or i.name.startswith("fence.proxy.async"):
            return (lambda: None) if i.name in SILENT else (lambda: self.shared.fenced())
        if i.name.startswith("cp.async."):
            if i.name.endswith("commit_group"):
                return lambda: self.shared.commit()
            left = int(str(i.operands[0])) if i.operands else 0
            return lambda: self.shared.wait(left)
        if base == "shfl":
            return self._shuffle(i, guard)
        if base == "redux":
            to, source, _ = i.operands
            how, kind = i.name.split(".")[2:]
            read = self._reader(source, 32)
            reduce = {"max": np.max, "min": np.min, "add": np.sum}[how]

            def reduced() -> None:
                rows = seen(read(), kind).reshape(-1, 32)
                whole = np.repeat(reduce(rows, axis=1), 32)
                self._set(str(to), bits_of(whole, kind), guard())

            return reduced
        return None

    def _shuffle(self, i: Instruction, guard: Callable[[], np.ndarray | None]) -> Step:
        to, source, by, clamp, _ = i.operands
        assert isinstance(to, str), i.text
        assert _number(str(clamp)) == 31, i.text
        read, lanes = self._reader(source, 32), self._reader(by, 32)
        how = i.name.split(".")[2]
        lane = self.thread % np.uint32(32)

        def step() -> None:
            assert guard() is None
            amount = lanes()
            wanted = lane ^ amount if how == "bfly" else amount & np.uint32(31)
            assert how in ("bfly", "idx"), i.text
            self._set(to, read()[self.thread - lane + wanted], None)

        return step

    def _matrix(self, i: Instruction, base: str, guard: Callable[[], np.ndarray | None]) -> Step | None:
        if base in ("ldmatrix", "stmatrix"):
            load = base == "ldmatrix"
            address = self._address(i.operands[1 if load else 0], 32)
            names = i.operands[0 if load else 1]
            names = names if isinstance(names, tuple) else (names,)
            reads = [self._reader(name, 32) for name in names]

            def move() -> None:
                assert guard() is None
                if not load:
                    return tensor.store_tiles(
                        i.name, self.shared, address(), [r() for r in reads], self.warps
                    )
                for name, value in zip(
                    names, tensor.load_tiles(i.name, self.shared, address(), self.warps), strict=True
                ):
                    self._set(name, value, None)
                return None

            return move
        if base == "mma":
            to, *sources = i.operands
            reads = [[self._reader(name, 32) for name in source] for source in sources]

            def multiply() -> None:
                results = tensor.multiply(i.name, len(to), [[r() for r in group] for group in reads])
                for name, value in zip(to, results, strict=True):
                    self._set(name, value, None)

            return multiply
        if i.name.startswith("wgmma.mma"):
            return self._by_groups(i)
        if i.name.startswith("wgmma.commit"):
            return lambda: self.shared.commit_products()
        if i.name.startswith("wgmma.wait"):
            left = int(str(i.operands[0]))
            return lambda: self.shared.wait_products(left)
        return None

    def _by_groups(self, i: Instruction) -> Step:
        to, a, b, adds, *rest = i.operands
        first = [self._reader(n, 32) for n in a] if isinstance(a, tuple) else [self._reader(a, 64)]
        second, held = self._reader(b, 64), [self._reader(name, 32) for name in to]
        adding = self._reader(adds, 1)
        signs = [_number(str(o)) for o in rest]

        def step() -> None:
            whether = adding()
            assert bool(whether.all()) or not bool(whether.any()), "threads do not agree on adding"
            operands = [[r() for r in first], [second()]]
            results = tensor.multiply_group(
                i.name, self.shared, [r() for r in held], operands, [int(whether[0]), *signs]
            )
            for name, value in zip(to, results, strict=True):
                self._set(name, value, None)

        return step

    def _mask(self, guard: Callable[[], np.ndarray | None]) -> np.ndarray:
        mask = guard()
        return self.everyone if mask is None else mask


def _joined(parts: list[np.ndarray], bits: int) -> np.ndarray:
    kind = UNSIGNED[bits]
    whole = np.zeros(len(parts[0]), dtype=kind)
    for at, part in enumerate(parts):
        whole |= part.astype(kind) << kind(at * (bits // len(parts)))
    return whole


def _number(operand: str) -> int:
    if operand == "global_smem":
        return BASE
    if operand[:2] in ("0f", "0F", "0d", "0D"):
        return int(operand[2:], 16)
    if operand in ("true", "false"):
        return int(operand == "true")
    return int(operand.removesuffix("U"), 0)
