"""One request, and the content of its tokens.

Content is what prefix sharing depends on, so it must be exact, and a 100,000-token prompt must not cost
100,000 Python objects. Tokens are therefore identified by integers, and a prompt is a sequence of *runs*
of consecutive integers: the run ``(start, length)`` stands for the tokens ``start, start + 1, ...``. Two
prompts share a prefix exactly as far as their token integers agree. A Mooncake block with ``hash_id`` h is
the run ``(512 * h, 512)``; a synthetic system prompt is one run; a list of real token ids is as many runs
as it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

TokenRun: TypeAlias = tuple[int, int]
"""``(first token id, number of consecutive token ids)``; the length is at least 1."""

TokenRuns: TypeAlias = tuple[TokenRun, ...]

OUTPUT_BASE = 1 << 40
"""Outputs that a trace does not spell out are the tokens ``OUTPUT_BASE + index * OUTPUT_STRIDE + k``."""

OUTPUT_STRIDE = 1 << 20


class Request(NamedTuple):
    """One request as the front end of an engine receives it; a tuple, because a million of them are made.

    Attributes:
        id: unique within a trace.
        arrival_s: seconds since the start of the trace, finite and not negative.
        prompt: token content of the prompt.
        prompt_tokens: number of tokens in ``prompt``, at least 1.
        output: token content of the answer; an engine may only look at a token after sampling it.
        output_tokens: number of tokens the answer will have, at least 1.
        priority: as its client says it, 0 unless it does: vLLM serves the lowest number first, SGLang the
            highest unless told otherwise, and both only where they are asked to look at it.
        session: conversation the request belongs to, or ``None``.
        follows: id of the earlier request whose answer its sender waited for, and seconds from that answer
            to this request; ``None`` where the workload says nothing of the kind.
    """

    id: str
    arrival_s: float
    prompt: TokenRuns
    prompt_tokens: int
    output: TokenRuns
    output_tokens: int
    priority: int = 0
    session: str | None = None
    follows: tuple[str, float] | None = None


def default_output(index: int, output_tokens: int) -> TokenRuns:
    """Content of an answer the trace does not spell out: tokens no other request has.

    ``index`` is the request's position in the trace, from 0; answers of 2**20 tokens or more take the
    room of their successors' ids and are refused by the readers.
    """
    return ((OUTPUT_BASE + index * OUTPUT_STRIDE, output_tokens),)


def runs_of(tokens: Iterable[int]) -> TokenRuns:
    """Token ids as maximal runs of consecutive integers."""
    runs: list[TokenRun] = []
    start = length = 0
    for token in tokens:
        if length and token == start + length:
            length += 1
        else:
            if length:
                runs.append((start, length))
            start, length = token, 1
    if length:
        runs.append((start, length))
    return tuple(runs)


def join_runs(runs: Iterable[TokenRun]) -> TokenRuns:
    """Merge neighbours that continue each other, so that equal content has equal runs."""
    joined: list[TokenRun] = []
    for start, length in runs:
        if joined and joined[-1][0] + joined[-1][1] == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return tuple(joined)


def count_tokens(runs: TokenRuns) -> int:
    """Number of tokens in the runs."""
    return sum(length for _, length in runs)


def iterate_tokens(runs: TokenRuns) -> Iterator[int]:
    """Every token id in order (for tests and small inputs)."""
    for start, length in runs:
        yield from range(start, start + length)
