"""Which integers stand for which tokens, so that content from different origins never collides.

    [0, 2**40)                     block ids of a trace times the block size; texts that prompts share
    [2**40, 2**61)                 answers a trace does not spell out (``request.default_output``)
    [2**61, 2**61 + 2**59)         text of one owner: a synthetic conversation and nobody else
    [2**61 + 2**59, 2**61 + 2**60) the end of a prompt after its last block with an id
    [2**61 + 2**60, 2**62)         prompts a trace says nothing about but their length
    [2**62, 2**63)                 block ids too wide (or negative) to be used as they are, interned

All fit a signed 64-bit integer, so that an engine may pack them.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.traces.request import OUTPUT_BASE, OUTPUT_STRIDE, Request, TokenRun, TokenRuns, default_output

OWN_BASE = 1 << 61
UNHASHED_BASE = OWN_BASE + (1 << 59)
UNKNOWN_BASE = OWN_BASE + (1 << 60)
INTERNED_BASE = 1 << 62

STRIDE = 1 << 30
"""Token ids set aside for each owner."""

MAX_PROMPT_TOKENS = STRIDE // 2
"""Longest prompt a reader accepts (2**29 tokens); the longest real one known has 894,371."""

MAX_OUTPUT_TOKENS = OUTPUT_STRIDE - 1
"""Longest answer a reader accepts: one more would run into the next answer's token ids."""

MAX_REQUESTS = 1 << 29
"""Most requests in one trace: each needs a stride of its own."""


def own_run(owner: int, length: int, offset: int = 0) -> TokenRun:
    """Tokens that only one conversation has, ``offset`` tokens into all its text."""
    return (OWN_BASE + owner * STRIDE + offset, length)


def unhashed_run(index: int, length: int) -> TokenRun:
    """The end of the prompt of request ``index``, which no block id covers: nothing can share it."""
    return (UNHASHED_BASE + index * STRIDE, length)


def unknown_run(index: int, length: int) -> TokenRun:
    """The prompt of request ``index`` of a trace without ids: taken as its own, for want of knowledge."""
    return (UNKNOWN_BASE + index * STRIDE, length)


def unknown_request(
    index: int,
    arrival_s: float,
    prompt_tokens: int,
    output_tokens: int,
    priority: int = 0,
    session: str | None = None,
) -> Request:
    """Request ``index`` of a trace that says how long its prompt and answer are, not what they contain."""
    prompt, output = (unknown_run(index, prompt_tokens),), default_output(index, output_tokens)
    return Request(
        f"{index:06d}", arrival_s, prompt, prompt_tokens, output, output_tokens, priority, session
    )  # fmt: skip


def is_unhashed(run: TokenRun) -> bool:
    """Whether no block id covers these tokens, though the trace has ids."""
    return UNHASHED_BASE <= run[0] < UNKNOWN_BASE


def is_unknown(run: TokenRun) -> bool:
    """Whether the trace says nothing about these tokens."""
    return UNKNOWN_BASE <= run[0] < INTERNED_BASE


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

    def runs(self, ids: Sequence[int], prompt_tokens: int, index: int) -> TokenRuns | None:
        """Content of a prompt of ``prompt_tokens`` tokens whose blocks are ``ids``.

        With ``ceil(prompt_tokens / block_size)`` ids the last block may be partial; with ``floor`` of it
        the tokens after the last whole block are unhashed, request ``index``'s own. Any other count gives
        ``None``.
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
            runs.append(unhashed_run(index, rest))
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
