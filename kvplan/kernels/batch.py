"""Which tokens of which sequences a call is about: block tables, lengths, and where new tokens go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.errors import UsageError


@dataclass(slots=True, eq=False)
class PagedBatch:
    """Sequences and their pages.

    Attributes:
        block_table: int32 [B, pages]: page i of a sequence holds its tokens ``i*BS .. i*BS+BS-1``. Entries
            past a sequence's last token are never read.
        lengths: int32 [B], cached tokens of each sequence, new ones included.
        query_starts: int32 [B+1], offsets of each sequence's new tokens in the packed token dimension T
            (``query_starts[B] == T``); ``None`` for decode, one new token each.
        max_query: upper bound on the new tokens of one sequence.
        rows: int32 [B], row of each sequence in the residual ring (KIVI); ``None`` for ``0..B-1``.
    """

    block_table: Tensor
    lengths: Tensor
    query_starts: Tensor | None = None
    max_query: int = 1
    rows: Tensor | None = None

    @classmethod
    def build(
        cls,
        block_table: Tensor,
        lengths: Tensor,
        query_lengths: list[int] | None = None,
        rows: Tensor | None = None,
    ) -> PagedBatch:
        """A batch from host-side query lengths (``None`` for decode)."""
        if query_lengths is None:
            return cls(block_table, lengths, None, 1, rows)
        starts = torch.tensor([0, *query_lengths]).cumsum(0).int().to(lengths.device)
        return cls(block_table, lengths, starts, max(query_lengths, default=0), rows)

    @property
    def sequences(self) -> int:
        """B."""
        return self.lengths.shape[0]

    def starts(self) -> Tensor:
        """``query_starts``, also for decode."""
        if self.query_starts is not None:
            return self.query_starts
        return torch.arange(self.sequences + 1, dtype=torch.int32, device=self.lengths.device)

    def ring_rows(self) -> Tensor:
        """``rows``, also when they were left out."""
        if self.rows is not None:
            return self.rows
        return torch.arange(self.sequences, dtype=torch.int32, device=self.lengths.device)

    def slots(self, block_size: int, tokens: int) -> Tensor:
        """Where each of the T new tokens goes: int64 [T], ``page * BS + offset``. No device
        synchronisation."""
        starts = self.starts()
        token = torch.arange(tokens, device=self.lengths.device)
        owner = torch.searchsorted(starts[1:].contiguous(), token.int(), right=True).clamp_max(
            self.sequences - 1
        )
        fresh = starts[1:] - starts[:-1]
        position = (self.lengths - fresh)[owner] + (token - starts[:-1][owner])
        page = self.block_table[owner, position // block_size].long()
        return page * block_size + position % block_size

    def validate(self) -> None:
        """Check shapes, dtypes and devices; not the numbers, which lie on the device (``validate_contents``).

        Raises:
            UsageError: saying which argument is wrong and what is accepted.
        """
        batch = self.lengths.shape[0] if self.lengths.dim() == 1 else -1
        wanted = {"block_table": 2, "lengths": 1, "query_starts": 1, "rows": 1}
        for name, dims in wanted.items():
            t = getattr(self, name)
            if t is None:
                continue
            if t.dtype != torch.int32:
                raise UsageError(f"{name} must be int32, not {str(t.dtype).removeprefix('torch.')}")
            if t.dim() != dims or t.shape[0] != batch + (name == "query_starts"):
                raise UsageError(f"{name} has shape {list(t.shape)}, which does not match {batch} sequences")
            if t.device != self.lengths.device:
                raise UsageError(f"{name} lies on {t.device}, but lengths on {self.lengths.device}")
            if t.stride(-1) != 1:
                raise UsageError(f"{name} must be contiguous along its last dimension")

    def validate_contents(self, num_blocks: int, block_size: int) -> None:
        """Check lengths and block ids against a cache; waits for the device.

        Raises:
            UsageError: naming the sequence and the number that does not fit.
        """
        lengths = self.lengths.tolist()
        table = self.block_table.cpu()
        for b, length in enumerate(lengths):
            pages = -(-length // block_size)
            if length < 0 or pages > table.shape[1]:
                raise UsageError(
                    f"sequence {b} has {length} tokens, but block_table holds {table.shape[1]} pages "
                    f"of {block_size}"
                )
            used = table[b, :pages]
            if pages and (int(used.min()) < 0 or int(used.max()) >= num_blocks):
                bad = int(used[(used < 0) | (used >= num_blocks)][0])
                raise UsageError(
                    f"sequence {b} names block {bad}, outside the {num_blocks} blocks of the cache"
                )
        if self.query_starts is not None:
            starts = self.query_starts.tolist()
            for b, length in enumerate(lengths):
                fresh = starts[b + 1] - starts[b]
                if fresh < 0 or fresh > length or fresh > self.max_query:
                    raise UsageError(
                        f"sequence {b} has {fresh} new tokens of {length}, with max_query {self.max_query}"
                    )
