"""Compiled code without a GPU: no spills, and budgets of registers and instructions that do not grow.

``aot_budget.json`` holds what every shipped variant compiled to for sm_80, sm_90 and sm_100, together with a digest
of the sources it was compiled from. Compiling all of them takes minutes, so the suite checks that the file covers
exactly what is shipped, that the sources are still those, that nothing in it spills, and that a sample compiles to
what it says. After a change to the kernels: ``python -m kvplan.kernels.aot --lock tests/kernels/aot_budget.json``
compares everything with the frozen budgets, and ``--update`` freezes it anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: nothing can be compiled")

from kvplan.kernels import aot
from kvplan.kernels.aot import Compiled, compare, hot_loop
from kvplan.kernels.formats import get_format
from kvplan.kernels.shipped import shipped
from kvplan.kernels.support import TESTED
from kvplan.kernels.variants import programs_per_multiprocessor

LOCK = Path(__file__).with_name("aot_budget.json")
LOCKED = json.loads(LOCK.read_text())
SAMPLE = {
    80: ["decode/fp8_e4m3", "append/int8", "write/int4"],
    90: [
        "decode/bf16",
        "decode/fp8_e4m3",
        "decode/int4",
        "decode/int4_g64",
        "append/bf16",
        "write/fp8_e4m3",
        "reduce",
    ],
    100: ["decode/int8", "write/int8_per_token_head"],
}


def test_the_budget_covers_exactly_what_is_shipped():
    names = {f"sm_{arch}/{item.name}" for arch in TESTED for item in shipped(arch)}
    assert set(LOCKED["variants"]) == names


def test_the_budget_was_frozen_from_these_sources():
    assert LOCKED["fingerprint"] == aot.fingerprint(), (
        "kernel sources changed: run python -m kvplan.kernels.aot --lock tests/kernels/aot_budget.json "
        "(and --update once it is no worse)"
    )


def test_nothing_shipped_spills():
    assert {name: v["stack_bytes"] for name, v in LOCKED["variants"].items() if v["stack_bytes"]} == {}


def test_as_many_programs_fit_a_multiprocessor_as_splits_are_chosen_for():
    # 65536 registers; 128 threads a program; registers are given out in units of 8 a thread.
    for name, found in LOCKED["variants"].items():
        arch, kernel, *rest = name.split("/")
        if kernel == "decode" and len(rest) == 1:
            each = programs_per_multiprocessor(
                get_format(rest[0]), head_dim=128, block_size=64, columns=4, one=True
            )
            assert each * 128 * -(-found["registers"] // 8) * 8 <= 65536, name
            assert arch != "sm_90" or each * found["shared_bytes"] <= 227 << 10, name


def test_decode_reads_codes_128_bits_at_a_time():
    narrow = [n for n, v in LOCKED["variants"].items() if "/decode/" in n and not v["wide_loads"]]
    assert narrow == []


def test_fp8_costs_less_than_twice_the_instructions_of_bf16_and_int4_less_than_fp8_and_bf16_together():
    # On Hopper: what keeps narrow formats from being bound by instruction issue rather than by memory.
    cost = {n.split("/")[2]: v["instructions_per_element"] for n, v in LOCKED["variants"].items()
            if n.startswith("sm_90/decode/") and n.count("/") == 2}  # fmt: skip
    assert cost["fp8_e4m3"] < 2 * cost["bf16"]
    assert cost["int4"] < cost["fp8_e4m3"] + cost["bf16"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", TESTED)
def test_a_sample_compiles_to_what_was_frozen(arch: int):
    # A subprocess without the interpreter: this process has it switched on.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        "-m",
        "kvplan.kernels.aot",
        "--lock",
        str(LOCK),
        "--arch",
        str(arch),
        "--jobs",
        "2",
    ]
    done = subprocess.run(
        [*command, "--only", *SAMPLE[arch]], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"sm_{arch}/") == len(SAMPLE[arch])


def test_the_comparison_notices_spills_growth_and_narrow_loads():
    good = Compiled(100, 0, 0, 50, 2.0, 4, 0, 8)
    budget = {"registers": 100, "instructions_per_element": 2.0, "wide_loads": 4}
    assert compare("x", good, budget) == []
    assert compare("x", Compiled(110, 0, 0, 50, 2.2, 4, 0, 8), budget) == []
    worse = compare("x", Compiled(111, 8, 0, 50, 2.21, 0, 0, 8), budget)
    assert [line.split(": ")[1].split(" ")[0] for line in worse] == [
        "spills",
        "registers",
        "instructions_per_element",
        "the",
    ]


def test_the_hot_loop_is_the_one_with_the_matrix_instructions():
    sass = """
        /*0000*/                   MOV R1, R2 ;
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   HMMA.16816.F32 R8, R4, R6, R8 ;
        /*0030*/              @P0  BRA 0x10 ;
        /*0040*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0050*/              @!P1 BRA 0x40 ;
    """
    assert [line.split()[0] for line in hot_loop(sass)] == ["LDG.E.128", "HMMA.16816.F32", "@P0"]
    assert hot_loop("        /*0000*/                   MOV R1, R2 ;") == []
