"""Watching the process that measures: when it dies, hangs or loses the device, another one goes on.

What was being measured then is noted as failed, so the next process leaves it out.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

LOST_DEVICE = 75
"""Exit code of a process that asks to be replaced."""
MOST_REPLACED = 8
GRACE_S = 30.0
"""What the last measurement may take beyond the time for all."""
SAVING_S = 10.0
"""Time for a process to end that was told to."""


def marker_of(output: Path) -> Path:
    """The file beside the measurements that names what is being measured."""
    return output.with_suffix(output.suffix + ".now")


def watch(command: list[str], output: Path, seconds: float, patience_s: float = 150.0) -> int:
    """Run ``command`` until it has ended by itself, restarting it with ``--continue``.

    Args:
        command: the measuring process; it is told the seconds it has by ``--seconds``.
        seconds: time for everything; half a minute after it the process is ended.
        patience_s: longest time for one measurement, compilation included.

    Returns:
        The exit code of the last process; 1 when it had to be ended.
    """
    marker = marker_of(output)
    started = time.monotonic()
    more: list[str] = []
    code = 1
    for _ in range(MOST_REPLACED):
        left = seconds - (time.monotonic() - started)
        process = subprocess.Popen([*command, *more, "--seconds", f"{max(left, 0.0):.0f}"])
        try:
            ended = _wait(process, marker, started + seconds + GRACE_S, patience_s)
        except BaseException:
            _end(process)
            raise
        code = process.returncode if ended else 1
        late = time.monotonic() - started > seconds
        if late or (ended and code >= 0 and code != LOST_DEVICE):
            break
        print(f"measuring ended early ({'exit code ' + str(code) if ended else 'it hung'}); going on",
              file=sys.stderr)  # fmt: skip
        more = ["--continue"]
    return code if code >= 0 and code != LOST_DEVICE else 1


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, after it has saved what it measured."""
    process.terminate()
    try:
        process.wait(timeout=SAVING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], marker: Path, until: float, patience_s: float) -> bool:
    """Whether the process ended by itself; it is killed when it takes too long."""
    while True:
        try:
            process.wait(timeout=1.0)
            return True
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() > until or _age(marker) > patience_s:
            process.kill()
            process.wait()
            return False


def _age(marker: Path) -> float:
    """Seconds since the current measurement began; 0 between measurements."""
    try:
        return time.time() - marker.stat().st_mtime
    except OSError:
        return 0.0
