"""What a prefix cache alone would hit: one request at a time, no clock, no outputs, no batch.

Convention (the one of ``traces.reuse``): requests in order of arrival, looked up and then inserted at once;
a prompt of L tokens is ``ceil(L / B)`` blocks, the partial last one an item of its own that only the very
same prompt can hit; a hit is a block of the leading run that is there when the request comes. All blocks of
a request are in the pool while it is served; of one that has more blocks than the pool only as many as fit,
from the beginning. The caches are the engine's own: the same index, the same policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kvplan.engine.content import Content
from kvplan.engine.live import LiveRequest
from kvplan.engine.replacement.choice import prefix_index
from kvplan.engine.replacement.foresight import Foresight
from kvplan.errors import UsageError
from kvplan.traces.request import Request, TokenRuns
from kvplan.traces.reuse import ContentBound, Reuse

PADDING = 1 << 62
"""A partial last block is filled up with tokens from ``-PADDING - n`` on: no trace has negative ones."""

MAX_RUNS = 20_000_000
"""Most token runs of prompts that are kept in memory (some 100 bytes each)."""


@dataclass(frozen=True, slots=True)
class References:
    """The prompts of a workload as whole blocks, in order of arrival, and what an unbounded cache hits.

    Attributes:
        block_size: tokens per block.
        prompts: requests whose prompts are filled up to whole blocks.
        tokens: real tokens of each prompt.
        bound: reuse under a cache without bounds.
    """

    block_size: int
    prompts: Sequence[Request]
    tokens: Sequence[int]
    bound: Reuse


@dataclass(frozen=True, slots=True)
class CacheHits:
    """What one policy gets at one capacity.

    Attributes:
        hit_blocks: references to blocks that were there, out of ``References.bound.block_refs``.
        hit_tokens: prompt tokens an engine would not have to compute: complete blocks only, and at least
            one token of every prompt is computed.
        evicted_blocks: blocks that had to go.
        cut_requests: requests with more blocks than the pool.
    """

    hit_blocks: int
    hit_tokens: int
    evicted_blocks: int
    cut_requests: int


def collect(requests: Iterable[Request], block_size: int, *, most_runs: int = MAX_RUNS) -> References:
    """Keep what a replay needs of a workload.

    Raises:
        UsageError: it is too long to be kept in memory.
    """
    bound = ContentBound(block_size)
    prompts: list[Request] = []
    tokens: list[int] = []
    runs = 0
    for number, request in enumerate(requests):
        bound.add(request)
        prompt = _filled_up(request.prompt, request.prompt_tokens, block_size)
        runs += len(prompt)
        if runs > most_runs:
            raise UsageError(
                f"the prompts of more than {number:,} requests do not fit in memory here",
                hint="use the first requests only (--limit)",
            )
        blocks = -(-request.prompt_tokens // block_size)
        tokens.append(request.prompt_tokens)
        prompts.append(
            Request(
                str(number), request.arrival_s, prompt, blocks * block_size, (), 1,
                request.priority, request.session,
            )
        )  # fmt: skip
    return References(block_size, prompts, tokens, bound.result())


def _filled_up(prompt: TokenRuns, tokens: int, block_size: int) -> TokenRuns:
    missing = -tokens % block_size
    return (*prompt, (-PADDING - tokens, missing)) if missing else prompt


def replay(references: References, blocks: int, eviction: str) -> CacheHits:
    """Play the references through a cache of ``blocks`` blocks.

    Raises:
        UnknownName: no such policy. UsageError: no blocks, or too many requests for ``belady``.
    """
    if blocks < 1:
        raise UsageError(f"a cache of {blocks} blocks holds nothing", hint="give it at least 1 block")
    size = references.block_size
    foresight = _foresee(references, blocks) if eviction == "belady" else None
    index = prefix_index(eviction, size, blocks, foresight)
    hit_blocks = hit_tokens = cut = 0
    for request, tokens in _paired(references):
        live = LiveRequest(request, index.root)
        wanted = request.prompt_tokens // size
        if wanted > blocks:
            wanted = blocks
            cut += 1
        match = index.match(live.content, wanted)
        found = match.blocks
        index.hold(live, match)
        index.take(wanted - found)
        index.publish(live, wanted)
        index.release(live, wanted)
        hit_blocks += found
        hit_tokens += min(found, (tokens - 1) // size) * size
    return CacheHits(hit_blocks, hit_tokens, index.pool.evicted, cut)


def _paired(references: References) -> Iterator[tuple[Request, int]]:
    return zip(references.prompts, references.tokens, strict=True)


def _foresee(references: References, blocks: int) -> Foresight:
    foresight = Foresight(references.block_size)
    for request in references.prompts:
        wanted = min(request.prompt_tokens // references.block_size, blocks)
        foresight.add(request.id, Content(request.prompt, ()), wanted)
    return foresight
