"""What can go wrong while an engine runs."""

from __future__ import annotations

from kvplan.errors import DataError, KvplanError


class EngineStuck(KvplanError):
    """Nothing runs, nothing fits and nothing will change: the configuration cannot serve this request."""

    code = "engine-stuck"

    def __init__(self, clock_s: float, request_id: str, why: str = "never fits") -> None:
        super().__init__(
            f"the engine cannot make progress at t = {clock_s:.6f} s: request {request_id!r} {why}",
            hint="give the pool more blocks, or lower watermark or max_model_len",
        )


class InvalidLatency(DataError):
    """A latency model returned a step time that is negative, infinite or not a number."""

    code = "latency"

    def __init__(self, seconds: float, step: int) -> None:
        super().__init__(
            f"the latency model returned {seconds!r} seconds for step {step}",
            hint="a step takes a finite time of at least 0 seconds",
        )


class OutOfKvMemory(KvplanError):
    """The engine allocates without having checked and finds too little: the real one stops with an error."""

    code = "out-of-kv-memory"

    def __init__(self, doing: str, needed: int, free: int) -> None:
        super().__init__(
            f"out of KV memory in {doing}: {needed} tokens needed, {free} free; SGLang stops here with the "
            "same error",
            hint="raise schedule_conservativeness or the pool, or lower max_running_requests",
        )
