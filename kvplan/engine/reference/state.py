"""One request inside the reference engine."""

from __future__ import annotations

from enum import Enum, auto

from kvplan.traces.request import Request, TokenRun, join_runs


class Status(Enum):
    """Where a request is in its life."""

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    FINISHED = auto()


class PrefixChain:
    """Interns block contents, so that two equal prefixes have one small integer identity.

    Exact where an engine hashes: no collisions, no dependence on a hash function.
    """

    def __init__(self) -> None:
        self._ids: dict[tuple[int, tuple[TokenRun, ...]], int] = {}

    def extend(self, parent: int, block: tuple[TokenRun, ...]) -> int:
        """Identity of the prefix that ends with ``block`` after the prefix ``parent`` (0: the empty one)."""
        return self._ids.setdefault((parent, block), len(self._ids) + 1)


class RequestState:
    """Counters of one request, under the names of vLLM's ``Request``.

    ``num_tokens`` counts the known tokens: prompt and outputs sampled so far. ``placeholders`` counts
    outputs of steps in flight (async scheduling only); ``stale`` counts outputs in flight when the request
    was preempted, which will still be delivered but no longer count as placeholders.
    """

    def __init__(self, request: Request, index: int, num_groups: int) -> None:
        self.request = request
        self.index = index
        self.prompt_tokens = request.prompt_tokens
        self.max_tokens = request.output_tokens
        self.num_tokens = request.prompt_tokens
        self.num_computed = 0
        self.placeholders = 0
        self.stale = 0
        self.status = Status.WAITING
        self.is_prefill_chunk = True
        self.blocks: list[list[int]] = [[] for _ in range(num_groups)]
        self.num_published = [0] * num_groups
        self.shared_prefix_boundary = 0
        self.cached_tokens = -1
        self.preemptions = 0
        self.scheduled_s = -1.0
        self.first_token_s = -1.0
        self.finish_s = -1.0
        self._content = join_runs((*request.prompt, *request.output))
        self._chain: list[int] = []

    @property
    def num_output_tokens(self) -> int:
        """Outputs sampled and delivered so far."""
        return self.num_tokens - self.prompt_tokens

    def prefix_ids(self, chain: PrefixChain, hash_block: int) -> list[int]:
        """Identities of the prefixes ending at each full hash block of the known tokens."""
        ids = self._chain
        while len(ids) < self.num_tokens // hash_block:
            start = len(ids) * hash_block
            parent = ids[-1] if ids else 0
            ids.append(chain.extend(parent, cut_runs(self._content, start, start + hash_block)))
        return ids


def cut_runs(runs: tuple[TokenRun, ...], start: int, stop: int) -> tuple[TokenRun, ...]:
    """The runs of tokens ``start .. stop`` (positions, half open) of some content."""
    cut = []
    position = 0
    for first, length in runs:
        low, high = max(start, position), min(stop, position + length)
        if low < high:
            cut.append((first + low - position, high - low))
        position += length
        if position >= stop:
            break
    return tuple(cut)
