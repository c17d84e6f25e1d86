"""What the measurements were taken on. Reads; never changes a setting of the card."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import torch

QUERY = (
    "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,"
    "temperature.gpu,power.limit"
)


def gpu_state() -> dict[str, str]:
    """Clocks, temperature and power limit as ``nvidia-smi`` reports them now; empty where it does not."""
    if not shutil.which("nvidia-smi"):
        return {}
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    values = done.stdout.strip().splitlines()[:1]
    return (
        dict(zip(QUERY.split(","), [v.strip() for v in values[0].split(",")], strict=False)) if values else {}
    )


def environment(device: str) -> dict[str, Any]:
    """Versions, machine and device."""
    import triton

    from kvplan import __version__
    from kvplan.kernels.aot import LAUNCHING, fingerprint

    record: dict[str, Any] = {
        "kvplan": __version__,
        "kernels": fingerprint(LAUNCHING),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "system": platform.release(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "cpu",
        "l2_bytes": 0,
    }
    if device == "cuda":
        p = torch.cuda.get_device_properties(0)
        record |= {
            "device": p.name,
            "capability": f"{p.major}.{p.minor}",
            "multiprocessors": p.multi_processor_count,
            "memory_bytes": p.total_memory,
            "l2_bytes": getattr(p, "L2_cache_size", 50 << 20),
            "gpu_state": gpu_state(),
        }
    return record
