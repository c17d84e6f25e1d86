"""What a prefill server sends once, with the last page of a prompt (``state_indices``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StatePayload:
    """What lies in another pool than the pages of full attention; bytes are of all layers and GPUs.

    Attributes:
        state_bytes: a request's recurrent states, one slot of the pool (``StateType.MAMBA``).
        window_block_bytes: a page of the pool for windows (``StateType.SWA``).
        span: tokens before a token that layers with windows look at.
    """

    state_bytes: int = 0
    window_block_bytes: int = 0
    span: int = 0

    def bytes(self, prompt_tokens: int, page: int) -> int:
        """With the last page of so many tokens: windows from the page on where the last one begins.

        Args:
            prompt_tokens: of the whole prompt.
            page: tokens of a page, of either pool.
        """
        if not self.window_block_bytes:
            return self.state_bytes
        first = max(0, prompt_tokens - self.span) // page
        return self.state_bytes + (-(-prompt_tokens // page) - first) * self.window_block_bytes


NO_PAYLOAD = StatePayload()
"""Of a model all of whose layers keep the whole context."""
