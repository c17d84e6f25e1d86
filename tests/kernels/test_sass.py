"""Machine code on a model of a multiprocessor (``tests.kernels.sass``): what it adds up, and what it says of decodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from tests.kernels.sass.bounds import bound, programs_held
from tests.kernels.sass.cubin import NONE, Instruction, instructions, loop
from tests.kernels.sass.fill import makespan
from tests.kernels.sass.timeline import Multiprocessor
from tests.kernels.sass.units import use

ROOT = Path(__file__).parents[2]
PRINTED = """
        /*1310*/              @!P0 LDS.128 R4, [R2+0x10] ;                 /* 0x0000100002048984 */
                                                                           /* 0x000e620000000c00 */
        /*1320*/                   HMMA.16816.F32 R8, R4, R6, R8 ;         /* 0x000000060408723c */
                                                                           /* 0x002fde0000001808 */
        /*1330*/               @P1 BRA 0x1310 ;                            /* 0xffffffd000001947 */
                                                                           /* 0x000fea000383ffff */
"""


def plain(text: str, stall: int = 1, sets: int = NONE, waits: tuple[int, ...] = ()) -> Instruction:
    return Instruction(0, text, stall, sets, NONE, waits)


def test_control_bits_say_who_waits_for_what():
    load, product, jump = instructions(PRINTED)
    assert (load.name, load.sets, load.stall, load.waits) == ("LDS.128", 1, 1, ())
    assert (product.sets, product.stall, product.waits) == (NONE, 15, (1,))
    assert jump.waits == ()
    assert loop([load, product, jump]) == [load, product, jump]


@pytest.mark.parametrize(
    ("text", "unit", "cycles", "read"),
    [
        ("LDGSTS.E.BYPASS.128 [R1], desc[UR10][R12.64]", "shared", 4, 512),
        ("LDSM.16.MT88.4 R4, [R2]", "shared", 4, 0),
        ("SHFL.BFLY PT, R2, R2, 0x4, 0x1f", "shared", 1, 0),
        ("MUFU.EX2 R1, R1", "special", 8, 0),
        ("LOP3.LUT R1, R1, R2, RZ, 0xc0, !PT", "alu", 2, 0),
        ("HFMA2.MMA R8, -RZ, RZ, 0, 0", "fma", 1, 0),
        ("HGMMA.64x64x16.F32.BF16 R120, gdesc[UR4].tnspA.tnspB, R120", "tensor", 32, 0),
        ("HGMMA.64x16x16.F32.BF16 R80, gdesc[UR8], R80", "tensor", 20, 0),
    ],
)
def test_instructions_keep_a_unit_busy(text: str, unit: str, cycles: int, read: int):
    needs = use(text)
    assert (needs.unit, needs.cycles, needs.bytes) == (unit, cycles, read)


def test_warps_of_a_scheduler_share_it_and_others_do_not():
    body = [plain("FFMA R0, R1, R2, R3")] * 20
    assert Multiprocessor(body, 4, 1).cycles() == pytest.approx(20)
    assert Multiprocessor(body, 4, 3).cycles(100) == pytest.approx(60, rel=0.05)


def test_a_counter_is_waited_for_and_another_program_fills_the_gap():
    body = [plain("LDG.E R0, [R2.64]", sets=0), plain("FADD R0, R0, R1", waits=(0,))]
    alone = Multiprocessor(body, 4, 1, latency=500).cycles()
    assert alone == pytest.approx(502, abs=6)
    assert Multiprocessor(body, 4, 4, latency=500).cycles() == pytest.approx(alone, rel=0.02)


def test_copies_ahead_are_no_faster_than_memory():
    body = [
        plain("DEPBAR.LE SB0, 0x0"), plain("FADD R0, R0, R1"),
        plain("LDGSTS.E.BYPASS.128 [R1], desc[UR10][R12.64]"), plain("LDGDEPBAR"),
    ]  # fmt: skip
    free = Multiprocessor(body, 4, 2, latency=100).cycles()
    slow = Multiprocessor(body, 4, 2, latency=100, bandwidth=8.0, read=4 * 512).cycles()
    assert free < 150
    assert slow == pytest.approx(2 * 4 * 512 / 8.0, rel=0.1)


def test_bounds_are_shares_of_the_copy_bandwidth():
    copied = [
        plain("LDGSTS.E.BYPASS.128 [R1], desc[UR10][R12.64]"),
        plain("LDGDEPBAR"),
        plain("DEPBAR.LE SB0, 0x0"),
    ]
    found = bound(copied * 8, 4, 3, 8 * 4 * 512.0)
    # 512 bytes of a warp take 4 cycles of shared memory, and 39.5 of a multiprocessor's share of 3 TB/s.
    assert found.shared == pytest.approx(39.5 / 4, rel=0.01)
    assert found.model <= 1.0
    assert found.flight == 48.0
    assert programs_held(128, 35840, 4) == 4
    assert programs_held(128, 73216, 4) == 3


def test_the_last_wave_takes_as_long_as_a_full_one_where_nothing_is_shared():
    turn, wide = [100.0] * 3, 1e9
    assert makespan(396, 10, turn, 1.0, wide) == pytest.approx(1000)
    assert makespan(397, 10, turn, 1.0, wide) == pytest.approx(2000)
    # And all no faster than memory: 132 programs of 10 tiles of 1,000 bytes at 660 bytes a cycle.
    assert makespan(132, 10, turn, 1000.0, 660.0) == pytest.approx(2000)


@pytest.mark.slow
def test_an_int4_cache_is_decoded_faster_than_an_fp8_cache():
    command = [sys.executable, "-m", "tests.kernels.sass.bounds", "--only", "decode/fp8_e4m3", "decode/int4"]
    compiling = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=compiling, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    shares = {line.split()[0]: float(line.split()[-1].rstrip("%")) / 100 for line in said[2:]}
    assert shares["decode/fp8_e4m3"] > 0.9
    # The targets: 45 % of the copy bandwidth, and faster by token: 0.516 bytes an element over 1.
    assert shares["decode/int4"] > max(0.8, 1.5 * 0.516 * shares["decode/fp8_e4m3"])
