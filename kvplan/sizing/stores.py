"""A store: one kind of thing one layer keeps for a sequence, and how long it keeps it.

A layer of plain attention has one store (its K and V); a sparse MLA layer has two (latents, indexer keys);
a DeepSeek-V4 layer has up to six. Variants decide which stores exist (``attention``), retention how many
tokens of each survive (``retention``), sharding divides them (``sharding``). All arithmetic is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Literal

from kvplan.specs.formats import KvFormat

Reach = Literal["context", "window", "chunk", "encoder", "remainder"]
REACHES = {
    "context": "the context", "window": "a window", "chunk": "a chunk", "encoder": "an encoder's tokens",
    "remainder": "a remainder", "state": "a state",
}  # fmt: skip
"""What layers keep, in words; a state is of no tokens."""


@dataclass(frozen=True, slots=True)
class Heads:
    """K and V of ``count`` heads in a number format: ``k_dim`` and ``v_dim`` elements each."""

    count: int
    k_dim: int
    v_dim: int
    form: KvFormat

    def bytes(self, entries: int) -> int:
        """Exact bytes of that many entries."""
        if self.form.row_multiple > 1:
            return int(self.bytes_per_entry()) * entries
        return self.form.k.bytes(entries, self.count, self.k_dim) + self.form.v.bytes(
            entries, self.count, self.v_dim
        )

    def bytes_per_entry(self) -> Fraction:
        """Bytes of one further entry at a very long context."""
        if self.form.row_multiple > 1:
            row = self.form.k.bytes_per_token(1, self.k_dim) + self.form.v.bytes_per_token(1, self.v_dim)
            return Fraction(self.count * ceil(row / self.form.row_multiple) * self.form.row_multiple)
        return self.form.k.bytes_per_token(self.count, self.k_dim) + self.form.v.bytes_per_token(
            self.count, self.v_dim
        )

    @property
    def formula(self) -> str:
        """``8 heads x (128 x 2 + 128 x 2)``."""
        sides = [self.form.k.formula(self.k_dim)] if self.k_dim else []
        sides += [self.form.v.formula(self.v_dim)] if self.v_dim else []
        if len(sides) == 2 and sides[0] == sides[1]:
            plain = f"2 (K,V) x {self.count} heads x "
            return plain + (sides[0] if "+" not in sides[0] else f"({sides[0]})")
        return f"{self.count} heads x ({' + '.join(sides)})"


@dataclass(frozen=True, slots=True)
class Packed:
    """Entries of a fixed size, whatever they hold: MLA latents, indexer keys, compressor inputs."""

    entry_bytes: Fraction
    formula: str

    def bytes(self, entries: int) -> int:
        """Exact bytes of that many entries, rounded up to a whole byte."""
        total = self.entry_bytes * entries
        return -(-total.numerator // total.denominator)

    def bytes_per_entry(self) -> Fraction:
        """Bytes of one further entry."""
        return self.entry_bytes


@dataclass(frozen=True, slots=True)
class Store:
    """What one layer keeps of one kind.

    Attributes:
        name: what it is: ``K and V``, ``latent``, ``indexer keys`` ...
        content: bytes of its entries.
        reach: which tokens it covers: the whole context, a window, a chunk, the encoder's tokens, or the
            remainder of the context that does not fill a group of ``limit`` tokens.
        limit: window, chunk or group size, or the number of encoder tokens; 0 for the whole context.
        tokens_per_entry: tokens that one entry stands for (compressed caches: 4, 128).
        page_tokens: block size an engine fixes for this store; 0 = the engine's common block size.
        page_alignment: engines pad a page of this store to a multiple of so many bytes.
        split_heads: tensor parallelism divides the heads; otherwise every rank holds a copy.
        source: where layout and size are from.
    """

    name: str
    content: Heads | Packed
    reach: Reach = "context"
    limit: int = 0
    tokens_per_entry: int = 1
    page_tokens: int = 0
    page_alignment: int = 1
    split_heads: bool = True
    source: str = "kvplan"

    def bytes(self, tokens: int) -> int:
        """Exact bytes when ``tokens`` tokens of this store are kept."""
        return self.content.bytes(tokens // self.tokens_per_entry)

    def bytes_per_token(self) -> Fraction:
        """Bytes of one further token while the store grows, page padding included."""
        if self.page_alignment > 1 and self.page_tokens:
            return Fraction(self.page_bytes(self.page_tokens), self.page_tokens)
        return self.content.bytes_per_entry() / self.tokens_per_entry

    def page_bytes(self, block_tokens: int) -> int:
        """Bytes of one page (one block of one layer) of ``block_tokens`` tokens, padded to its alignment.

        Pages hold codes and scales; a full-precision residual is per sequence, not per page.
        """
        per_token = self.content.bytes_per_entry() / self.tokens_per_entry
        total = per_token * block_tokens
        size = -(-total.numerator // total.denominator)
        return -(-size // self.page_alignment) * self.page_alignment

    def block_tokens(self, block_size: int) -> int:
        """Tokens of one block: the store's own page size, or the engine's."""
        return self.page_tokens or block_size

    def with_heads(self, count: int) -> Store:
        """The same store with another number of heads (one tensor-parallel rank's share)."""
        if isinstance(self.content, Packed):
            return self
        return replace(self, content=replace(self.content, count=count))
