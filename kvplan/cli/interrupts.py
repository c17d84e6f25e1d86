"""Being told to end, in whichever way."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts(AbstractContextManager["Interrupts"]):
    """While entered, Ctrl-C and being told to end (by a scheduler, by ``timeout``) are ``KeyboardInterrupt``.

    ``held`` marks work that is done whole or not at all: a signal that comes meanwhile is obeyed when it is
    done, and a second one at once. What its starter had ignored stays ignored.
    """

    def __init__(self) -> None:
        self.held = Held()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._interrupt)
        return self

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.held.entered and not self.held.asked:
            self.held.asked = True
            return
        raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}


class Held(AbstractContextManager[None]):
    """A stretch of work that is not interrupted; ``asked``: that somebody wanted to."""

    def __init__(self) -> None:
        self.entered = self.asked = False

    def __enter__(self) -> None:
        self.entered = True

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.entered = False
        if self.asked:
            self.asked = False
            raise KeyboardInterrupt
