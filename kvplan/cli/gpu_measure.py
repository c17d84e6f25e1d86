"""Measuring kvplan's own kernels for ``kvplan calibrate --gpu N``, in a process of its own.

A process apart keeps torch out of this one, and a crash of a kernel from taking the fit with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import util
from pathlib import Path

from kvplan.errors import DataError, EnvironmentLacks

STDERR = 2


def measure(device: int, output_path: Path) -> Path:
    """Run the kernels' script on one CUDA device; its raw file stays beside the profile and is continued.

    Args:
        device: index among the devices that CUDA shows (``CUDA_VISIBLE_DEVICES`` is respected).

    Raises:
        EnvironmentLacks: torch, triton or the device is missing. DataError: the script gave no file.
    """
    missing = [name for name in ("torch", "triton") if util.find_spec(name) is None]
    if missing:
        raise EnvironmentLacks(
            f"measuring needs {' and '.join(missing)}",
            hint="pip install 'kvplan[gpu]' on the machine with the GPU, or fit with --from",
        )
    raw = output_path.with_suffix(".measurements.json")
    command = [sys.executable, "-m", "kvplan.kernels.benchmark", "-o", str(raw)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": _visible(device)}
    # The script's own table is progress here: stdout is the profile's.
    code = subprocess.run(command, env=environment, stdout=STDERR, check=False).returncode
    if code == EnvironmentLacks.exit_code:
        raise EnvironmentLacks(
            f"CUDA device {device} cannot be measured", hint="kvplan doctor says what this machine can run"
        )
    # 1 means that some kernel failed or was wrong; the file says which, and reading it decides.
    if code not in (0, 1) or not raw.is_file():
        raise DataError(
            f"the measurement ended with exit code {code}", where=str(raw),
            hint="what was measured is kept: the same command continues",
        )  # fmt: skip
    return raw


def _visible(device: int) -> str:
    """The value of CUDA_VISIBLE_DEVICES that shows this device alone.

    Raises:
        EnvironmentLacks: the variable shows fewer devices.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return str(device)
    names = [name.strip() for name in shown.split(",") if name.strip()]
    if device >= len(names):
        raise EnvironmentLacks(
            f"there is no CUDA device {device}: CUDA_VISIBLE_DEVICES is {shown!r}",
            hint="kvplan doctor says what this machine can run",
        )
    return names[device]
