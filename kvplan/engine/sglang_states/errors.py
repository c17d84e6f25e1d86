"""Where SGLang itself goes wrong."""

from __future__ import annotations

from kvplan.errors import KvplanError


class OutOfStates(KvplanError):
    """Requests and copies to the host hold all slots for recurrent states: the real engine stops."""

    code = "out-of-states"

    def __init__(self, slots: int, held: int) -> None:
        super().__init__(
            f"all {slots} slots for recurrent states are held, {held} by requests and the others by what is "
            "on its way to the host or back; SGLang 0.5.23 stops here",
            hint="leave more memory to states, lower engine.max_running_requests, or use a faster "
            "tiers.host.link",
        )
