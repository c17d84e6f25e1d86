"""The machine that runs compiled kernels (``tests.kernels.ptx``), and a sample of kernels on it.

Programs of a few instructions pin what each does and what is refused; the rest of the checks of the GPU script run
with ``make ptx``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="torch is not installed")

import torch

from tests.kernels.ptx import tensor
from tests.kernels.ptx.arithmetic import operation
from tests.kernels.ptx.conversions import conversion
from tests.kernels.ptx.machine import Machine
from tests.kernels.ptx.memory import Fault, GlobalMemory
from tests.kernels.ptx.shared import BASE, SharedMemory
from tests.kernels.ptx.source import read
from tests.kernels.ptx.traffic import Traffic

ROOT = Path(__file__).parents[2]
SAMPLE = {
    80: ["case/int4-decode-s2-g4-d128-p32", "write/int8"],
    90: ["case/bf16-decode-s2f-g6-d80-*", "case/fp8_e4m3-decode-s2-*", "case/int4-append-s2f-*", "case/mla_fp8-decode-s1-g20-*",
         "write/fp8_e4m3", "write/kivi2"],
}  # fmt: skip
"""Both architectures' matrix instructions, fused and staged reductions, and writers; compiled when it is run."""

HEAD = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry probe(
	.param .u64 .ptr .global .align 1 probe_param_0
)
.reqntid 64
{
	.reg .pred %p<9>;
	.reg .b16 %rs<9>;
	.reg .b32 %r<40>;
	.reg .b64 %rd<9>;
	ld.param.b64 %rd1, [probe_param_0];
	mov.u32 %r1, %tid.x;
	mad.wide.u32 %rd2, %r1, 4, %rd1;
	mov.b32 %r30, global_smem;
	shl.b32 %r31, %r1, 2;
	add.s32 %r32, %r30, %r31;
"""
"""64 threads; each has its own 4 bytes of the tensor at %rd2 and of shared memory at %r32."""


def run(body: str, values: torch.Tensor, shared: int = 4096) -> list[int]:
    """Execute a program on a tensor of 64 int32; what it holds then, as unsigned."""
    kernel = read(HEAD + body + "\n\tret;\n}")
    Machine(kernel, GlobalMemory([values]), [values.data_ptr()], shared).run((0, 0, 0), (1, 1, 1))
    return [v & 0xFFFFFFFF for v in values.tolist()]


def threads(start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + 64, dtype=torch.int32)


def apply(name: str, *operands: int, bits: int = 32) -> int:
    """One instruction on single numbers."""
    found = operation(name) or conversion(name)
    assert found
    kinds = {1: bool, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
    given = [np.array([o & (1 << w) - 1], dtype=kinds[w]) for o, w in zip(operands, found[1], strict=True)]
    return int(found[0](*given).astype(kinds[bits])[0])


def bits_of(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def test_a_program_loads_computes_and_stores():
    out = run(
        "ld.global.b32 {%r2}, [%rd2 + 0]; mad.lo.s32 %r3, %r2, 3, %r1; st.global.b32 [%rd2], {%r3};",
        threads(10),
    )
    assert out == [3 * (10 + i) + i for i in range(64)]


def test_guards_keep_what_was_there_and_loops_end():
    body = """
	mov.b32 %r2, 0;
	mov.b32 %r3, 0;
$again:
	setp.lt.s32 %p1, %r3, %r1;
	@%p1 add.s32 %r2, %r2, 1;
	add.s32 %r3, %r3, 1;
	setp.ne.b32 %p2, %r3, 70;
	@%p2 bra $again;
	st.global.b32 [%rd2], %r2;"""
    assert run(body, threads()) == list(range(64))


def test_threads_that_part_at_a_branch_are_refused():
    with pytest.raises(Fault, match="part at a branch"):
        run("setp.lt.s32 %p1, %r1, 7;\n@%p1 bra $end;\n$end: mov.b32 %r2, 0;", threads())


def test_registers_of_inline_assembly_are_its_own():
    body = """
	mov.b32 %r2, 5;
	{
	.reg .b32 a;
	add.u32 a, %r2, 1;
	{ .reg .b32 a; mov.b32 a, 100; add.u32 %r3, a, a; }
	add.u32 %r4, a, %r3;
	}
	st.global.b32 [%rd2], %r4;"""
    assert run(body, threads())[0] == 206


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ("add.s64 %rd3, %rd2, 4; ld.global.b32 %r2, [%rd3];", "out of bounds"),
        ("ld.global.v2.b32 {%r2, %r3}, [%rd2];", "misaligned"),
        ("st.global.b32 [%rd2 + -4], %r1;", "out of bounds"),
        ("ld.shared.b32 %r2, [%r32];", "never written"),
        ("add.s32 %r2, %r32, 2; st.shared.b32 [%r2], %r1;", "misaligned"),
        ("st.shared.b32 [%r32 + 4096], %r1;", "out of bounds"),
        ("st.shared.b32 [%r30], %r1;", "different values"),
        ("st.shared.b32 [%r32], %r1; xor.b32 %r2, %r31, 128; add.s32 %r2, %r2, %r30; ld.shared.b32 %r3, [%r2];",
         "race"),
        (("st.shared.b32 [%r32], %r1; bar.sync 0; xor.b32 %r2, %r31, 128; add.s32 %r2, %r2, %r30; "
          "ld.shared.b32 %r3, [%r2]; st.shared.b32 [%r32], %r3;"), "race"),
    ],
)  # fmt: skip
def test_what_a_gpu_would_not_forgive_is_refused(instruction: str, said: str):
    with pytest.raises(Fault, match=said):
        run(instruction, threads())


def test_what_is_not_known_is_not_guessed():
    with pytest.raises(NotImplementedError, match="clz"):
        run("clz.b32 %r2, %r1;", threads())


def test_barriers_make_other_warps_values_visible():
    body = """st.shared.b32 [%r32], %r1; bar.sync 0; xor.b32 %r2, %r31, 128; add.s32 %r2, %r2, %r30;
	ld.shared.b32 %r3, [%r2]; st.global.b32 [%rd2], %r3;"""
    assert run(body, threads()) == [i ^ 32 for i in range(64)]


def test_copies_land_when_they_are_waited_for():
    copy = "cp.async.ca.shared.global [%r32], [%rd2], 0x4, 4; cp.async.commit_group;"
    use = "bar.sync 0; ld.shared.b32 %r3, [%r32]; add.s32 %r3, %r3, 1; st.global.b32 [%rd2], %r3;"
    with pytest.raises(Fault, match="never written"):
        run(copy + use, threads())
    assert run(copy + "cp.async.wait_group 0;" + use, threads(5)) == list(range(6, 70))
    none = copy.replace("0x4, 4", "0x4, 0") + "cp.async.wait_group 0;" + use
    assert run(none, threads(5)) == [1] * 64


def test_lanes_exchange_within_their_warp():
    out = run("shfl.sync.bfly.b32 %r2, %r1, 5, 31, -1; st.global.b32 [%rd2], %r2;", threads())
    assert out == [i ^ 5 for i in range(64)]
    out = run("redux.sync.max.s32 %r2, %r1, -1; st.global.b32 [%rd2], %r2;", threads())
    assert out == [31] * 32 + [63] * 32


words = st.integers(0, 2**32 - 1)


@given(words, words, st.integers(0, 0xFFFF))
def test_prmt_picks_bytes_and_repeats_signs(a: int, b: int, selector: int):
    source = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    wanted = bytes(
        (255 if source[n & 7] & 128 else 0) if n & 8 else source[n & 7]
        for n in ((selector >> 4 * i) & 15 for i in range(4))
    )
    assert apply("prmt.b32", a, b, selector) == int.from_bytes(wanted, "little")


@given(words, words, words)
def test_lop3_follows_its_table(a: int, b: int, c: int):
    assert apply("lop3.b32", a, b, c, 0xEA) == (a & b) | c
    assert apply("lop3.b32", a, b, c, 0xC0) == a & b
    assert apply("lop3.b32", a, b, c, 0x96) == a ^ b ^ c


@given(words, st.integers(0, 40), st.integers(0, 40))
def test_bit_fields_and_shifts_past_the_end(a: int, start: int, count: int):
    assert apply("bfe.u32", a, start, count) == a >> start & (1 << count) - 1
    signed = a - (1 << 32) if a >> 31 else a
    piece = signed >> min(start, 31) & (1 << count) - 1 if start < 32 else (-(a >> 31)) & (1 << count) - 1
    last = min(31, start + count - 1)
    if count and a >> last & 1:
        piece |= -(1 << count)
    assert apply("bfe.s32", a, start, count) == piece & 0xFFFFFFFF
    assert apply("shl.b32", a, start) == (a << start) & 0xFFFFFFFF
    assert apply("shr.s32", a, start) == (signed >> start) & 0xFFFFFFFF


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1).filter(bool))
def test_whole_numbers_divide_towards_zero(a: int, b: int):
    wanted = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    assert apply("div.s32", a, b) == wanted & 0xFFFFFFFF


@given(st.floats(width=32, allow_nan=False))
def test_numbers_round_as_pytorch_rounds_them(x: float):
    pair = torch.tensor([x], dtype=torch.float32)
    with np.errstate(over="ignore"):
        assert apply("cvt.rn.bf16.f32", bits_of(x), bits=16) == int(pair.bfloat16().view(torch.uint16).item())
    half = int(pair.half().view(torch.uint16).item())
    assert apply("cvt.rn.f16x2.f32", 0, bits_of(x)) == half
    assert apply("cvt.rn.f16x2.f32", bits_of(x), 0) == half << 16


def test_every_fp8_code_is_the_number_pytorch_says():
    codes = torch.arange(256, dtype=torch.uint8)
    halves = codes.view(torch.float8_e4m3fn).half().view(torch.uint16).tolist()
    assert [apply("cvt.rn.f16x2.e4m3x2", c) & 0xFFFF for c in range(256)] == halves


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_fragments_multiply_as_matrices_do(kind: str):
    g = torch.Generator().manual_seed(3)
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[kind]
    a, b = torch.randn(32, 16, generator=g).to(dtype), torch.randn(16, 8, generator=g).to(dtype)
    shared = SharedMemory(4096)
    threads = np.arange(64, dtype=np.uint32)
    warps = (threads // 32).astype(np.int16)
    # Rows of a warp's own 16 x 16 block, written by that warp.
    rows = a.view(torch.uint8).numpy().reshape(32, 32)
    own = np.repeat(np.arange(2), 16).astype(np.int16)
    shared.write(BASE + np.arange(32) * 32, rows, own)
    lane = threads % 32
    place = BASE + (warps * 16 + lane % 16) * 32 + lane // 16 * 16
    fragments = tensor.load_tiles("ldmatrix.sync.aligned.m8n8.x4.shared.b16", shared, place, warps)
    other = b.T.contiguous().view(torch.uint8).numpy().reshape(8, 32)
    for w in range(2):
        shared.write(BASE + 2048 + 256 * w + np.arange(8) * 32, other, np.full(8, w, dtype=np.int16))
    place = BASE + 2048 + 256 * warps + lane % 8 * 32 + lane // 8 % 2 * 16
    right = tensor.load_tiles("ldmatrix.sync.aligned.m8n8.x2.shared.b16", shared, place, warps)
    zero = [np.zeros(64, dtype=np.uint32)] * 4
    name = f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32"
    out = tensor.sums(tensor.multiply(name, 4, [fragments, right, zero])).reshape(32, 8)
    assert np.allclose(out, (a.double() @ b.double()).numpy(), rtol=1e-6, atol=1e-6)


def test_the_matrix_unit_reads_what_was_fenced_and_is_waited_for():
    shared = SharedMemory(1024)
    warp = np.zeros(1, dtype=np.int16)
    where, value = np.array([BASE]), np.zeros((1, 2), dtype=np.uint8)
    shared.write(where, value, warp)
    shared.barrier()
    with pytest.raises(Fault, match="no fence"):
        shared.operand(where)
    shared.fenced()
    shared.operand(where)
    shared.commit_products()
    shared.barrier()
    with pytest.raises(Fault, match="may still read"):
        shared.write(where, value, warp)
    shared.wait_products(0)
    shared.write(where, value, warp)


def machine(*arguments: str) -> str:
    """What the machine says in a process without the interpreter, which this one has switched on."""
    pytest.importorskip("triton", reason="triton is not installed: nothing can be compiled")
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.ptx.run", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(SAMPLE))
def test_what_triton_compiles_for_a_gpu_gives_the_answers(arch: int):
    only = [f"sm_{arch}/{pattern}" for pattern in SAMPLE[arch]]
    assert " 0 wrong" in machine("--arch", str(arch), "--jobs", "1", "--only", *only)


@pytest.mark.slow
def test_narrow_formats_do_not_wait_for_shared_memory():
    # An H100's multiprocessor can make an access, of 128 bytes, in every clock; of 3.35 TB/s it gets 128 bytes in 8.9.
    said = machine("--arch", "90", "--accesses", "fp8_e4m3", "int8", "int4")
    rows = {
        name: (float(every), float(least)) for _, name, every, least, _ in map(str.split, said.splitlines())
    }
    assert all(every <= 1.02 * least for every, least in rows.values()), rows
    assert max(rows["fp8_e4m3"][0], rows["int8"][0]) < 0.6 * 8.9, rows
    assert rows["int4"][0] < 0.85 * 8.9, rows


def test_threads_that_ask_one_bank_for_different_words_are_counted():
    warps = np.zeros(32, dtype=np.int16)
    for stride, wanted in ((4, 1), (0, 1), (8, 2), (128, 32)):
        traffic = Traffic()
        traffic.count(BASE + stride * np.arange(32), 4, warps)
        assert (traffic.accesses, traffic.smallest) == (wanted, 1)
    wide = Traffic()
    wide.count(BASE + 16 * np.arange(32), 16, warps)
    assert (wide.accesses, wide.smallest) == (4, 4)
    apart = Traffic()
    apart.count(BASE + 32 * np.arange(32), 16, warps)
    assert (apart.accesses, apart.smallest) == (8, 4)
