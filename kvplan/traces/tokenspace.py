"""Which integers stand for which tokens, so that content from different origins never collides.

    [0, 2**40)         block ids of a trace times the block size, synthetic prompts' shared parts
    [2**40, 2**61)     answers a trace does not spell out (``request.default_output``)
    [2**61, 2**62)     text no other request has: UNIQUE_BASE + owner * UNIQUE_STRIDE + k
    [2**62, 2**63)     block ids too wide (or negative) to be used as they are, interned

All fit a signed 64-bit integer, so that an engine may pack them.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.traces.request import OUTPUT_BASE, OUTPUT_STRIDE, TokenRun, TokenRuns

UNIQUE_BASE = 1 << 61
UNIQUE_STRIDE = 1 << 30
INTERNED_BASE = 1 << 62

MAX_PROMPT_TOKENS = UNIQUE_STRIDE // 2
"""Longest prompt a reader accepts (2**29 tokens); the longest real one known has 894,371."""

MAX_OUTPUT_TOKENS = OUTPUT_STRIDE - 1
"""Longest answer a reader accepts: one more would run into the next answer's token ids."""

MAX_REQUESTS = 1 << 31
"""Most requests in one trace: their unique token ranges end where the interned ids begin."""


def unique_run(owner: int, length: int, offset: int = 0) -> TokenRun:
    """A run of tokens that only ``owner`` (a request or session index) has."""
    return (UNIQUE_BASE + owner * UNIQUE_STRIDE + offset, length)


class BlockIds:
    """Turns a trace's block ids into token runs.

    An id h is the tokens ``h * block_size ...`` while these stay below 2**40; any other integer (64-bit
    hashes, negative ids) is given the next number of a range of its own. Ids are never cut to fewer
    bits: that would merge prefixes that differ.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._plain = OUTPUT_BASE // block_size
        self._interned: dict[tuple[int, int], int] = {}
        self._offset = 0
        self._highest = 0

    def new_scope(self) -> None:
        """From here on the same ids mean other blocks (ids local to a session)."""
        self._offset += self._highest + 1
        self._highest = 0

    def runs(self, ids: Sequence[int], prompt_tokens: int, owner: int) -> TokenRuns | None:
        """Content of a prompt of ``prompt_tokens`` tokens whose blocks are ``ids``.

        With ``ceil(prompt_tokens / block_size)`` ids the last block may be partial; with ``floor`` of it
        the tokens after the last whole block are unique to ``owner``. Any other count gives ``None``.
        """
        block = self.block_size
        whole, rest = divmod(prompt_tokens, block)
        count = len(ids)
        if count != whole and not (rest and count == whole + 1):
            return None
        runs: list[TokenRun] = []
        if count:
            offset = self._offset
            highest = max(ids)
            if min(ids) < 0 or highest + offset >= self._plain:
                ids = [self._number(h) for h in ids]
            elif highest > self._highest:
                self._highest = highest
            first = following = ids[0]
            for h in ids:
                if h != following:
                    runs.append(((first + offset) * block, (following - first) * block))
                    first = h
                following = h + 1
            last = (following - first) * block
            if count > whole:
                last -= block - rest
            runs.append(((first + offset) * block, last))
        if rest and count == whole:
            runs.append(unique_run(owner, rest))
        return tuple(runs)

    def _number(self, h: int) -> int:
        """``h``, or what stands for it; less the offset, which the caller adds again."""
        if 0 <= h < self._plain - self._offset:
            self._highest = max(self._highest, h)
            return h
        number = self._interned.get((self._offset, h))
        if number is None:
            number = INTERNED_BASE // self.block_size + len(self._interned) + 1
            self._interned[self._offset, h] = number
        return number - self._offset
