"""``python -m tests.kernels.ptx.run``: the checks of the GPU script on the machine, with what Triton compiled for a GPU.

Every case a GPU would be asked, against float64 and to the bit; ends with status 1 where one differs or faults.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any
from unittest.mock import patch

os.environ.pop("TRITON_INTERPRET", None)

from kvplan.kernels import cases, launch, launch_mla
from kvplan.kernels.aot import in_processes
from kvplan.kernels.bench import correctness
from kvplan.kernels.formats import get_format
from kvplan.kernels.variants import Target, release
from tests.kernels.ptx.device import Driver, machine
from tests.kernels.ptx.traffic import SECTOR


def jobs(archs: list[int], only: list[str]) -> Iterator[tuple[int, str, Any]]:
    """(architecture, kind, what) of every check that a machine without graphs can make."""
    for arch in archs:
        for kind, what in correctness.jobs(False, []):
            key = f"sm_{arch}/{correctness.key_of((kind, what))}"
            if kind in ("case", "write") and (not only or any(fnmatch(key, pattern) for pattern in only)):
                yield arch, kind, what


@contextmanager
def compiled_for(arch: int, counting: bool = False) -> Iterator[Driver]:
    """kvplan's launches within compile for ``sm_<arch>`` and run on the machine."""
    import triton

    def target(_: object = None) -> Target:
        return Target(arch, triton=release(triton.__version__))

    with (
        patch.object(launch, "target", target),
        patch.object(launch_mla, "target", target),
        patch.object(launch, "multiprocessors", lambda _: 4),
        machine(arch, counting) as driver,
    ):
        yield driver


def accesses(arch: int, format_name: str) -> tuple[float, float, float]:
    """Accesses to shared memory while decoding 1,024 tokens of 128-wide heads (or of a latent, with 16 heads), for each
    128 bytes of the cache: all, and those that would be left without conflicts of banks. Then the bytes asked of global
    memory, over those of the cache. Edges of the tile loop are in it, and scales are in the cache."""
    fmt = get_format(format_name)
    case = cases.Case(format_name, (1024,), block_size=64, group=16 if fmt.latent else 4)
    built = cases.build(case)
    with compiled_for(arch, counting=True) as driver:
        cases.run(case, built)
    assert driver.traffic
    held = 1024 * fmt.bytes_per_token(1, 576 if fmt.latent else 128)
    lines = held / 128
    asked = driver.traffic.sectors * SECTOR / held
    return driver.traffic.accesses / lines, driver.traffic.smallest / lines, asked


def check(arch: int, kind: str, what: Any) -> str:
    """What is wrong with one check; "" when nothing is."""
    with compiled_for(arch):
        if kind == "write":
            return cases.check_write(what, "cpu") or ""
        built = cases.build(what)
        # Twice where blocks count each other: the counters have to be what they were.
        for _ in range(1 + what.fused):
            error, lse_error = cases.errors(built, *cases.run(what, built))
            bound = what.bound(interpreted=False)
            if not (error <= bound and lse_error <= cases.LSE_BOUND):
                return f"error {error:.2e} (allowed {bound:.0e}), lse {lse_error:.2e} (allowed {cases.LSE_BOUND:.0e})"
        return ""


def _one(job: tuple[int, str, Any]) -> tuple[str, str, float]:
    arch, kind, what = job
    begun = time.perf_counter()
    try:
        wrong = check(*job)
    except Exception as error:  # a fault is a finding: say it beside the others
        wrong = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    return f"sm_{arch}/{correctness.key_of((kind, what))}", wrong, time.perf_counter() - begun


def main() -> int:
    """Run what was asked for; a line for each check, and how many were wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels.ptx.run", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--arch", type=int, nargs="*", default=[80, 90])
    parser.add_argument("--only", nargs="*", default=[], help="patterns such as sm_90/case/int4-*")
    parser.add_argument(
        "--accesses",
        nargs="+",
        metavar="FORMAT",
        help="instead: accesses to shared memory while decoding, bytes asked for",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.accesses:
        for arch, name in ((arch, name) for arch in options.arch for name in options.accesses):
            every, smallest, asked = accesses(arch, name)
            print(f"sm_{arch} {name} {every:.3f} {smallest:.3f} {asked:.3f}", flush=True)
        return 0
    wanted = list(jobs(options.arch, options.only))
    wrong = 0
    for name, message, seconds in in_processes(options.jobs, _one, wanted):
        wrong += bool(message)
        print(f"{name:64s} {seconds:6.1f} s  {message or 'ok'}", flush=True)
    print(f"{len(wanted)} checks, {wrong} wrong")
    return 1 if wrong or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
