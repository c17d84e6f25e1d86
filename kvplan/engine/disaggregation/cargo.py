"""What is sent of a prompt: what the decode instance has blocks for, and no content."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes, as stored, over all layers and GPUs of an instance.

    Args:
        block: of a block. state: of a recurrent state, which is less where blocks are padded to hold one.
    """

    block: int
    state: int = 0


@dataclass(frozen=True, slots=True)
class Cargo:
    """Blocks and recurrent states of one prompt, of all groups together.

    Args:
        blocks, states: those that are sent. kept_blocks, kept_states: those that need not be, as they are in
            the decode instance's prefix cache.
    """

    blocks: int
    states: int = 0
    kept_blocks: int = 0
    kept_states: int = 0

    def bytes(self, sizes: Sizes) -> int:
        """Bytes that are sent."""
        return self.blocks * sizes.block + self.states * sizes.state

    def kept_bytes(self, sizes: Sizes) -> int:
        """Bytes that need not be sent."""
        return self.kept_blocks * sizes.block + self.kept_states * sizes.state


NOTHING = Cargo(0)
