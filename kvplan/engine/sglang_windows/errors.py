"""Where SGLang itself goes wrong."""

from __future__ import annotations

from kvplan.errors import KvplanError


class ForgottenPrefill(KvplanError):
    """Two prefills of one batch are cut to the window pool; SGLang 0.5.23 goes on with the last one only, and
    takes the other for whole."""

    code = "forgotten-prefill"

    def __init__(self, forgotten: str, other: str) -> None:
        super().__init__(
            f"SGLang 0.5.23 would forget the rest of the prefill of request {forgotten!r}, "
            f"as that of {other!r} is cut in the same batch: the window pool holds neither whole",
            hint="give the window pool more tokens than a chunk and a window, or lower "
            "engine.chunked_prefill_size",
        )
