"""One request inside the reference engine."""

from __future__ import annotations

from bisect import bisect_left
from enum import Enum, auto

from kvplan.traces.request import Request, TokenRuns, count_tokens, join_runs

_POSITION_BITS = 40
"""Token positions stay below 2**40, so a prefix is named by one integer: run id and position."""


class Status(Enum):
    """Where a request is in its life."""

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    FINISHED = auto()


class PrefixChain:
    """Interns run sequences, so that two equal prefixes have one integer identity.

    Exact where an engine hashes: no collisions, no dependence on a hash function. Content is a sequence of
    maximal runs of consecutive token ids, so equal prefixes consist of equal runs, the last one cut at the
    same position. What names a prefix is therefore the run its last token lies in, wherever that run may
    end, together with all runs before it.
    """

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int, int], int] = {}

    def extend(self, parent: int, position: int, first_token: int) -> int:
        """Identity of the run that begins at ``position`` with ``first_token`` after ``parent`` (0: none)."""
        return self._ids.setdefault((parent, position, first_token), len(self._ids) + 1)


class RequestState:
    """Counters of one request, under the names of vLLM's ``Request``.

    ``num_tokens`` counts the known tokens: prompt and outputs sampled so far. ``in_flight`` counts tokens of
    steps that are scheduled and not delivered. ``placeholders`` counts outputs of steps in flight (async
    scheduling only); ``stale`` counts outputs in flight when the request was preempted, which will still be
    delivered but no longer count as placeholders.

    Per cache group: ``blocks`` is the block table (null entries included), ``num_published`` how many of its
    entries publication has dealt with, ``num_dropped`` how many a state group has given back or passed over.
    ``shared_prefix_boundary`` is where the last look-up found a
    prefix that some group had and another had not kept; 0 when there was none. As long as no more than
    ``settled_until`` tokens are to be covered, no group takes or gives back a block; ``published_tokens`` are
    those whose blocks publication has dealt with in every group. ``cut_tokens`` were behind its prompt.
    """

    def __init__(self, request: Request, index: int, num_groups: int) -> None:
        self.request = request
        self.index = index
        self.prompt_tokens = request.prompt_tokens
        self.max_tokens = request.output_tokens
        self.num_tokens = request.prompt_tokens
        self.num_computed = 0
        self.in_flight = 0
        self.placeholders = 0
        self.stale = 0
        self.status = Status.WAITING
        self.is_prefill_chunk = True
        self.blocks: list[list[int]] = [[] for _ in range(num_groups)]
        self.num_published = [0] * num_groups
        self.num_dropped = [0] * num_groups
        self.published_tokens = 0
        self.settled_until = 0
        self.shared_prefix_boundary = 0
        self.cached_tokens = -1
        self.preemptions = 0
        self.scheduled_s = -1.0
        self.first_token_s = -1.0
        self.finish_s = -1.0
        self.cut_tokens = 0
        self._contains((*request.prompt, *request.output))

    def _contains(self, runs: TokenRuns) -> None:
        self._runs = join_runs(runs)
        self._ends: list[int] = []
        position = 0
        for _, length in self._runs:
            position += length
            self._ends.append(position)
        self._run_ids: list[int] = []

    def cut_from(self, prompt: TokenRuns) -> None:
        """Its prompt is the beginning of this one, all of whose blocks were hashed before it was cut."""
        self.cut_tokens = count_tokens(prompt) - self.prompt_tokens
        self._contains(prompt)

    @property
    def num_output_tokens(self) -> int:
        """Outputs sampled and delivered so far."""
        return self.num_tokens - self.prompt_tokens

    def prefix_id(self, chain: PrefixChain, tokens: int) -> int:
        """Identity of the first ``tokens`` tokens, all of which must be known (at least one)."""
        run = bisect_left(self._ends, tokens)
        ids = self._run_ids
        while len(ids) <= run:
            start = self._ends[len(ids) - 1] if ids else 0
            ids.append(chain.extend(ids[-1] if ids else 0, start, self._runs[len(ids)][0]))
        return ids[run] << _POSITION_BITS | tokens
