"""Numbering blocks by their content and everything before it, as prefix caches identify them."""

from __future__ import annotations

from typing import TypeAlias

from kvplan.traces.request import TokenRun, TokenRuns

BlockContent: TypeAlias = int | TokenRuns
"""The first token id of a block that is one run of consecutive ids; otherwise its runs."""


def cut(runs: TokenRuns, tokens: int) -> tuple[TokenRuns, TokenRuns]:
    """The runs before and after the first ``tokens`` tokens."""
    before: list[TokenRun] = []
    for place, (start, length) in enumerate(runs):
        if length >= tokens:
            if tokens:
                before.append((start, tokens))
            rest = ((start + tokens, length - tokens),) if length > tokens else ()
            return tuple(before), rest + runs[place + 1 :]
        before.append((start, length))
        tokens -= length
    return tuple(before), ()


def block_contents(runs: TokenRuns, block_size: int) -> list[BlockContent]:
    """Contents of the complete blocks of a prompt, in order; a partial last block is left out."""
    found: list[BlockContent] = []
    begun: list[TokenRun] = []
    room = block_size
    for start, length in runs:
        if begun:
            taken = min(room, length)
            begun.append((start, taken))
            room -= taken
            if room:
                continue
            found.append(tuple(begun))
            begun, room = [], block_size
            start, length = start + taken, length - taken
        whole = length // block_size * block_size
        found.extend(range(start, start + whole, block_size))
        if length > whole:
            begun = [(start + whole, length - whole)]
            room = block_size - (length - whole)
    return found


class BlockChains:
    """Gives every distinct (prefix, block) the next number from 0; a partial last block is one too."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._numbers: dict[tuple[int, BlockContent], int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, runs: TokenRuns, tokens: int, *, partial: bool) -> list[int]:
        """Numbers of the blocks of a prompt of ``tokens`` tokens, in order.

        ``partial`` includes the last block when it is not full; it never equals a full block.
        """
        numbers = self._numbers
        whole = tokens // self.block_size * self.block_size
        contents = block_contents(runs, self.block_size)
        if partial and whole < tokens:
            contents.append(cut(runs, whole)[1])
        chain: list[int] = []
        parent = -1
        for content in contents:
            key = (parent, content)
            number = numbers.get(key)
            if number is None:
                number = numbers[key] = len(numbers)
            chain.append(number)
            parent = number
        return chain
