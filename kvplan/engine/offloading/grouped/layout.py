"""What a chunk of each group is, and which of them a later hit could need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.retention import retained_blocks


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """One group's chunks.

    Attributes:
        index: of the group; group: what it is.
        chunk_blocks, chunk_tokens: of one chunk.
        window_chunks: chunks that a load brings at most, so that it does at all; None for full attention.
        alignment: loads end on multiples of so many tokens, as far as stores know; None where they do not.
        interval: the engine's ``retention_interval``.
        drafts: layers that draft are in it: of what a look-up finds of it, the last chunk is not loaded.
        kept: tokens before a window that stay with it.
    """

    index: int
    group: CacheGroup
    chunk_blocks: int
    chunk_tokens: int
    window_chunks: int | None
    alignment: int | None
    interval: int | None
    drafts: bool = False
    kept: int = 0

    @property
    def hands_on(self) -> bool:
        """Whether its chunks are stored when the device publishes them, not as they are computed."""
        return self.group.kind == "mamba"

    @property
    def sparse(self) -> bool:
        """Whether some blocks that are there need not be stored."""
        size = self.group.block_size
        return self.group.kind == "sliding" and self.alignment is not None and not self.alignment % size

    def window_before(self, tokens: int) -> int | None:
        """Chunks that a load ending after ``tokens`` brings; None: all of them.

        The device keeps the window before the very end, which may begin a chunk earlier than that of whole
        chunks.
        """
        window = self.window_chunks
        if window is None or self.group.kind != "sliding":
            return window
        size = self.chunk_tokens
        return max(window, -(-(self.group.window - 1 + self.kept + -tokens % size) // size))

    def reachable(self, start: int, stop: int, horizon: int | None, boundaries: Iterable[int]) -> set[int]:
        """Which of blocks ``start .. stop`` of a ``sparse`` group a load could need.

        Args:
            horizon: the last load, as far as it is known, ends after so many blocks.
            boundaries: tokens after which a hit is expected; None of these counts without an interval.
        """
        size, alignment = self.group.block_size, self.alignment
        assert alignment is not None
        needed = -(-(self.group.window - 1 + self.kept) // size) + self.drafts
        kept = set(
            retained_blocks(
                start, stop, needed=needed, block_size=size, alignment=alignment, interval=self.interval,
                boundaries=boundaries, behind=int(self.drafts),
            )
        )  # fmt: skip
        if horizon is not None and not self.drafts:
            segment = horizon - horizon % (alignment // size)
            kept.update(range(max(start, segment, horizon - needed), min(stop, horizon)))
        return kept


def layouts(config: EngineConfig, chunk_blocks: int, kept: int = 0) -> tuple[GroupLayout, ...]:
    """Of all groups of an engine that keeps so many tokens before windows."""
    full = {group.block_size for group in config.groups if group.kind == "full"}
    if full:
        alignment = full.pop() * chunk_blocks if len(full) == 1 else None
    else:
        alignment = max(group.block_size for group in config.groups) * chunk_blocks
    return tuple(
        GroupLayout(
            index, group, chunk_blocks, group.block_size * chunk_blocks,
            _window_chunks(group, group.block_size * chunk_blocks, kept), alignment,
            config.retention_interval, group.drafts, kept,
        )
        for index, group in enumerate(config.groups)
    )  # fmt: skip


def _window_chunks(group: CacheGroup, chunk_tokens: int, kept: int) -> int | None:
    if group.kind == "full":
        return None
    if group.kind == "mamba":
        return 1
    seen = max(group.window, group.window - 1 + kept) if group.kind == "sliding" else group.window
    return -(-seen // chunk_tokens)


def in_order_of_look_up(groups: Sequence[GroupLayout]) -> tuple[list[GroupLayout], list[GroupLayout]]:
    """Full attention, and the others: the widest window first."""
    full = [group for group in groups if group.window_chunks is None]
    windows = [group for group in groups if group.window_chunks is not None]
    windows.sort(key=lambda group: -(group.window_chunks or 0))
    return full, windows
