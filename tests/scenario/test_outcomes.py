"""Simulations in processes of their own: who hears Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from kvplan.scenario.outcomes import deaf

ASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_processes_that_start_never_hear_ctrl_c_and_their_starter_does_again() -> None:
    def hears() -> bool:
        asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
        return asked.stdout == "False\n"

    assert hears()
    with deaf():
        assert not hears()
    assert hears()
    with pytest.raises(KeyboardInterrupt), deaf():
        raise KeyboardInterrupt
    assert hears()
