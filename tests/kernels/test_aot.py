"""Compiled code without a GPU: no spills, and budgets of registers and instructions that do not grow.

``aot_budget_triton39.json`` holds what every shipped variant compiled to for sm_80, sm_90 and sm_100 with the
Triton of the tests, ``aot_budget_triton36.json`` the same for sm_80 and sm_90 with the oldest one supported, which
comes with PyTorch 2.11; both with a digest of the sources they were compiled from. Compiling all of them takes
minutes, so the suite checks that the files cover exactly what is shipped, that the sources are still those, that
nothing in them spills, and that a sample compiles to what the first one says. After a change to the kernels:
``python -m kvplan.kernels.aot --lock tests/kernels/aot_budget_triton39.json`` compares everything with the frozen
budgets, and ``--update`` freezes it anew; for the other file, with ``--arch 80 90`` and the Python of an environment
with ``triton==3.6.0``.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed: nothing can be compiled")

from kvplan.kernels import aot
from kvplan.kernels.aot import Compiled, compare, hot_loop
from kvplan.kernels.formats import get_format
from kvplan.kernels.shipped import shipped
from kvplan.kernels.support import TESTED
from kvplan.kernels.variants import REGISTERS, Target, programs_per_multiprocessor, release
from kvplan.kernels.variants_mla import mla_programs

LOCK = Path(__file__).with_name("aot_budget_triton39.json")
LOCKED = json.loads(LOCK.read_text())
OLDEST = json.loads(Path(__file__).with_name("aot_budget_triton36.json").read_text())
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


def test_the_digest_of_the_sources_does_not_depend_on_the_version_of_python():
    tree = ast.parse("def f(x, *, y=None): return x[0]")
    assert aot.syntax(tree) == (
        "Module(body=[FunctionDef(name='f', args=arguments(args=[arg(arg='x')], kwonlyargs=[arg(arg='y')], "
        "kw_defaults=[Constant()]), body=[Return(value=Subscript(value=Name(id='x', ctx=Load()), "
        "slice=Constant(value=0), ctx=Load()))])])"
    )


both = pytest.mark.parametrize("locked", [LOCKED, OLDEST], ids=lambda locked: locked["triton"])


@pytest.mark.parametrize(
    ("locked", "archs"), [(LOCKED, TESTED), (OLDEST, (80, 90))], ids=["newest", "oldest"]
)
def test_the_budget_covers_exactly_what_is_shipped(locked: dict[str, Any], archs: tuple[int, ...]):
    names = {f"sm_{arch}/{item.name}" for arch in archs for item in shipped(arch, locked["triton"])}
    assert set(locked["variants"]) == names


@both
def test_the_budget_was_frozen_from_these_sources(locked: dict[str, Any]):
    assert locked["fingerprint"] == aot.fingerprint(), (
        f"kernel sources changed: with Triton {locked['triton']}, run python -m kvplan.kernels.aot --lock on its file "
        "(and --update once it is no worse)"
    )


@both
def test_nothing_shipped_spills(locked: dict[str, Any]):
    assert {name: v["stack_bytes"] for name, v in locked["variants"].items() if v["stack_bytes"]} == {}


@both
def test_as_many_programs_fit_a_multiprocessor_as_splits_are_chosen_for(locked: dict[str, Any]):
    # 128 threads a program; registers are given out in units of 8 a thread.
    for name, found in locked["variants"].items():
        arch, kernel, *rest = name.split("/")
        if kernel == "decode" and len(rest) == 1:
            each = programs_per_multiprocessor(
                get_format(rest[0]), head_dim=128, block_size=64, columns=4, one=True, target=Target(90)
            )
            assert each * 128 * -(-found["registers"] // 8) * 8 <= REGISTERS, name
            assert arch != "sm_90" or each * found["shared_bytes"] <= 227 << 10, name
        if arch == "sm_90" and kernel == "mla" and len(rest) == 1:
            each = mla_programs(get_format(rest[0]), 16, Target(90))
            assert each * 128 * -(-found["registers"] // 8) * 8 <= REGISTERS, name
            assert each * found["shared_bytes"] <= 227 << 10, name


@both
def test_guessed_tokens_leave_room_for_a_second_program(locked: dict[str, Any]):
    guessed = {n: v for n, v in locked["variants"].items() if n.endswith("/tokens8")}
    assert len(guessed) >= 12
    for name, found in guessed.items():
        arch, _, format_name, _ = name.split("/")
        target = Target(int(arch.removeprefix("sm_")), triton=release(locked["triton"]))
        each = programs_per_multiprocessor(
            get_format(format_name), head_dim=128, block_size=64, columns=32, one=False, target=target
        )
        assert each == 2
        assert each * 128 * -(-found["registers"] // 8) * 8 <= REGISTERS, name
        assert each * found["shared_bytes"] <= (163 if arch == "sm_80" else 227) << 10, name


@both
def test_four_times_the_heads_of_a_latent_take_little_more_than_twice_the_instructions_on_hopper(
    locked: dict[str, Any],
):
    # Instructions are counted for every eight columns: 16 of them, and 64.
    for name in ("mla_bf16", "mla_fp8"):
        few, many = (
            locked["variants"][f"sm_90/mla/{name}{shape}"]["instructions_per_element"] * columns / 8
            for shape, columns in (("", 16), ("/tokens4", 64))
        )
        assert many < 2.3 * few


@both
def test_decode_reads_codes_128_bits_at_a_time(locked: dict[str, Any]):
    narrow = [n for n, v in locked["variants"].items() if "/decode/" in n and not v["wide_loads"]]
    assert narrow == []


@both
def test_fp8_costs_less_than_twice_the_instructions_of_bf16_and_int4_less_than_fp8_and_bf16_together(
    locked: dict[str, Any],
):
    # On Hopper: what keeps narrow formats from being bound by instruction issue rather than by memory.
    cost = {n.split("/")[2]: v["instructions_per_element"] for n, v in locked["variants"].items()
            if n.startswith("sm_90/decode/") and n.count("/") == 2}  # fmt: skip
    assert cost["fp8_e4m3"] < 2 * cost["bf16"]
    assert cost["int4"] < cost["fp8_e4m3"] + cost["bf16"]


@pytest.mark.slow
def test_a_sample_compiles_to_what_was_frozen():
    # A subprocess without the interpreter: this process has it switched on.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kvplan.kernels.aot", "--lock", str(LOCK), "--jobs", "1", "--only"]
    names = [f"sm_{arch}/{name}" for arch in TESTED for name in SAMPLE[arch]]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == sorted(names)


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_items(jobs: int):
    assert list(aot.in_processes(jobs, abs, [-3, 1, -2])) == [3, 1, 2]


def test_a_variant_that_does_not_compile_is_named_and_fails(monkeypatch: pytest.MonkeyPatch):
    def fails(capability: int, name: str) -> Compiled:
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(aot, "measure", fails)
    assert aot._one((90, "reduce")) == (90, "reduce", "RuntimeError: PassManager::run failed")


def test_a_budget_of_another_compiler_is_not_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lock = tmp_path / "lock.json"
    lock.write_text(json.dumps(LOCKED | {"triton": "3.1.0"}))
    with pytest.raises(SystemExit):
        aot.main(["--lock", str(lock), "--only", "reduce"])
    assert "was frozen with Triton 3.1.0" in capsys.readouterr().err


def test_only_old_compilers_of_data_centre_blackwell_may_move_the_assembly():
    def asm(capability: int, version: str) -> int:
        return Target(capability, triton=release(version)).switches()["ASM"]

    assert [asm(100, v) for v in ("3.6.0", "3.8.0+git1", "3.9.0", "4.0.1")] == [2, 2, 1, 1]
    assert {asm(c, "3.6.0") for c in (80, 90, 120)} == {1}


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
