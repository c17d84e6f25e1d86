"""Kernel tests run in Triton's interpreter, which must be chosen before triton is imported.

Nothing else in the suite imports triton, so the choice holds for the whole process (and for every xdist worker).
Tests that compile for a GPU do so in subprocesses, where the variable is taken out again.
"""

from __future__ import annotations

import os
import sys

import pytest

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"
# The interpreter's tensors are tiny: threads only wait for each other, the more so under xdist.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def interpreter():
    """Skips, saying so, where the kernels cannot be interpreted."""
    pytest.importorskip("torch", reason="torch is not installed: kernels cannot run")
    pytest.importorskip("triton", reason="triton is not installed: kernels cannot be interpreted")
    from kvplan.kernels import launch

    if not launch.INTERPRETED:
        pytest.skip("triton was imported before TRITON_INTERPRET could be set")
    from tests.kernels.interpreted import remember_builtins

    remember_builtins()
    return launch
