"""A request and a batch, as the oracle of SGLang's scheduler sees them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvplan.engine.reference.radix import TokenNode, Tokens, TokenTree
from kvplan.engine.sglang.radix_tree import Holding
from kvplan.traces.request import Request


class SglangState:
    """One request (``Req``)."""

    def __init__(self, request: Request, tree: TokenTree) -> None:
        self.request = request
        self.content = tree.content(request)
        self.prompt_tokens = request.prompt_tokens
        self.max_new_tokens = request.output_tokens
        self.outputs = 0
        self.holding: Holding[TokenNode, Tokens] | None = None
        self.prefix = 0
        """Tokens with KV before this step (``prefix_indices``)."""
        self.extend_end = 0
        """Tokens with KV when everything scheduled has run (``kv_committed_len``)."""
        self.mark = 0
        """What ``hold`` answered, for ``let_go``."""
        self.filled = self.matched = 0
        """Tokens it had when it was last looked at, and how many of them were cached; stale as in SGLang
        (``full_untruncated_fill_ids``, ``prefix_len``)."""
        self.queued = self.queued_after = 0
        """When it entered the queue: position (``wait_queue_entry_time``), ``arrival_processed_tokens``."""
        self.aborted = self.gone = False
        """Whether its client has given up, and whether the output after that has come: its last one."""
        self.cached_tokens = -1
        self.preemptions = 0
        self.scheduled_s = -1.0
        self.first_token_s = -1.0

    @property
    def tokens(self) -> int:
        """Known tokens: prompt and outputs."""
        return self.prompt_tokens + self.outputs

    @property
    def finished(self) -> bool:
        """Whether the last token is there."""
        return self.gone or self.outputs >= self.max_new_tokens

    @property
    def held(self) -> Holding[TokenNode, Tokens]:
        """What it has in pool and tree, while it has something."""
        assert self.holding is not None
        return self.holding


@dataclass(slots=True)
class SglangPlan:
    """One batch. ``extends``: requests in prefill, in batch order; ``decodes``: requests taking one token;
    ``refused``: who is aborted, as it does not fit alone."""

    extends: list[SglangState] = field(default_factory=list)
    decodes: list[SglangState] = field(default_factory=list)
    before: dict[SglangState, int] = field(default_factory=dict)
    after: dict[SglangState, int] = field(default_factory=dict)
    chunked: SglangState | None = None
    retracted: list[SglangState] = field(default_factory=list)
    refused: list[SglangState] = field(default_factory=list)
    free: int = 0
    running: int = 0
    waiting: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is to be executed."""
        return not self.extends and not self.decodes

    @property
    def tokens(self) -> int:
        """Tokens all requests compute in this batch."""
        return sum(self.after[state] - before for state, before in self.before.items())

    def tokens_of(self, state: SglangState) -> int:
        """Tokens the request computes in this batch."""
        return self.after[state] - self.before[state]
