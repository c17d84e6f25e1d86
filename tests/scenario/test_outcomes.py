"""Simulations in processes of their own: who hears Ctrl-C, and when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from kvplan.scenario.outcomes import deaf

ASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_ctrl_c_waits_while_processes_start_and_they_never_hear_it() -> None:
    reached = []

    def starting() -> None:
        with deaf():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True).stdout)

    with pytest.raises(KeyboardInterrupt):
        starting()
    assert reached == ["True\n"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
